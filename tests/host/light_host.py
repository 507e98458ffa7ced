"""Throw-away hosts seen from Python: a private user manager (`light`) or a whole boot (`full`).

Both are driven through their scripts, `hold` in particular: the script takes the host down when
its standard input closes, so that a killed test run leaves nothing behind.
"""

from __future__ import annotations

import compileall
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

SCRIPTS = Path(__file__).resolve().parent
CHECKOUT = "/run/checkout"
BACKEND_KINDS = ("litellm", "llamacpp-python", "llamacpp-native")
# Taken when the run starts: the tests' own environment is made to lead nowhere.
_OUTER_ENVIRONMENT = dict(os.environ)
_BOOT_TIMEOUT_S = 60.0


class HostUnavailable(Exception):
    """This machine cannot boot such a host; the text says why."""


class Spawned:
    """A command running inside, in the background. Close it, or let the host's end kill it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself, not to the shell that entered the host.

        Raises:
            ProcessLookupError: the command has ended, or is not started yet.
        """
        outer = self.process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii").split()
        if not children:
            raise ProcessLookupError(f"nothing runs below {outer}")
        os.kill(int(children[0]), number)

    def wait(self, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Wait for its end and return what it said. A killed command has a negative status."""
        out, err = _communicate(self.process, None, timeout_s)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, err)


class LightHost:
    """A private user manager with the home `/home/lab`, booted in about half a second.

    Attributes:
        home: the user's home, seen from outside.
        user_id: the user's uid.
    """

    script: ClassVar[Path] = SCRIPTS / "light"
    _base: ClassVar[str] = f"/tmp/labctl-light-{os.getuid()}"
    _home_below: ClassVar[str] = "home"

    def __init__(self, name: str, binds_ro: Mapping[Path, str] | None = None) -> None:
        """`binds_ro` maps outer paths to the paths where they appear inside, read-only."""
        self.name = name
        self.home = Path(self._base, name, self._home_below)
        self.user_id = int(os.environ.get("LABCTL_LIGHT_UID", "4300")) if _root() else os.getuid()
        self._binds = [
            word
            for outer, inner in (binds_ro or {}).items()
            for word in ("--bind-ro", f"{outer}:{inner}")
        ]
        self._holder: subprocess.Popen[str] | None = None

    @classmethod
    def require(cls) -> None:
        """Raise `HostUnavailable` where such a host cannot boot."""
        answer = _call([str(cls.script), "can"], timeout_s=10)
        if answer.returncode:
            raise HostUnavailable(answer.stderr.strip() or "unknown reason")

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            [str(self.script), "hold", self.name, *self._binds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_OUTER_ENVIRONMENT,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        ready, _, _ = select.select([self._holder.stdout], [], [], _BOOT_TIMEOUT_S)
        if not ready or self._holder.stdout.readline().strip() != "ready":
            _, err = _communicate(self._holder, None, 20)
            raise HostUnavailable(f"{self.name} did not boot: {err.strip()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._holder is not None:
            _communicate(self._holder, None, 30)  # closes its standard input
            self._holder = None

    def reboot(self) -> None:
        """Kill everything inside at once, keep the home and the journal, boot again."""
        self._verb("reboot", timeout_s=_BOOT_TIMEOUT_S)

    # --- commands -------------------------------------------------------------------------------

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, in its home. With `check` a failure shows its output.

        Raises:
            AssertionError: `check` and a status other than 0.
            subprocess.TimeoutExpired: it ran longer than `timeout` seconds; it is killed.
        """
        done = _call(self.command(*argv, env=env), timeout_s=timeout, text_in=input)
        if check:
            assert done.returncode == 0, _told(argv, done)
        return done

    def spawn(self, *argv: str, env: Mapping[str, str] | None = None) -> Spawned:
        """Start a command as the user in the background."""
        return Spawned(_popen(self.command(*argv, env=env)))

    def root(self, *argv: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root: for file systems that fill up or turn read-only."""
        return self._verb("root", "--", *argv, timeout_s=timeout)

    def labctl(
        self,
        *arguments: str,
        check: bool = False,
        input: str | None = None,
        timeout: float = 180.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run labctl as the user types it; by default any exit status is an answer."""
        return self.run("labctl", *arguments, check=check, input=input, timeout=timeout, env=env)

    def spawn_labctl(self, *arguments: str, env: Mapping[str, str] | None = None) -> Spawned:
        return self.spawn("labctl", *arguments, env=env)

    # --- files ----------------------------------------------------------------------------------

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> Path:
        """Write a file of the user. `path` is relative to the home. Returns the outer path."""
        target = self.home / path
        for folder in reversed([p for p in target.parents if self.home in p.parents]):
            if not folder.exists():
                folder.mkdir()
                self._give(folder)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        target.chmod(mode)
        self._give(target)
        return target

    def copy(self, source: Path, path: str) -> Path:
        """Copy a file from outside to the user's home, permission bits included."""
        return self.write(path, source.read_bytes(), source.stat().st_mode & 0o777)

    def read(self, path: str) -> str:
        """A file of the user as text; `path` is relative to the home."""
        return (self.home / path).read_text(encoding="utf-8")

    def install_checkout(self, python: Path, backends: Path | None) -> None:
        """Make `labctl` runnable from the checkout, and link the backends where it looks for them.

        `python` is the test environment's interpreter, bound at its own path; `backends` the folder
        that holds one environment a kind, bound likewise.
        """
        self.write(
            ".local/bin/labctl",
            f"#!/bin/sh\nPYTHONPATH={CHECKOUT} PYTHONDONTWRITEBYTECODE=1 exec {python} "
            '-c \'import sys; sys.argv[0] = "labctl"; from agent.cli.entry import main; '
            'sys.exit(main())\' "$@"\n',
            mode=0o755,
        )
        if backends is not None:
            self.write(".local/share/labctl/.keep", "")
            link = self.home / ".local/share/labctl/backends"
            link.symlink_to(backends)
            self._give(link)

    def _give(self, path: Path) -> None:
        if _root():
            os.chown(path, self.user_id, self.user_id, follow_symlinks=False)

    def command(self, *argv: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `argv` inside as the user."""
        extra = ["env", *(f"{name}={value}" for name, value in env.items())] if env else []
        return [str(self.script), "exec", self.name, "--", *extra, *argv]

    def _verb(self, verb: str, *words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        done = _call([str(self.script), verb, self.name, *words], timeout_s=timeout_s)
        assert done.returncode == 0, _told((verb, *words), done)
        return done


class FullHost(LightHost):
    """A whole boot of systemd with logind, a journal and a lingering user; root only."""

    script = SCRIPTS / "full"
    _base = "/tmp/labctl-full"
    _home_below = "disk/home/lab"


def snapshot_checkout(source: Path, target: Path) -> Path:
    """Copy what runs of the checkout, compiled, so that edits during a run cannot mix versions."""
    target.mkdir(parents=True)
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("agent", "config", "units", "tests", "requirements", "docs"):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=skip)
    for name in ("pyproject.toml", "install.sh", "README.md", "CHANGELOG.md"):
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
    compileall.compile_dir(target / "agent", quiet=2)
    return target


def python_binds(python: Path) -> dict[Path, str]:
    """The folders that an interpreter needs to run inside, each at its own path."""
    prefixes = {python.parent.parent, Path(os.path.realpath(python)).parent.parent}
    return {prefix: str(prefix) for prefix in prefixes if prefix != Path("/usr")}


def _root() -> bool:
    return os.getuid() == 0


def _popen(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a host script in a process group of its own, which a timeout can kill whole."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_OUTER_ENVIRONMENT,
        start_new_session=True,
    )


def _communicate(
    process: subprocess.Popen[str], text_in: str | None, timeout_s: float
) -> tuple[str, str]:
    try:
        return process.communicate(text_in, timeout=timeout_s)
    except subprocess.TimeoutExpired as expired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=10)
        raise subprocess.TimeoutExpired(process.args, timeout_s, out, err) from expired


def _call(
    argv: Sequence[str], timeout_s: float, text_in: str | None = None
) -> subprocess.CompletedProcess[str]:
    process = _popen(argv)
    out, err = _communicate(process, text_in, timeout_s)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _told(argv: Sequence[str], done: subprocess.CompletedProcess[str]) -> str:
    return f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
