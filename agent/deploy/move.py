"""Bring the host to a generation, and prove what it then serves: the part that all ways share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.deploy.apply import JOB_TIMEOUT_S, Applier
from agent.deploy.judge import Judge
from agent.deploy.judge import judgement as written_down
from agent.deploy.observe import observe
from agent.deploy.placements import Placements
from agent.deploy.planner import make_plan
from agent.deploy.ports import Ports, Secrets
from agent.deploy.store import Store
from agent.model.errors import StoreDamaged
from agent.model.generation import Generation, Judgement, Manifest, Standing
from agent.model.plan import Action, Step
from agent.model.verdict import Sample, Verdict

SecretReader = Callable[[Generation], Secrets]


class Mover:
    """Points, settles, applies and judges. Going back is the same as going on.

    Attributes:
        bystanders: units that are not ours, depend on ours, and ran when the transaction began.
    """

    def __init__(self, ports: Ports, store: Store, secrets: SecretReader) -> None:
        self._ports = ports
        self._store = store
        self._secrets = secrets
        self._placements = Placements(ports.disk, store)
        self.bystanders: tuple[str, ...] = ()

    def go(
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
        settled = self._placements.settle(goal, others, self.stamp())
        if settled or leaving or edited or _units_differ(current, goal):
            self._ports.units.reload()
        if waves is None:
            waves = self._replanned(goal, others, edited)
        with self._ports.signals.interruptible():
            applier = Applier(self._ports, goal.manifest.judge, goal.manifest.placements)
            failed = applier.run(waves, to_the_end=to_the_end)
        self._revive()
        return failed

    def _revive(self) -> None:
        """Start again what depends on our units, ran before, and went down with them."""
        states = self._ports.units.states(self.bystanders)
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
        manifest = goal.manifest
        known = {spec.unit: spec for other in others for spec in other.services}
        placed = {one.service: one for other in others for one in other.placements}
        deployed = replace(
            manifest, services=tuple(known.values()), placements=tuple(placed.values())
        )
        observed = observe(
            self._ports,
            self._store,
            self._placements,
            current=goal,
            services=(*goal.manifest.services, *known.values()),
            links=(),
        )
        observed = replace(observed, edited=edited)
        return make_plan(
            manifest.services,
            manifest.groups,
            deployed if known else None,
            observed,
            placements=manifest.placements,
        ).waves

    def judge(
        self, generation: Generation, failed: Sequence[Sample], *, soak: bool = True
    ) -> Verdict:
        self._ports.reporter.step(
            "judge", f"proving generation {generation.number}", generation=generation.number
        )
        judge = Judge(self._ports, generation.manifest, self._secrets(generation))
        with self._ports.signals.interruptible():
            return judge.verdict(failed, soak=soak)

    def judgement(self, verdict: Verdict) -> Judgement:
        return written_down(verdict, self._ports.clock.now().isoformat())

    def mark(self, target: Generation, goal: Generation, verdict: Verdict, why: str) -> None:
        """Write down what became of a target that was interrupted and has no judgement yet."""
        if target.judgement is not None:
            return
        if target.number == goal.number:
            self._store.judge(target, self.judgement(verdict))
        else:
            at = self._ports.clock.now().isoformat()
            self._store.judge(target, Judgement(Standing.BAD, at, (why,)))

    def _current(self) -> Generation | None:
        try:
            return self._store.current()
        except StoreDamaged:
            return None

    def stamp(self) -> str:
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
