"""Deploy, roll back, verify: what the verbs do, on top of one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent import __version__
from agent.deploy.adopt import Adopter
from agent.deploy.diff import file_changes
from agent.deploy.judge import Judge
from agent.deploy.move import SecretReader
from agent.deploy.observe import observe
from agent.deploy.placements import Placements
from agent.deploy.planner import make_plan
from agent.deploy.ports import Ports
from agent.deploy.store import Store
from agent.deploy.transaction import Transaction
from agent.model.errors import NoTarget, Refused, Stale, StoreDamaged
from agent.model.generation import (
    Generation,
    GenerationKind,
    Manifest,
    ServiceSpec,
)
from agent.model.host import Observed
from agent.model.plan import FileChange, Plan, Rendered, RenderedFile
from agent.model.verdict import Outcome, OutcomeKind, Verdict

_CHOOSE = "`labctl generations list` shows what there is"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what it was made from."""

    plan: Plan
    observed: Observed
    current: Generation | None


class Deployer:
    """The engine behind `labctl plan`, `deploy`, `rollback` and `verify`."""

    def __init__(
        self,
        ports: Ports,
        store: Store,
        secrets: SecretReader,
    ) -> None:
        self._ports = ports
        self._store = store
        self._secrets = secrets
        self._placements = Placements(ports.disk, store)
        self._adopt = Adopter(ports, store, self._placements)
        self._transaction = Transaction(ports, store, secrets)

    # -- plan ------------------------------------------------------------------------------

    def plan(self, rendered: Rendered) -> Planned:
        """What a deploy of `rendered` would do. Touches nothing."""
        current = self._store.current()
        observed = observe(
            self._ports,
            self._store,
            self._placements,
            current=current,
            services=rendered.services,
            links=rendered.links,
        )
        switch = current is None or current.manifest.digest != rendered.digest
        plan = make_plan(
            rendered.services,
            rendered.groups,
            current.manifest if current else None,
            observed,
            placements=rendered.placements,
            changes=self.changes(current, rendered.files) if switch else (),
            switch=switch,
        )
        return Planned(plan, observed, current)

    def changes(
        self, before: Generation | None, after: Iterable[RenderedFile]
    ) -> tuple[FileChange, ...]:
        return file_changes(self._store.files(before) if before else (), after)

    # -- deploy ----------------------------------------------------------------------------

    def deploy(
        self,
        rendered: Rendered,
        *,
        reason: str,
        digest_key: bytes,
        keep_target: bool = False,
        discard_edits: bool = False,
    ) -> Outcome:
        """Make the host serve `rendered`, proved; or leave it serving what it served.

        Args:
            digest_key: what `rendered` was digested with; a new store keeps it.
            keep_target: leave a failed deploy in place.
            discard_edits: deploy although deployed files were edited by hand.

        Raises Refused or Stale before anything is touched.
        """
        planned = self.plan(rendered)
        self._refuse_edits(planned, discard_edits)
        self._refuse_held_ports(planned, rendered.services)
        current = planned.current
        edited = bool(planned.observed.edited)
        if current is not None and not edited and planned.plan.empty:
            if current.standing.restorable:
                return Outcome(OutcomeKind.NOTHING, False, current.number, current.number)
            self._ports.reporter.step("judge", f"generation {current.number} was never proved")
        self._store.prepare(digest_key)
        previous = self._adopt(rendered, planned.observed, current)
        if not planned.plan.switch and not edited and previous is current and current is not None:
            target = current
        else:
            target = self._store.seal(self._manifest(rendered, reason), rendered.files)
            self._ports.reporter.step(
                "seal", f"sealed generation {target.number}", generation=target.number
            )
        return self._transaction.run(
            target,
            previous,
            verb="deploy",
            keep_target=keep_target,
            waves=planned.plan.waves,
        )

    def _refuse_edits(self, planned: Planned, discard_edits: bool) -> None:
        edited = planned.observed.edited
        if not edited or discard_edits or planned.current is None:
            return
        folder = self._store.folder(planned.current)
        raise Stale(
            "deployed files were edited by hand: "
            + ", ".join(f"{folder}/{path}" for path in edited),
            hint="put the change into the lab; or deploy with --discard-edits: the edited files"
            f" stay in generation {planned.current.number}",
        )

    def _refuse_held_ports(self, planned: Planned, services: Sequence[ServiceSpec]) -> None:
        held = [
            f"port {spec.port} of {spec.name} is held by {planned.observed.holders[spec.port]}"
            for spec in services
            if spec.required and spec.port is not None and spec.port in planned.observed.holders
        ]
        if held:
            raise Refused(
                "; ".join(held),
                hint="stop that process (a system-wide Ollama: `sudo systemctl disable --now"
                " ollama`), or give the service another port in lab.yaml",
            )

    def _manifest(self, rendered: Rendered, reason: str) -> Manifest:
        return Manifest(
            number=0,
            created_at=self._ports.clock.now().isoformat(timespec="seconds"),
            kind=GenerationKind.DEPLOY,
            reason=reason,
            digest=rendered.digest,
            links=rendered.links,
            services=rendered.services,
            groups=rendered.groups,
            completions=rendered.completions,
            placements=rendered.placements,
            judge=rendered.judge,
            lab=rendered.lab,
            git_commit=rendered.git_commit,
            labctl_version=__version__,
        )

    # -- rollback --------------------------------------------------------------------------

    def rollback(self, number: int | None, *, reason: str) -> Outcome:
        """Go back to a generation, as a new one that says which it restores.

        Args:
            number: None means the last verified-good generation before the current one.

        Raises NoTarget before anything is touched.
        """
        current = self._store.current()
        if current is None:
            raise NoTarget("nothing was deployed yet", hint="run `labctl deploy`")
        goal = self._rollback_goal(current, number)
        restored = self._store.seal(
            replace(
                goal.manifest,
                created_at=self._ports.clock.now().isoformat(timespec="seconds"),
                kind=GenerationKind.ROLLBACK,
                reason=reason or f"rollback to generation {goal.number}",
                restores=goal.number,
                labctl_version=__version__,
            ),
            self._store.files(goal),
        )
        self._ports.reporter.step(
            "seal",
            f"generation {restored.number} restores generation {goal.number}",
            generation=restored.number,
        )
        outcome = self._transaction.run(restored, current, verb="rollback", keep_target=True)
        return replace(outcome, restores=goal.number)

    def _rollback_goal(self, current: Generation, number: int | None) -> Generation:
        if number is None:
            goal = self._store.rollback_goal(current)
            if goal is None:
                raise NoTarget(
                    f"no verified-good generation before {current.number} differs from it",
                    hint=_CHOOSE,
                )
            return goal
        try:
            goal = self._store.generation(number)
        except StoreDamaged as error:
            raise NoTarget(error.message, hint=_CHOOSE) from error
        if goal is None:
            raise NoTarget(f"there is no generation {number}", hint=_CHOOSE)
        edited = self._store.edited(goal)
        if edited:
            changed = ", ".join(edited)
            raise NoTarget(f"generation {number} is not what was sealed: {changed}", hint=_CHOOSE)
        return goal

    # -- verify ----------------------------------------------------------------------------

    def verify(self, *, soak: bool = False) -> tuple[Generation, Verdict]:
        """The judge's probes on the current generation, on demand."""
        current = self._store.current()
        if current is None:
            raise NoTarget("nothing was deployed yet", hint="run `labctl deploy`")
        judge = Judge(self._ports, current.manifest, self._secrets(current))
        return current, judge.verdict(soak=soak)
