"""What must hold after recovery, wherever the line was cut."""

from __future__ import annotations

from agent.deploy.placements import Placements
from agent.model.errors import LabctlError
from tests.fakes.host import FakeHost


def assert_whole(host: FakeHost, allowed: set[int | None]) -> None:
    """The host is wholly one of the allowed generations, and recovering again changes nothing."""
    host.disk.arm()
    current = host.store.current()
    number = current.number if current else None
    assert number in allowed, f"current is {number}, allowed are {allowed}"
    assert host.store.record() is None, "the record is still open"
    if current is not None:
        assert host.store.edited(current) == ()
        assert Placements(host.disk, host.store).wrong(current) == ()
        for spec in current.manifest.services:
            process = host.units.running.get(spec.unit)
            if spec.active:
                assert process is not None, f"{spec.unit} does not run"
                assert process.inputs == spec.inputs, f"{spec.unit} runs with other inputs"
            else:
                assert process is None, f"{spec.unit} runs, and did not before"
    assert_quiet(host)


def assert_quiet(host: FakeHost) -> None:
    """A second recovery finds nothing and writes nothing."""
    host.disk.arm()
    jobs = [call for call in host.units.calls if call.split()[0] in ("start", "stop", "restart")]
    assert host.recoverer.recover() is None
    assert host.disk.operations == 0, host.disk.log
    after = [call for call in host.units.calls if call.split()[0] in ("start", "stop", "restart")]
    assert jobs == after


def attempt(action: object) -> BaseException | None:
    """Run an action that may be cut short. Only errors made for people may come out."""
    from tests.fakes.disk import Crash

    assert callable(action)
    try:
        action()
    except (LabctlError, Crash) as error:
        return error
    return None
