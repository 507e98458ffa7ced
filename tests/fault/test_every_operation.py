"""Fail, then crash, every single disk operation and every bus call of each line.

For each index the same history is played again, up to the cut. Afterwards a new labctl recovers,
and the host must be wholly old or wholly new. The loop ends at the index where nothing was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agent.model.errors import ExitCode, LabctlError
from agent.model.plan import Rendered
from tests.fakes.disk import Crash
from tests.fakes.host import PATHS, FakeHost
from tests.fakes.labs import FIRST, KEY, SECOND
from tests.fault.invariants import assert_quiet, assert_whole, attempt

UNIT_FILE = f"{PATHS.units}/alpha.service"
FOREIGN = b"[Service]\nExecStart=/opt/alpha\n"


def _deploy(host: FakeHost, rendered: Rendered = FIRST) -> None:
    host.deployer.deploy(rendered, reason="test", digest_key=KEY)


def _with_foreign_unit(host: FakeHost) -> None:
    """A user's own unit stands, is enabled and runs where the lab wants one."""
    wants = f"{PATHS.units}/default.target.wants"
    host.disk.make_all(wants)
    host.disk.link(f"{wants}/alpha.service", UNIT_FILE)
    host.disk.sync_folder(wants)
    host.disk.create(UNIT_FILE, FOREIGN, 0o644)
    host.disk.sync_folder(PATHS.units)
    host.units.reload()
    host.units._job(
        __import__("agent.model.plan", fromlist=["Action"]).Action.START, "alpha.service"
    )


@dataclass(frozen=True)
class Line:
    """One thing a user does, what came before it, and where it may end."""

    name: str
    before: Callable[[FakeHost], None]
    act: Callable[[FakeHost], object]
    ends: frozenset[int | None]


def _deployed(host: FakeHost) -> None:
    _deploy(host)


def _deployed_over_foreign_unit(host: FakeHost) -> None:
    _with_foreign_unit(host)
    _deploy(host)


def _deployed_twice(host: FakeHost) -> None:
    _deploy(host)
    _deploy(host, SECOND)


def _deployed_three_times(host: FakeHost) -> None:
    _deployed_twice(host)
    _deploy(host)


def _failing_deploy(host: FakeHost) -> object:
    """The new settings fail their completion; the old ones pass it again."""

    def look(action: object, unit: str) -> None:
        del action, unit
        current = host.store.current()
        new = current is not None and current.manifest.digest == SECOND.digest
        host.prober.broken = {"model-alpha"} if new else set()

    host.units.on_job = look
    return host.deployer.deploy(SECOND, reason="fails", digest_key=KEY)


def _prune(host: FakeHost) -> None:
    for generation in host.store.prunable(1):
        host.store.remove(generation)


LINES = [
    Line(
        "first deploy, adopting a unit that runs",
        _with_foreign_unit,
        _deploy,
        frozenset({None, 0, 1}),
    ),
    Line("changed deploy", _deployed, lambda h: _deploy(h, SECOND), frozenset({1, 2})),
    Line("failing deploy", _deployed, _failing_deploy, frozenset({1})),
    Line(
        "rollback",
        _deployed_twice,
        lambda h: h.deployer.rollback(None, reason=""),
        frozenset({2, 3}),
    ),
    Line(
        "rollback to what was adopted",
        _deployed_over_foreign_unit,
        lambda h: h.deployer.rollback(0, reason=""),
        frozenset({1, 2}),
    ),
    Line(
        "prune",
        _deployed_three_times,
        _prune,
        frozenset({3}),
    ),
]
LINE_IDS = [line.name for line in LINES]


def _played(line: Line) -> FakeHost:
    host = FakeHost()
    line.before(host)
    host.disk.arm()
    host.units.calls.clear()
    return host


def _recovered(host: FakeHost) -> None:
    """What the next labctl of any kind does first."""
    host.disk.arm()
    host.units.crash_at = host.units.bus_dies_at = None
    host.prober.broken = set()
    host.units.on_job = lambda action, unit: None
    host.open()
    host.recoverer.recover()


@pytest.mark.parametrize("line", LINES, ids=LINE_IDS)
@pytest.mark.parametrize("after", ["process killed", "power lost"])
def test_a_crash_at_any_disk_operation_is_recovered(line: Line, after: str) -> None:
    index = 0
    while True:
        host = _played(line)
        host.disk.arm(crash_at=index)
        error = attempt(lambda host=host: line.act(host))
        if error is None:
            break
        assert isinstance(error, Crash)
        if after == "power lost":
            host.reboot()
        _recovered(host)
        _assert_old_or_new(host, line)
        index += 1
    assert index > 3


@pytest.mark.parametrize("line", LINES, ids=LINE_IDS)
def test_a_failure_of_any_disk_operation_loses_nothing(line: Line) -> None:
    index = 0
    while True:
        host = _played(line)
        host.disk.arm(fail_at=index)
        error = attempt(lambda host=host: line.act(host))
        cut = host.disk.operations > index
        assert not isinstance(error, Crash)
        if isinstance(error, LabctlError):
            assert error.message
            assert error.exit_code in (
                ExitCode.UNEXPECTED,
                ExitCode.ROLLED_BACK,
                ExitCode.ROLLBACK_FAILED,
            )
        if not cut:
            break
        _recovered(host)
        _assert_old_or_new(host, line)
        index += 1
    assert index > 3


@pytest.mark.parametrize("line", LINES[:-1], ids=LINE_IDS[:-1])
def test_a_crash_at_any_bus_call_is_recovered(line: Line) -> None:
    index = 0
    while True:
        host = _played(line)
        host.units.crash_at = index
        if attempt(lambda host=host: line.act(host)) is None:
            break
        _recovered(host)
        _assert_old_or_new(host, line)
        index += 1
    assert index > 5


@pytest.mark.parametrize("line", LINES[:-1], ids=LINE_IDS[:-1])
def test_a_bus_that_goes_away_loses_nothing(line: Line) -> None:
    index = 0
    while True:
        host = _played(line)
        host.units.bus_dies_at = index
        error = attempt(lambda host=host: line.act(host))
        if error is None:
            break
        assert isinstance(error, LabctlError)
        assert "bus" in error.message
        _recovered(host)
        _assert_old_or_new(host, line)
        index += 1
    assert index > 5


@pytest.mark.parametrize("line", LINES[:-1], ids=LINE_IDS[:-1])
def test_a_crash_while_recovering_is_recovered(line: Line) -> None:
    """Cut the line in its middle, then cut the recovery at each of its own operations."""
    whole = _played(line)
    attempt(lambda: line.act(whole))
    middle = whole.disk.operations * 2 // 3
    index = 0
    while True:
        host = _played(line)
        host.disk.arm(crash_at=middle)
        attempt(lambda host=host: line.act(host))
        host.reboot()
        host.disk.arm(crash_at=index)
        host.prober.broken = set()
        host.units.on_job = lambda action, unit: None
        cut = attempt(host.recoverer.recover)
        if cut is None:
            break
        host.reboot()
        _recovered(host)
        _assert_old_or_new(host, line)
        index += 1


def _assert_old_or_new(host: FakeHost, line: Line) -> None:
    current = host.store.current()
    if current is None:
        assert None in line.ends
        assert_quiet(host)
        assert host.disk.read(UNIT_FILE) == FOREIGN
        return
    if current.manifest.host_files:
        assert host.disk.read(UNIT_FILE) == FOREIGN
    assert host.store.last_good() is not None
    if line.name == "first deploy, adopting a unit that runs" and current.number == 0:
        # Sealed but never begun: nothing outside the state folder was touched.
        assert "alpha.service" in host.units.running
        assert_quiet(host)
        return
    assert_whole(host, set(line.ends))
