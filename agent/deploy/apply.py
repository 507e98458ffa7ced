"""Carry out a plan's waves, and wait until each service answers or has failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.deploy.ports import Ports
from agent.model.generation import JudgeSettings, ServiceSpec
from agent.model.host import Progress, UnitState
from agent.model.placed import ServicePlacement
from agent.model.plan import Action, Step
from agent.model.verdict import Health, ProbeKind, Sample

JOB_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 2.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5
RELEASE_TIMEOUT_S = 10.0
LOG_LINES = 20
LOG_READS = 8
LOG_PAUSE_S = 0.1


@dataclass(slots=True)
class _Wait:
    """One service that is on its way up."""

    spec: ServiceSpec
    began: float
    moved: float
    progress: Progress | None = None
    said: str = "it did not answer yet"


class Applier:
    """Runs the steps of a plan over the service manager."""

    def __init__(
        self, ports: Ports, judge: JudgeSettings, placements: Sequence[ServicePlacement] = ()
    ) -> None:
        self._ports = ports
        self._judge = judge
        self._placed = {placed.service: placed for placed in placements}

    def run(
        self, waves: Sequence[Sequence[Step]], *, to_the_end: bool = False
    ) -> tuple[Sample, ...]:
        """Carry out wave after wave. Stops at the first wave in which a required service failed,
        unless `to_the_end` asks for all that still can serve.

        Returns a sample for every service that failed; none when all answer.
        """
        failed: list[Sample] = []
        for wave in waves:
            failed += self._wave(wave)
            if not to_the_end and any(sample.required for sample in failed):
                break
        return tuple(failed)

    def _wave(self, wave: Sequence[Step]) -> list[Sample]:
        units = [step.service.unit for step in wave]
        self._ports.units.reset_failed(units)
        failed: list[Sample] = []
        rising: list[ServiceSpec] = []
        for action in (Action.STOP, Action.START, Action.RESTART):
            group = [step for step in wave if step.action is action]
            if not group:
                continue
            for step in group:
                self._say(step)
            specs = [step.service for step in group]
            if action is Action.START:
                specs = self._with_room(specs, failed)
            results = self._ports.units.run(action, [s.unit for s in specs], JOB_TIMEOUT_S)
            for spec in specs:
                result = results.get(spec.unit, "no answer from systemd")
                if result != "done":
                    failed.append(self.failure(spec, f"{action} job: {result}"))
                elif action is not Action.STOP:
                    rising.append(spec)
        return failed + self.await_answers(rising)

    def _with_room(self, specs: list[ServiceSpec], failed: list[Sample]) -> list[ServiceSpec]:
        """Those for which their GPUs have room; the others join `failed`.

        What a stopped unit held is given back a moment after its end, so it is waited for.
        """
        until = self._ports.clock.monotonic() + RELEASE_TIMEOUT_S
        ready = []
        for spec in specs:
            placed = self._placed.get(spec.name)
            short = self._ports.offload.waiting_for(placed) if placed else ()
            while placed and short and self._ports.clock.monotonic() < until:
                self._ports.units.wait(LONGEST_PAUSE_S)
                short = self._ports.offload.waiting_for(placed)
            if short:
                failed.append(self.failure(spec, "; ".join(short)))
            else:
                ready.append(spec)
        return ready

    def await_answers(self, specs: Sequence[ServiceSpec]) -> list[Sample]:
        """Wait until each service answers its cheap probe. Deadlines follow progress.

        A service has failed when
        1. its unit failed or is being restarted by systemd,
        2. nothing about its processes moved for `stall_timeout_s`, or
        3. `start_timeout_s` is over, progress or not.
        """
        now = self._ports.clock.monotonic()
        waiting = [_Wait(spec, began=now, moved=now) for spec in specs]
        failed: list[Sample] = []
        pause = FIRST_PAUSE_S
        while waiting:
            states = self._ports.units.states([w.spec.unit for w in waiting])
            still: list[_Wait] = []
            for wait in waiting:
                done, sample = self._look(wait, states[wait.spec.unit])
                if sample is not None:
                    failed.append(sample)
                elif not done:
                    still.append(wait)
            waiting = still
            if waiting:
                self._ports.units.wait(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_S)
        return failed

    def _look(self, wait: _Wait, state: UnitState) -> tuple[bool, Sample | None]:
        """(answers, failure) of one waiting service."""
        spec = wait.spec
        if state.broken or state.active == "inactive":
            return False, self.failure(spec, "its process ended while it was starting")
        if state.running and self._answers(wait):
            return True, None
        late = self._late(wait, state)
        return False, self.failure(spec, late, timed_out=True) if late else None

    def _answers(self, wait: _Wait) -> bool:
        """Whether the unit itself answers its cheap probe; `wait.said` keeps what it said."""
        spec = wait.spec
        if spec.kind is None and not spec.listens:
            return True  # a foreign unit without a port has nothing to ask
        sample = self._ports.prober.health(spec, PROBE_TIMEOUT_S)
        stranger = self._stranger(spec) if sample.good else ""
        wait.said = stranger or sample.detail
        if stranger or not sample.good:
            return False
        took = self._ports.clock.monotonic() - wait.began
        detail = f"{spec.name} answers after {took:.1f} s"
        self._ports.reporter.step("answers", detail, service=spec.name)
        return True

    def _late(self, wait: _Wait, state: UnitState) -> str:
        """Why waiting longer is in vain; empty while there is hope."""
        now = self._ports.clock.monotonic()
        progress = self._ports.processes.progress(state)
        before = wait.progress
        if progress is not None and (before is None or progress.moved_since(before)):
            wait.progress, wait.moved = progress, now
        stall_s, limit_s = self._judge.stall_timeout_s, wait.spec.start_timeout_s
        if now - wait.moved >= stall_s:
            return f"no progress for {stall_s:.0f} s; last answer: {wait.said}"
        if now - wait.began >= limit_s:
            return f"not up after {limit_s:.0f} s; last answer: {wait.said}"
        return ""

    def _stranger(self, spec: ServiceSpec) -> str:
        """Who else answers on the service's port; empty when it is the unit itself, or unknown."""
        holder = self._ports.processes.holder(spec.port) if spec.port is not None else None
        if holder is None or holder.unit is None or holder.unit == spec.unit:
            return ""
        return f"port {spec.port} is held by {holder}"

    def failure(self, spec: ServiceSpec, what: str, *, timed_out: bool = False) -> Sample:
        """A sample that says how the unit failed, with its exit status and last journal lines."""
        state = self._ports.units.states([spec.unit])[spec.unit]
        ending = f" ({state.ending})" if state.ending else ""
        holder = (
            self._ports.processes.holder(spec.port) if spec.port and not state.running else None
        )
        held = f"; port {spec.port} is held by {holder}" if holder is not None else ""
        return Sample(
            probe=ProbeKind.UNIT,
            subject=spec.name,
            health=Health.TIMED_OUT if timed_out else Health.UNHEALTHY,
            detail=f"{spec.unit}: {what}{ending}{held}",
            log_tail=self._last_words(state),
            required=spec.required,
        )

    def _last_words(self, state: UnitState) -> tuple[str, ...]:
        """The run's last journal lines. What a process wrote reaches the journal after systemd's
        word of its end, so they are read until they stop changing."""
        said: tuple[str, ...] = ()
        for _ in range(LOG_READS):
            before, said = said, self._ports.journal.tail(state.unit, LOG_LINES, state.invocation)
            if said and said == before:
                break
            self._ports.units.wait(LOG_PAUSE_S)
        return said

    def _say(self, step: Step) -> None:
        self._ports.reporter.step(
            str(step.action), f"{step}", service=step.service.name, why=step.why
        )
