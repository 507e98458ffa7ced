"""GPU memory that some steps of a plan give back and others take: who has to go first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agent.model.placed import ServicePlacement
from agent.model.plan import Action, Step


class Room:
    """What services hold on GPUs as they run, and what they are to hold.

    Placements count all that running units of ours will give back: they come true only where it
    is given back before it is taken.
    """

    def __init__(
        self, before: Iterable[ServicePlacement] = (), after: Iterable[ServicePlacement] = ()
    ) -> None:
        self._before = {placed.service: placed.needed_mib for placed in before}
        self._after = {placed.service: placed.needed_mib for placed in after}

    def makes_way(self, step: Step, others: Sequence[Step]) -> bool:
        """Whether a unit gives back memory of a GPU of which one of the others takes more."""
        change = self._change(step)
        freed = {uuid for uuid, mib in change.items() if mib < 0}
        return any(
            mib > 0 and uuid in freed
            for other in others
            if freed and other.service.name != step.service.name
            for uuid, mib in self._change(other).items()
        )

    def _change(self, step: Step) -> Mapping[str, int]:
        """MiB by GPU UUID that a step takes, below 0 gives back."""
        name = step.service.name
        held = self._before.get(name, {}) if step.action is not Action.START else {}
        taken = self._after.get(name, {}) if step.action is not Action.STOP else {}
        return {uuid: taken.get(uuid, 0) - held.get(uuid, 0) for uuid in {**held, **taken}}
