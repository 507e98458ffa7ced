"""The line of a deploy, its undoing and its recovery.

The protocol, with what an interruption at each point leads to:

1. seal the target (and, first, what it replaces)   → nothing happened; leftovers are swept
2. begin: the record says what to go back to        → back to the fallback
3. point `current` at the target, settle the links  → back to the fallback
4. apply the plan's waves                           → back to the fallback
5. judge; write the judgement beside the target     → forward: the deploy has happened
6. close the record                                 → nothing left to do

Going back is the same as going on: point, settle, observe, plan, apply, judge, with an old
generation as the goal. It reads the record and the generations, never the lab.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.deploy.apply import JOB_TIMEOUT_S, Applier
from agent.deploy.judge import Judge, judgement
from agent.deploy.observe import observe
from agent.deploy.placements import Placements
from agent.deploy.planner import make_plan
from agent.deploy.ports import Ports, Secrets
from agent.deploy.store import Store
from agent.model.errors import (
    BusUnavailable,
    DiskFailure,
    ExitCode,
    Interrupted,
    LabctlError,
    StoreDamaged,
)
from agent.model.generation import Generation, Judgement, Manifest, Record, Standing
from agent.model.plan import Action, Step
from agent.model.verdict import Health, Outcome, OutcomeKind, Sample, Verdict

SecretReader = Callable[[Generation], Secrets]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery found and did."""

    went_to: int
    forward: bool
    swept: tuple[str, ...] = ()
    set_aside: str = ""
    verdict: Verdict | None = None


class Stopwatch:
    """Wall time of named parts, in seconds, through the clock port."""

    def __init__(self, ports: Ports) -> None:
        self._clock = ports.clock
        self._last = ports.clock.monotonic()
        self.parts: list[tuple[str, float]] = []

    def lap(self, name: str) -> None:
        now = self._clock.monotonic()
        self.parts.append((name, now - self._last))
        self._last = now


class Transaction:
    """Moves the host from one generation to another, or leaves it where it was."""

    def __init__(self, ports: Ports, store: Store, secrets: SecretReader) -> None:
        self._ports = ports
        self._store = store
        self._secrets = secrets
        self._placements = Placements(ports.disk, store)
        self._bystanders: tuple[str, ...] = ()

    # -- forward ---------------------------------------------------------------------------

    def run(
        self,
        target: Generation,
        previous: Generation,
        *,
        verb: str,
        keep_target: bool = False,
        waves: Sequence[Sequence[Step]] | None = None,
    ) -> Outcome:
        """Make `target` what the host runs, or go back to the last good generation.

        Args:
            previous: what `current` names now.
            keep_target: leave a failed target in place.
            waves: the steps of a plan made just now; None means observe and plan.
        """
        watch = Stopwatch(self._ports)
        fallback = self._fallback(previous)
        record = self._record(target, previous, fallback, verb, keep_target)
        self._bystanders = record.running_before
        try:
            self._store.begin(record)
            failed = self._go(target, waves)
            watch.lap("apply")
            verdict = self._judge(target, failed)
            watch.lap("judge")
            if verdict.health is Health.HEALTHY or target.number != previous.number:
                self._store.judge(target, self._judgement(verdict))
        except (DiskFailure, BusUnavailable, Interrupted) as error:
            raise self._unwound(error, target, fallback, keep_target) from error
        if verdict.health is Health.HEALTHY:
            self._store.close()
            kind = OutcomeKind.DEGRADED if verdict.optional_failures else OutcomeKind.COMMITTED
            return Outcome(
                kind, True, previous.number, target.number, verdict, seconds=tuple(watch.parts)
            )
        if keep_target or fallback.number == target.number:
            self._store.close()
            kind = OutcomeKind.ROLLBACK_FAILED if verb == "rollback" else OutcomeKind.LEFT_IN_PLACE
            return Outcome(
                kind,
                changed=True,
                before=previous.number,
                after=target.number,
                verdict=verdict,
                failed=verdict.failures,
                attempted=target.number,
                seconds=tuple(watch.parts),
            )
        return self._undo(target, previous, fallback, verdict, watch)

    def _undo(
        self,
        target: Generation,
        previous: Generation,
        fallback: Generation,
        failed: Verdict,
        watch: Stopwatch,
    ) -> Outcome:
        """The target failed: bring the last good generation back and judge it the same way."""
        self._ports.reporter.step(
            "restore",
            f"generation {target.number} failed; restoring generation {fallback.number}",
            generation=fallback.number,
            failed=[sample.detail for sample in failed.failures],
        )
        try:
            verdict = self._judge(fallback, self._go(fallback, None, leaving=target))
        except (DiskFailure, BusUnavailable) as error:
            raise self._unfinished(error, fallback) from error
        watch.lap("restore")
        self._store.close()
        restored = verdict.health is Health.HEALTHY
        return Outcome(
            OutcomeKind.ROLLED_BACK if restored else OutcomeKind.ROLLBACK_FAILED,
            changed=fallback.number != previous.number,
            before=previous.number,
            after=fallback.number,
            verdict=verdict,
            failed=failed.failures,
            attempted=target.number,
            seconds=tuple(watch.parts),
        )

    def _unwound(
        self, error: LabctlError, target: Generation, fallback: Generation, keep_target: bool
    ) -> LabctlError:
        """Something broke or someone interrupted midway: go back now if that is possible."""
        goal = target if keep_target else fallback
        self._ports.reporter.step(
            "unwind",
            f"{error.message}; going back to generation {goal.number}",
            generation=goal.number,
        )
        try:
            verdict = self._judge(goal, self._go(goal, None, leaving=target), soak=False)
            self._mark_interrupted(target, error.message)
            self._store.close()
        except (DiskFailure, BusUnavailable) as second:
            return self._unfinished(second, goal)
        serves = f"generation {goal.number} serves again"
        if verdict.health is not Health.HEALTHY:
            serves = f"generation {goal.number} is in place again, but not healthy"
        code = error.exit_code if isinstance(error, Interrupted) else ExitCode.ROLLED_BACK
        if verdict.health is not Health.HEALTHY:
            code = ExitCode.ROLLBACK_FAILED
        return LabctlError(f"{error.message}; {serves}", hint=error.hint, exit_code=code)

    def _unfinished(self, error: LabctlError, goal: Generation) -> LabctlError:
        """Going back broke too. The record stays, so that the next labctl finishes the work."""
        return LabctlError(
            f"{error.message}; going back to generation {goal.number} is not finished",
            hint=f"{error.hint}; then run `labctl recover`: nothing is lost".lstrip("; "),
            exit_code=ExitCode.ROLLBACK_FAILED,
        )

    # -- recovery --------------------------------------------------------------------------

    def recover(self) -> Recovery | None:
        """Finish what an interrupted labctl left. None when there was nothing to do.

        1. The target was judged good, or was meant to stay → forward: only the close is missing.
        2. Otherwise → back to the fallback of the record.
        3. The record is damaged → keep it aside, go to the last good generation; also when
           `current` leads nowhere.
        """
        swept = self._store.sweep()
        set_aside = ""
        try:
            record = self._store.record()
        except StoreDamaged:
            set_aside = self._store.set_aside_record(self._stamp())
            record = None
        if record is None and not set_aside and self._current_is_sound():
            return Recovery(-1, False, swept) if swept else None
        goal, forward, target = self._goal(record)
        self._bystanders = record.running_before if record else ()
        self._ports.reporter.step(
            "recover",
            f"an earlier labctl was interrupted; going to generation {goal.number}",
            generation=goal.number,
        )
        failed = self._go(goal, None, leaving=target)
        verdict = self._judge(goal, failed, soak=False)
        if target is not None and target.number != goal.number:
            self._mark_interrupted(target, "interrupted")
        elif forward and target is not None and target.standing is Standing.UNPROVED:
            self._store.judge(target, self._judgement(verdict))
        self._store.close()
        return Recovery(goal.number, forward, swept, set_aside, verdict)

    def _goal(self, record: Record | None) -> tuple[Generation, bool, Generation | None]:
        """(where to go, whether that is forward, the target that was in flight)."""
        target = self._store.generation(record.target) if record else None
        if record is not None and target is not None:
            proved = target.standing in (Standing.GOOD, Standing.DEGRADED)
            if (proved or record.keep_target) and not self._store.edited(target):
                return target, True, target
        if record is not None:
            fallback = self._store.generation(record.fallback)
            if fallback is not None and not self._store.edited(fallback):
                return fallback, False, target
        good = self._store.last_good()
        if good is None:
            raise StoreDamaged(
                "no generation is left that could be restored",
                hint="run `labctl generations list`; a fresh `labctl deploy` makes a new one",
                exit_code=ExitCode.ROLLBACK_FAILED,
            )
        return good, False, target

    # -- shared ----------------------------------------------------------------------------

    def _go(
        self,
        goal: Generation,
        waves: Sequence[Sequence[Step]] | None,
        leaving: Generation | None = None,
    ) -> tuple[Sample, ...]:
        """Point, settle, reload and apply. Returns what failed to come up."""
        current = self._current()
        self._ports.reporter.step(
            "switch", f"generation {goal.number} becomes current", generation=goal.number
        )
        self._store.point(goal)
        others = [g.manifest for g in (current, leaving) if g is not None]
        settled = self._placements.settle(goal, others, self._stamp())
        if settled or leaving is not None or _units_differ(current, goal):
            self._ports.units.reload()
        if waves is None:
            waves = self._replanned(goal, others)
        with self._ports.signals.interruptible():
            failed = Applier(self._ports, goal.manifest.judge).run(waves)
        self._revive()
        return failed

    def _revive(self) -> None:
        """Start again what depends on our units, ran before, and went down with them."""
        states = self._ports.units.states(self._bystanders)
        down = [unit for unit, state in states.items() if not state.running]
        if not down:
            return
        results = self._ports.units.run(Action.START, down, JOB_TIMEOUT_S)
        for unit in down:
            self._ports.reporter.step(
                "revive", f"start {unit}, which ran before: {results.get(unit)}", unit=unit
            )

    def _replanned(
        self, goal: Generation, others: Sequence[Manifest]
    ) -> tuple[tuple[Step, ...], ...]:
        """Look again and plan from what is there; units of other generations leave."""
        known = {spec.unit: spec for manifest in others for spec in manifest.services}
        deployed = replace(goal.manifest, services=tuple(known.values())) if known else None
        observed = observe(
            self._ports,
            self._store,
            self._placements,
            current=goal,
            services=(*goal.manifest.services, *known.values()),
            links=(),
        )
        manifest = goal.manifest
        return make_plan(manifest.services, manifest.groups, deployed, observed).waves

    def _judge(
        self, generation: Generation, failed: Sequence[Sample], *, soak: bool = True
    ) -> Verdict:
        self._ports.reporter.step(
            "judge", f"proving generation {generation.number}", generation=generation.number
        )
        judge = Judge(self._ports, generation.manifest, self._secrets(generation))
        with self._ports.signals.interruptible():
            return judge.verdict(failed, soak=soak)

    def _judgement(self, verdict: Verdict) -> Judgement:
        return judgement(verdict, self._ports.clock.now().isoformat())

    def _mark_interrupted(self, target: Generation, why: str) -> None:
        if target.judgement is None:
            at = self._ports.clock.now().isoformat()
            self._store.judge(target, Judgement(Standing.BAD, at, (why,)))

    def _current_is_sound(self) -> bool:
        try:
            self._store.current()
        except StoreDamaged:
            return False
        return True

    def _current(self) -> Generation | None:
        try:
            return self._store.current()
        except StoreDamaged:
            return None

    def _fallback(self, previous: Generation) -> Generation:
        """The last verified-good generation: the one before, unless that was left in place bad."""
        if previous.standing.restorable and not self._store.edited(previous):
            return previous
        return self._store.last_good(before=previous.number) or previous

    def _record(
        self,
        target: Generation,
        previous: Generation,
        fallback: Generation,
        verb: str,
        keep_target: bool,
    ) -> Record:
        ours = {s.unit for g in (target, previous) for s in g.manifest.services}
        dependents = self._ports.units.dependents(sorted(ours))
        return Record(
            previous=previous.number,
            target=target.number,
            fallback=fallback.number,
            verb=verb,
            started_at=self._ports.clock.now().isoformat(),
            running_before=tuple(unit for unit in dependents if unit not in ours),
            keep_target=keep_target,
        )

    def _stamp(self) -> str:
        return self._ports.clock.now().strftime("%Y%m%dT%H%M%SZ")


def _units_differ(current: Generation | None, goal: Generation) -> bool:
    """Whether systemd has to read unit files again. Its own flag for that cannot be trusted:
    it stays false for content with an older time stamp, as every rollback has."""
    if current is None:
        return True

    def read_by_systemd(generation: Generation) -> set[tuple[str, str]]:
        files = generation.manifest.files
        return {(f.path, f.sha256) for f in files if f.path.startswith(("units/", "dropins/"))}

    return read_by_systemd(current) != read_by_systemd(goal)
