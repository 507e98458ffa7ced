"""Reading pieces of a large file on this disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.model.errors import DiskFailure


@contextmanager
def open_pieces(path: str) -> Iterator[tuple[Callable[[int, int], bytes], int]]:
    """`read(offset, size)` over the regular file at `path`, and its bytes.

    Raises `DiskFailure` when it cannot be opened, is no file, or a read fails.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("it is no file")

            def read(offset: int, wanted: int) -> bytes:
                return os.pread(descriptor, wanted, offset)

            yield read, status.st_size
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise DiskFailure(
            f"cannot read the model {path}: {getattr(error, 'strerror', None) or error}",
            hint="check the path in lab.yaml, and that your user may read the file",
        ) from error
