"""The line of a deploy, and its undoing. `agent.deploy.recovery` has what follows a crash.

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

from collections.abc import Sequence

from agent.deploy.move import Mover, SecretReader
from agent.deploy.ports import Ports
from agent.deploy.store import Store
from agent.model.errors import ExitCode, Interrupted, LabctlError
from agent.model.generation import Generation, Record
from agent.model.plan import Step
from agent.model.verdict import Health, Outcome, OutcomeKind, Verdict


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
        self._move = Mover(ports, store, secrets)

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
        self._move.bystanders = record.running_before
        stays = keep_target or fallback.number == target.number
        try:
            self._store.begin(record)
            failed = self._move.go(target, waves, to_the_end=stays)
            watch.lap("apply")
            verdict = self._move.judge(target, failed)
            watch.lap("judge")
            if verdict.health is Health.HEALTHY or target.number != previous.number:
                self._store.judge(target, self._move.judgement(verdict))
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
            failed=[sample.sentence for sample in failed.failures],
        )
        try:
            failures = self._move.go(fallback, None, leaving=(previous, target), to_the_end=True)
            verdict = self._move.judge(fallback, failures)
            watch.lap("restore")
            self._store.close()
        except Interrupted as error:
            raise self._unwound(error, target, previous, fallback) from error
        except LabctlError as error:
            raise unfinished(error, fallback) from error
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
            failed = self._move.go(goal, None, leaving=(previous, target), to_the_end=True)
            verdict = self._move.judge(goal, failed, soak=False)
            self._move.mark(target, goal, verdict, error.message)
            self._store.close()
        except LabctlError as second:
            return unfinished(second, goal)
        serves = f"generation {goal.number} serves again"
        if verdict.health is not Health.HEALTHY:
            serves = f"generation {goal.number} is in place again, but not healthy"
        code = error.exit_code if isinstance(error, Interrupted) else ExitCode.ROLLED_BACK
        if verdict.health is not Health.HEALTHY:
            code = ExitCode.ROLLBACK_FAILED
        return LabctlError(f"{error.message}; {serves}", hint=error.hint, exit_code=code)

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


def unfinished(error: LabctlError, goal: Generation) -> LabctlError:
    """Going back broke too. The record stays, so that the next labctl finishes the work."""
    return LabctlError(
        f"{error.message}; going back to generation {goal.number} is not finished",
        hint=f"{error.hint}; then run `labctl recover`: nothing is lost".lstrip("; "),
        exit_code=ExitCode.ROLLBACK_FAILED,
    )
