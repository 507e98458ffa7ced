"""After a crash: wholly old or wholly new, from the record and the generations alone."""

from __future__ import annotations

from dataclasses import dataclass

from agent.deploy.move import Mover, SecretReader
from agent.deploy.ports import Ports
from agent.deploy.store import Store
from agent.deploy.transaction import unfinished
from agent.model.errors import ExitCode, Interrupted, StoreDamaged
from agent.model.generation import Generation, Record, Standing
from agent.model.host import EntryKind
from agent.model.verdict import Health, Outcome, OutcomeKind, Verdict


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


class Recoverer:
    """Finishes or undoes what an interrupted labctl left."""

    def __init__(self, ports: Ports, store: Store, secrets: SecretReader) -> None:
        self._ports = ports
        self._store = store
        self._move = Mover(ports, store, secrets)

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
            set_aside = self._store.set_aside_record(self._move.stamp())
            record = None
        if record is None and not set_aside and self._current_is_sound():
            return Recovery(-1, False, swept) if swept else None
        goal, forward, target = self._goal_or_fresh(record)
        self._move.bystanders = record.running_before if record else ()
        self._clear_current()
        self._ports.reporter.step(
            "recover",
            f"an earlier labctl was interrupted; going to generation {goal.number}",
            generation=goal.number,
        )
        previous = self._whole(record.previous) if record else None
        leaving = tuple(g for g in (previous, target) if g is not None)
        try:
            failed = self._move.go(goal, None, leaving=leaving, to_the_end=True)
            verdict = self._move.judge(goal, failed, soak=False)
            if target is not None:
                self._move.mark(target, goal, verdict, "interrupted")
            self._store.close()
        except Interrupted as error:
            raise unfinished(error, goal) from error
        return Recovery(goal.number, forward, swept, set_aside, verdict)

    def _goal_or_fresh(self, record: Record | None) -> tuple[Generation, bool, Generation | None]:
        """Where to go; without any good generation, the way is cleared for a fresh deploy."""
        try:
            return self._goal(record)
        except StoreDamaged:
            self._store.set_aside_record(self._move.stamp())
            self._store.set_aside_current(self._move.stamp())
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

    def _whole(self, number: int) -> Generation | None:
        try:
            return self._store.generation(number)
        except StoreDamaged:
            return None

    def _clear_current(self) -> None:
        """Move away what no link can replace."""
        entry = self._ports.disk.entry(f"{self._store.root}/current")
        if entry is not None and entry.kind is not EntryKind.LINK:
            self._store.set_aside_current(self._move.stamp())

    def _current_is_sound(self) -> bool:
        """Whether it names a generation; or names none, and none was ever deployed."""
        try:
            current = self._store.current()
        except StoreDamaged:
            return False
        return current is not None or all(
            g.standing is Standing.ADOPTED for g in self._store.generations()
        )
