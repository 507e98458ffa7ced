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
    ExitCode,
    Interrupted,
    LabctlError,
    StoreDamaged,
)
from agent.model.generation import Generation, Judgement, Manifest, Record, Standing
from agent.model.host import EntryKind
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

    @property
    def went_back(self) -> bool:
        return self.went_to >= 0 and not self.forward

    @property
    def outcome(self) -> Outcome:
        """What a user who asked to go back is told when the recovery has already done so."""
        proved = self.verdict is not None and self.verdict.health is Health.HEALTHY
        kind = OutcomeKind.COMMITTED if proved else OutcomeKind.ROLLBACK_FAILED
        return Outcome(kind, True, None, self.went_to, self.verdict)


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
        stays = keep_target or fallback.number == target.number
        try:
            self._store.begin(record)
            failed = self._go(target, waves, to_the_end=stays)
            watch.lap("apply")
            verdict = self._judge(target, failed)
            watch.lap("judge")
            if verdict.health is Health.HEALTHY or target.number != previous.number:
                self._store.judge(target, self._judgement(verdict))
        except LabctlError as error:
            goal = target if keep_target else fallback
            raise self._unwound(error, target, previous, goal) from error
        if verdict.health is Health.HEALTHY:
            self._store.close()
            kind = OutcomeKind.DEGRADED if verdict.optional_failures else OutcomeKind.COMMITTED
            return Outcome(
                kind, True, previous.number, target.number, verdict, seconds=tuple(watch.parts)
            )
        if stays:
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
            failures = self._go(fallback, None, leaving=(previous, target), to_the_end=True)
            verdict = self._judge(fallback, failures)
            watch.lap("restore")
            self._store.close()
        except Interrupted as error:
            raise self._unwound(error, target, previous, fallback) from error
        except LabctlError as error:
            raise self._unfinished(error, fallback) from error
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
        self, error: LabctlError, target: Generation, previous: Generation, goal: Generation
    ) -> LabctlError:
        """Something broke or someone interrupted midway: go back now if that is possible."""
        self._ports.reporter.step(
            "unwind",
            f"{error.message}; going back to generation {goal.number}",
            generation=goal.number,
        )
        try:
            failed = self._go(goal, None, leaving=(previous, target), to_the_end=True)
            verdict = self._judge(goal, failed, soak=False)
            self._mark(target, goal, verdict, error.message)
            self._store.close()
        except LabctlError as second:
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
        goal, forward, target = self._goal_or_fresh(record)
        self._bystanders = record.running_before if record else ()
        self._clear_current()
        self._ports.reporter.step(
            "recover",
            f"an earlier labctl was interrupted; going to generation {goal.number}",
            generation=goal.number,
        )
        previous = self._whole(record.previous) if record else None
        leaving = tuple(g for g in (previous, target) if g is not None)
        try:
            failed = self._go(goal, None, leaving=leaving, to_the_end=True)
            verdict = self._judge(goal, failed, soak=False)
            if target is not None:
                self._mark(target, goal, verdict, "interrupted")
            self._store.close()
        except Interrupted as error:
            raise self._unfinished(error, goal) from error
        return Recovery(goal.number, forward, swept, set_aside, verdict)

    def _goal_or_fresh(self, record: Record | None) -> tuple[Generation, bool, Generation | None]:
        """Where to go; without any good generation, the way is cleared for a fresh deploy."""
        try:
            return self._goal(record)
        except StoreDamaged:
            self._store.set_aside_record(self._stamp())
            self._store.set_aside_current(self._stamp())
            raise

    def _goal(self, record: Record | None) -> tuple[Generation, bool, Generation | None]:
        """(where to go, whether that is forward, the target that was in flight)."""
        target = self._whole(record.target) if record else None
        if record is not None and target is not None:
            proved = target.standing in (Standing.GOOD, Standing.DEGRADED)
            if (proved or record.keep_target) and not self._store.edited(target):
                return target, True, target
        if record is not None:
            fallback = self._whole(record.fallback)
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
        leaving: Sequence[Generation] = (),
        *,
        to_the_end: bool = False,
    ) -> tuple[Sample, ...]:
        """Point, settle, reload and apply. Returns what failed to come up.

        Args:
            leaving: generations whose links and units may stand besides those of `current`.
            to_the_end: nothing better is left to go to: a failure stops no other unit's way up.
        """
        current = self._current()
        edited = self._store.edited(current) if current else ()
        self._ports.reporter.step(
            "switch", f"generation {goal.number} becomes current", generation=goal.number
        )
        self._store.point(goal)
        others = [g.manifest for g in (*leaving, current) if g is not None]
        settled = self._placements.settle(goal, others, self._stamp())
        if settled or leaving or edited or _units_differ(current, goal):
            self._ports.units.reload()
        if waves is None:
            waves = self._replanned(goal, others, edited)
        with self._ports.signals.interruptible():
            applier = Applier(self._ports, goal.manifest.judge)
            failed = applier.run(waves, to_the_end=to_the_end)
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
        self, goal: Generation, others: Sequence[Manifest], edited: tuple[str, ...]
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
        observed = replace(observed, edited=edited)
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

    def _mark(self, target: Generation, goal: Generation, verdict: Verdict, why: str) -> None:
        """Write down what became of a target that was interrupted and has no judgement yet."""
        if target.judgement is not None:
            return
        if target.number == goal.number:
            self._store.judge(target, self._judgement(verdict))
        else:
            at = self._ports.clock.now().isoformat()
            self._store.judge(target, Judgement(Standing.BAD, at, (why,)))

    def _whole(self, number: int) -> Generation | None:
        try:
            return self._store.generation(number)
        except StoreDamaged:
            return None

    def _clear_current(self) -> None:
        """Move away what no link can replace."""
        entry = self._ports.disk.entry(f"{self._store.root}/current")
        if entry is not None and entry.kind is not EntryKind.LINK:
            self._store.set_aside_current(self._stamp())

    def _current_is_sound(self) -> bool:
        """Whether it names a generation; or names none, and none was ever deployed."""
        try:
            current = self._store.current()
        except StoreDamaged:
            return False
        return current is not None or all(
            g.standing is Standing.ADOPTED for g in self._store.generations()
        )

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
