"""Carrying out waves: what counts as up, as failed, as stalled; and what a failure says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.deploy.apply import LOG_LINES, Applier
from agent.model.generation import JudgeSettings, ServiceSpec
from agent.model.host import PortHolder
from agent.model.kinds import ServiceKind
from agent.model.plan import Action, Step
from agent.model.verdict import Health, Sample
from tests.fakes.host import PATHS, FakeHost

ALPHA = ServiceSpec("alpha", "alpha.service", ServiceKind.OLLAMA, port=8080, start_timeout_s=60.0)
BETA = replace(ALPHA, name="beta", unit="beta.service", port=8081)
SETTINGS = JudgeSettings(stall_timeout_s=10.0)


def step(spec: ServiceSpec, action: Action = Action.START) -> Step:
    return Step(action, spec, "why")


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    for unit in (ALPHA.unit, BETA.unit):
        host.disk.create(f"{PATHS.units}/{unit}", f"[Service]\nExecStart={unit}\n".encode(), 0o644)
    host.units.reload()
    return host


def applied(host: FakeHost, *waves: list[Step], to_the_end: bool = False) -> tuple[Sample, ...]:
    return Applier(host.ports, SETTINGS).run(waves, to_the_end=to_the_end)


def test_waves_run_one_after_the_other_and_say_why(host: FakeHost) -> None:
    assert applied(host, [step(ALPHA)], [step(BETA)]) == ()
    assert sorted(host.units.running) == ["alpha.service", "beta.service"]
    assert [line for line in host.reporter.steps if not line.startswith("answers")] == [
        "start: start alpha.service (why)",
        "start: start beta.service (why)",
    ]
    jobs = [c for c in host.units.calls if c != "states"]
    assert jobs == [
        "reload",
        "reset_failed",
        "start alpha.service",
        "reset_failed",
        "start beta.service",
    ]


def test_a_stopped_unit_is_not_waited_for(host: FakeHost) -> None:
    applied(host, [step(ALPHA)])
    assert applied(host, [step(ALPHA, Action.STOP)]) == ()
    assert host.units.running == {}


@pytest.mark.parametrize("result", ["failed", "timeout", "canceled", "dependency"])
def test_a_job_that_is_not_done_has_failed(host: FakeHost, result: str) -> None:
    host.units.refused = {"alpha.service": result}
    (sample,) = applied(host, [step(ALPHA)])
    assert sample.detail == f"alpha.service: start job: {result}"
    assert (sample.health, sample.subject) == (Health.UNHEALTHY, "alpha")
    assert sample.log_tail == ("last words of alpha.service",)


def test_a_unit_that_systemd_does_not_know_has_failed(host: FakeHost) -> None:
    gone = replace(ALPHA, unit="gone.service")
    (sample,) = applied(host, [step(gone)])
    assert "NoSuchUnit" in sample.detail


def test_a_process_that_ends_at_once_is_seen_at_once(host: FakeHost) -> None:
    host.units.dies = {"alpha.service"}
    (sample,) = applied(host, [step(ALPHA)])
    assert sample.detail == (
        "alpha.service: its process ended while it was starting (exit status 1)"
    )
    assert host.clock.elapsed_s < 0.5


def test_auto_restart_is_a_failure_and_not_waited_out(host: FakeHost) -> None:
    host.units.restarting = {"alpha.service"}
    (sample,) = applied(host, [step(ALPHA)])
    assert sample.detail == "alpha.service: its process ended while it was starting (signal 9)"
    assert host.clock.elapsed_s < 0.5


def test_a_start_without_progress_has_failed(host: FakeHost) -> None:
    host.prober.silent = {"alpha"}
    (sample,) = applied(host, [step(ALPHA)])
    assert sample.health is Health.TIMED_OUT
    assert sample.detail == (
        "alpha.service: no progress for 10 s; last answer: alpha does not answer"
    )
    assert 10.0 <= host.clock.elapsed_s < 11.0


def test_progress_extends_the_wait_up_to_the_ceiling(host: FakeHost) -> None:
    host.prober.silent = {"alpha"}
    host.processes.moves = True
    (sample,) = applied(host, [step(ALPHA)])
    assert sample.health is Health.TIMED_OUT
    assert "alpha.service: not up after 60 s; last answer" in sample.detail
    assert 60.0 <= host.clock.elapsed_s < 61.0


def test_a_slow_start_that_moves_comes_up(host: FakeHost) -> None:
    host.prober.silent = {"alpha"}
    host.processes.moves = True

    def later() -> bool:
        if host.clock.elapsed_s > 40.0:
            host.prober.silent = set()
        return False

    host.units.on_wait = later
    assert applied(host, [step(ALPHA)]) == ()
    assert host.clock.elapsed_s > 40.0
    assert host.reporter.steps[-1].startswith("answers: alpha answers after 40.")


def test_the_holder_of_the_port_is_named(host: FakeHost) -> None:
    host.units.dies = {"alpha.service"}
    host.processes.holders = {8080: PortHolder(8080, 812, "ollama", "ollama", "ollama.service")}
    (sample,) = applied(host, [step(ALPHA)])
    assert sample.detail.endswith(
        "(exit status 1); port 8080 is held by ollama (pid 812, user ollama) in ollama.service"
    )


def test_a_failed_required_service_stops_the_next_wave(host: FakeHost) -> None:
    host.units.dies = {"alpha.service"}
    assert len(applied(host, [step(ALPHA)], [step(BETA)])) == 1
    assert host.units.running == {}


def test_to_the_end_starts_all_that_still_can(host: FakeHost) -> None:
    host.units.dies = {"alpha.service"}
    (sample,) = applied(host, [step(ALPHA)], [step(BETA)], to_the_end=True)
    assert sample.subject == "alpha"
    assert list(host.units.running) == ["beta.service"]


def test_a_failed_optional_service_stops_nothing(host: FakeHost) -> None:
    host.units.dies = {"alpha.service"}
    (sample,) = applied(host, [step(replace(ALPHA, required=False))], [step(BETA)])
    assert not sample.required
    assert list(host.units.running) == ["beta.service"]


def test_one_wave_waits_for_all_of_it_together(host: FakeHost) -> None:
    host.prober.silent = {"alpha", "beta"}
    failed = applied(host, [step(ALPHA), step(BETA)])
    assert [s.subject for s in failed] == ["alpha", "beta"]
    assert host.clock.elapsed_s < 11.0


def test_the_last_journal_lines_are_asked_for() -> None:
    assert LOG_LINES == 20
