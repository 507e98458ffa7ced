"""What every test gets: an environment that leads nowhere, and throw-away hosts on request.

`LABCTL_REQUIRE_HOST=1` makes a host that cannot boot a failure instead of a skip, and
`LABCTL_NO_SKIPS=1` makes any skip fail the run; `./install.sh test` sets them in CI.
"""

from __future__ import annotations

import itertools
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.light_host import (
    BACKEND_KINDS,
    CHECKOUT,
    FullHost,
    HostUnavailable,
    LightHost,
    python_binds,
    snapshot_checkout,
)

ROOT = Path(__file__).resolve().parent.parent
# Set by the test that runs a folder of tests inside a light host, where the bus is the host's own.
INSIDE = os.environ.get("LABCTL_INSIDE") == "1"
REAL_HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or REAL_HOME / ".cache") / "labctl"
BACKENDS = Path(os.environ.get("LABCTL_TEST_BACKENDS") or CACHE / "backends")

collect_ignore_glob = [] if INSIDE else ["integration/inside/*"]
_numbers = itertools.count(1)


# --- nothing real is touched --------------------------------------------------------------------


class _Guard:
    """An audit hook that refuses to open the real home, bus or GPU while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self._refused = (f"{REAL_HOME}/", f"/run/user/{os.getuid()}/", "/dev/nvidia", "/dev/dri/")
        interpreter = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
        self._allowed = tuple(f"{path}/" for path in (*interpreter, ROOT, CACHE, BACKENDS.parent))

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.armed or event not in ("open", "socket.connect", "os.mkdir", "os.rename"):
            return
        for word in arguments:
            if isinstance(word, str) and self._is_refused(word):
                raise PermissionError(f"a test reached for the real host: {event} {word}")

    def _is_refused(self, path: str) -> bool:
        return path.startswith(self._refused) and not path.startswith(self._allowed)


_GUARD = _Guard()


@pytest.fixture(scope="session", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the session an empty home and dead bus addresses, and arm the guard."""
    if INSIDE:
        yield
        return
    empty = tmp_path_factory.mktemp("nowhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(empty))
        patch.setenv("XDG_RUNTIME_DIR", str(empty / "no-runtime"))
        patch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={empty}/no-bus")
        patch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={empty}/no-bus")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "LABCTL_LAB"):
            patch.delenv(name, raising=False)
        sys.addaudithook(_GUARD)
        _GUARD.armed = True
        yield
        _GUARD.armed = False


# --- throw-away hosts ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled copy of the checkout, readable for the user inside."""
    folder = tmp_path_factory.mktemp("checkout")
    return snapshot_checkout(ROOT, folder / "checkout")


@pytest.fixture(scope="session")
def backends() -> Path:
    """The folder with one environment of a real backend each; `./install.sh test` makes it."""
    absent = [kind for kind in BACKEND_KINDS if not (BACKENDS / kind / "bin").is_dir()]
    if absent:
        _unavailable(f"no {', '.join(absent)} below {BACKENDS}: run through ./install.sh test")
    return BACKENDS


@pytest.fixture
def host(checkout: Path, backends: Path) -> Iterator[LightHost]:
    """A fresh light host with labctl and the real backends."""
    python = Path(sys.executable)
    binds = {checkout: CHECKOUT, **python_binds(python), backends.parent: str(backends.parent)}
    with _booted(LightHost(_name(), binds)) as light:
        light.install_checkout(python, backends)
        yield light


@pytest.fixture
def bare_host(checkout: Path) -> Iterator[LightHost]:
    """A fresh light host with labctl and without any backend."""
    python = Path(sys.executable)
    with _booted(LightHost(_name(), {checkout: CHECKOUT, **python_binds(python)})) as light:
        light.install_checkout(python, None)
        yield light


def _name() -> str:
    return f"t{os.getpid()}-{next(_numbers)}"


def _booted(machine: LightHost) -> LightHost:
    try:
        machine.require()
    except HostUnavailable as reason:
        _unavailable(f"{type(machine).__name__} cannot boot here: {reason}")
    return machine


def _unavailable(reason: str) -> None:
    """Skip, or fail where the run was told that everything must be there."""
    if os.environ.get("LABCTL_REQUIRE_HOST") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def full_host(checkout: Path, backends: Path) -> Iterator[FullHost]:
    """A fresh machine with a whole boot, the checkout and the wheels that an install needs."""
    cache = backends.parent
    wheels = cache / "wheelhouse"
    if not wheels.is_dir():
        _unavailable(f"no wheels in {wheels}: run through ./install.sh test")
    binds = {checkout: CHECKOUT, wheels.resolve(): "/run/wheelhouse", cache: str(cache)}
    with _booted(FullHost(_name(), binds)) as full:
        assert isinstance(full, FullHost)
        yield full


# --- a skip is not a pass -----------------------------------------------------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With LABCTL_NO_SKIPS=1 a run with skips has failed; the summary names them."""
    if os.environ.get("LABCTL_NO_SKIPS") == "1" and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("LABCTL_NO_SKIPS") != "1":
        return
    for name, reason in _skipped(terminalreporter.config):
        terminalreporter.write_line(f"SKIPPED where nothing may be: {name}: {reason}", red=True)


def _skipped(config: pytest.Config) -> list[tuple[str, str]]:
    """The id and the reason of every test that was skipped."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter is not None else []
    return [(report.nodeid, str(report.longrepr)) for report in reports]
