"""Recognising a model file without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from agent.model.errors import DiskFailure

_PART_BYTES = 1 << 20


def fingerprint(path: str) -> str:
    """A digest (SHA-256, hex) that changes when a model file, or a model folder, is replaced.

    Made of the resolved path, the size, the modification time and the first and last MiB: a file
    of 40 GB takes 2 ms. A folder counts by its files' names, sizes and times. Raises
    `DiskFailure` when it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        real = Path(path).resolve(strict=True)
        digest.update(os.fsencode(real) + b"\0")
        if real.is_dir():
            for member in sorted(real.iterdir()):
                digest.update(os.fsencode(member.name) + b"\0" + _measures(member))
        elif real.is_file():  # opening a FIFO would wait for a writer
            digest.update(_measures(real))
            digest.update(_ends(real))
        else:
            raise OSError("it is neither a file nor a folder")
    except (OSError, RuntimeError, ValueError) as error:
        raise DiskFailure(
            f"cannot read the model {path}: {getattr(error, 'strerror', None) or error}",
            hint="check the path in lab.yaml, and that your user may read the file",
        ) from error
    return digest.hexdigest()


def _measures(path: Path) -> bytes:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}\0".encode()


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(_PART_BYTES)
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _PART_BYTES))
        return hashlib.sha256(first).digest() + hashlib.sha256(file.read(_PART_BYTES)).digest()
