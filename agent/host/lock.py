"""One labctl at a time works on a host."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from types import TracebackType

from agent.host.clock import SystemClock
from agent.host.disk import LocalDisk
from agent.model.errors import DiskFailure, LabctlError, LockHeld

_ATTEMPTS = 5


class HostLock:
    """A context manager around flock: the kernel frees it however its holder dies.

    `runtime_dir` is made if it is missing, 0700. `lock` in it is what is locked;
    `lock-holder.json` says who holds it, for people only: nobody decides by it.
    """

    def __init__(self, runtime_dir: str, verb: str, since: str | None = None) -> None:
        self._folder = runtime_dir
        self._verb = verb
        self._since = since or SystemClock().now().isoformat(timespec="seconds")
        self._disk = LocalDisk()
        self._descriptor: int | None = None

    def __enter__(self) -> HostLock:
        self._make_folder()
        self._descriptor = self._acquire()
        self._leave_note()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, LabctlError):
            self._disk.remove(self._note)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def _path(self) -> str:
        return f"{self._folder}/lock"

    @property
    def _note(self) -> str:
        return f"{self._folder}/lock-holder.json"

    def _make_folder(self) -> None:
        missing = []
        folder = self._folder
        while self._disk.entry(folder) is None and folder != "/":
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            self._disk.make_folder(folder, 0o700)
        status = os.stat(self._folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise LabctlError(
                f"{self._folder} is not a folder of yours, so the lock in it guards nothing",
                hint=f"look at it with `ls -ld {self._folder}`, and do not run labctl with sudo",
            )

    def _acquire(self) -> int:
        for _ in range(_ATTEMPTS):
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Somebody may have removed the file between the open and the lock.
                standing = os.stat(self._path)
                if os.path.samestat(standing, os.fstat(descriptor)):
                    return descriptor
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                raise self._held() from None
            except FileNotFoundError:
                os.close(descriptor)
        raise LockHeld(f"{self._path} is replaced again and again", hint="see what removes it")

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self._path, flags)
        except FileNotFoundError:
            with contextlib.suppress(DiskFailure):  # another labctl may be quicker
                self._disk.create(self._path, b"", 0o600)
        except OSError as error:
            raise DiskFailure(
                f"cannot open the lock {self._path}: {error.strerror}",
                hint=f"check its owner with `ls -l {self._path}`",
            ) from error
        try:
            return os.open(self._path, flags)
        except OSError as error:
            raise DiskFailure(
                f"cannot make the lock {self._path}: {error.strerror}",
                hint=f"see `df -h {self._folder}` and `ls -ld {self._folder}`",
            ) from error

    def _leave_note(self) -> None:
        """Say who holds the lock. It is a courtesy: a full disk must not stop a rollback."""
        note = {"pid": os.getpid(), "verb": self._verb, "since": self._since}
        draft = f"{self._note}.{os.getpid()}"
        with contextlib.suppress(LabctlError, OSError):
            if self._disk.entry(draft) is not None:
                self._disk.remove(draft)
            self._disk.create(draft, json.dumps(note).encode(), 0o600)
            self._disk.rename(draft, self._note)

    def _held(self) -> LockHeld:
        who = "another labctl"
        with contextlib.suppress(LabctlError, OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._disk.read(self._note))
            who = f"`labctl {note['verb']}` (pid {int(note['pid'])}, since {note['since']})"
        return LockHeld(
            f"{who} works on this host right now",
            hint="wait until it has ended, then try again; nothing was touched",
        )
