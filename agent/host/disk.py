"""The disk. The only module of the product that changes it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from agent.model.errors import DiskFailure
from agent.model.host import Entry, EntryKind

READ_LIMIT_BYTES = 64 << 20

_HINTS = {
    errno.ENOSPC: "the file system is full: see `df -h` and `df -i`, free some space, try again",
    errno.EDQUOT: "your disk quota is used up: see `quota`, free some space, try again",
    errno.EROFS: "the file system is mounted read-only: see `findmnt` and the kernel log (`dmesg`)",
    errno.EACCES: "check the owner and the permissions of the folder with `ls -ld`",
    errno.EPERM: "check the owner and the attributes of the file with `ls -l` and `lsattr`",
    errno.EFBIG: "the file is larger than the limit that `ulimit -f` shows",
    errno.EIO: "the disk reports an error: see `dmesg` before anything else is written to it",
    errno.EEXIST: "something stands at that path: look at it with `ls -ld`",
    errno.ENOENT: "a folder on the way to that path is missing",
    errno.ENOTDIR: "a part of that path is not a folder",
    errno.EMFILE: "too many open files: see `ulimit -n`",
}


def _failure(verb: str, path: str, error: OSError) -> DiskFailure:
    words = os.strerror(error.errno) if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0, "see the kernel log (`dmesg`) and `df -h`")
    return DiskFailure(f"cannot {verb} {path}: {words}", hint=hint)


@contextlib.contextmanager
def _explained(verb: str, path: str, *, missing_passes: bool = False) -> Iterator[None]:
    """Turn an OSError into a `DiskFailure`; with `missing_passes` a missing path stays itself."""
    try:
        yield
    except FileNotFoundError as error:
        if missing_passes:
            raise
        raise _failure(verb, path, error) from error
    except OSError as error:
        raise _failure(verb, path, error) from error


class LocalDisk:
    """The file system of this host. Paths are absolute.

    `read`, `target`, `names`, `remove` and `remove_folder` of a missing path raise
    `FileNotFoundError`; every other failure is a `DiskFailure`.
    """

    def entry(self, path: str) -> Entry | None:
        """What stands at `path`, not following a link; None where nothing does."""
        try:
            with _explained("look at", path, missing_passes=True):
                status = os.lstat(path)
        except FileNotFoundError:
            return None
        return Entry(_kind(status.st_mode), stat.S_IMODE(status.st_mode), status.st_size)

    def read(self, path: str) -> bytes:
        """The bytes of a regular file, links followed, at most `READ_LIMIT_BYTES`."""
        with _explained("read", path, missing_passes=True):
            # O_NONBLOCK: opening a FIFO that nobody writes to must not hang a deploy.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise DiskFailure(
                        f"cannot read {path}: it is not a regular file",
                        hint="put a regular file, or a link to one, in its place",
                    )
                data = _read_up_to(descriptor, READ_LIMIT_BYTES + 1)
            finally:
                os.close(descriptor)
        if len(data) > READ_LIMIT_BYTES:
            raise DiskFailure(
                f"cannot read {path}: it is larger than {READ_LIMIT_BYTES >> 20} MiB",
                hint="that is no configuration file: check the path",
            )
        return data

    def target(self, path: str) -> str:
        """Where a symbolic link points, exactly as it stands on disk."""
        with _explained("read the link", path, missing_passes=True):
            return os.readlink(path)

    def names(self, path: str) -> tuple[str, ...]:
        """The names in a folder, sorted."""
        with _explained("list", path, missing_passes=True):
            return tuple(sorted(os.listdir(path)))

    def create(self, path: str, data: bytes, mode: int) -> None:
        """Write a new file with exactly `mode` and fsync it; on failure nothing is left."""
        with _explained("create", path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                try:
                    _write_all(descriptor, data)
                    os.fchmod(descriptor, mode)  # the umask has taken part in os.open
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                raise

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link at a path where nothing stands."""
        with _explained("link", path):
            os.symlink(target, path)

    def rename(self, old: str, new: str) -> None:
        """Rename atomically; a file or link at `new` is replaced."""
        with _explained(f"rename {old} to", new):
            os.replace(old, new)

    def remove(self, path: str) -> None:
        """Remove a file or a link, never a folder."""
        with _explained("remove", path, missing_passes=True):
            os.unlink(path)

    def make_folder(self, path: str, mode: int) -> None:
        """Make one folder with exactly `mode`; an existing folder is left as it is."""
        with _explained("make the folder", path):
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                if stat.S_ISDIR(os.stat(path).st_mode):
                    return
                raise
            os.chmod(path, mode)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        with _explained("remove the folder", path, missing_passes=True):
            os.rmdir(path)

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable. A failure is fatal: nothing is known after it."""
        with _explained("sync", path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    if stat.S_ISLNK(mode):
        return EntryKind.LINK
    return EntryKind.FOLDER if stat.S_ISDIR(mode) else EntryKind.OTHER


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_up_to(descriptor: int, limit: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(limit)
