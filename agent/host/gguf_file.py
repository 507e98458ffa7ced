"""Reading the header of a model on this disk, all its parts together."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from agent.gpu.facts import model_facts
from agent.gpu.gguf import DamagedGguf, GgufHeader, read_header
from agent.model.errors import DiskFailure
from agent.model.gguf import ModelFacts

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z", re.DOTALL)
_MOST_PARTS = 1000


def read_model(path: str) -> ModelFacts:
    """The facts of the model at `path`; for a split model that is the path of its first part.

    Links are followed, and parts are looked for beside the file that the link leads to where they
    are not beside the link. Raises `DamagedGguf` for a file that cannot be trusted, `DiskFailure`
    for one that cannot be read.
    """
    first, size = _read_one(path)
    count = first.keys.get("split.count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_PARTS:
        raise DamagedGguf(f"{path} is not a usable GGUF model: split.count is {count!r}")
    if count <= 1:
        return model_facts([first], size, path)
    headers, total = [first], size
    for number, part in enumerate(_other_parts(path, first, count), start=1):
        header, part_bytes = _read_one(part)
        if header.keys.get("split.no") != number or header.keys.get("split.count") != count:
            raise DamagedGguf(
                f"{part} is not part {number + 1} of {count} of the model that {path} begins",
                hint="all parts must come from one split of one model",
            )
        headers.append(header)
        total += part_bytes
    _check_tensor_count(path, headers)
    return model_facts(headers, total, path)


def _read_one(path: str) -> tuple[GgufHeader, int]:
    """The header and the size of one file."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is no file")
            size = os.fstat(descriptor).st_size

            def read(offset: int, wanted: int) -> bytes:
                return os.pread(descriptor, wanted, offset)

            return read_header(read, size, path), size
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise DiskFailure(
            f"cannot read the model {path}: {getattr(error, 'strerror', None) or error}",
            hint="check the path in lab.yaml, and that your user may read the file",
        ) from error


def _other_parts(path: str, first: GgufHeader, count: int) -> list[str]:
    """The paths of the parts after the first, by llama.cpp's rule for their names."""
    if first.keys.get("split.no") != 0:
        raise DamagedGguf(
            f"{path} is not the first part of its model",
            hint=f"name the file that ends in -00001-of-{count:05d}.gguf",
        )
    for candidate in (path, str(Path(path).resolve())):
        named = _PART.match(candidate)
        if named is not None and named["number"] == "00001" and int(named["count"]) == count:
            stem = named["stem"]
            return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(2, count + 1)]
    raise DamagedGguf(
        f"{path} is the first of {count} parts, but its name does not say so",
        hint=f"llama.cpp wants it to end in -00001-of-{count:05d}.gguf",
    )


def _check_tensor_count(path: str, headers: list[GgufHeader]) -> None:
    claimed = headers[0].keys.get("split.tensors.count")
    found = sum(len(header.tensors) for header in headers)
    if claimed is not None and claimed != found:
        raise DamagedGguf(
            f"{path} claims {claimed} tensors, its parts have {found}",
            hint="a part is of another version of the model: download it again",
        )
