"""The `place` step of a deploy: this host's GPUs, what is on them now, and what would fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.cli.gpus import read_gpus
from agent.cli.host import Host
from agent.cli.offload import holdings
from agent.cli.output import tell
from agent.cli.placing import LabPlacement, place_lab
from agent.gpu.ledger import Costs
from agent.host.oracle import Oracle
from agent.model.errors import Refused, StoreDamaged
from agent.model.generation import Generation
from agent.model.lab import Lab


def placed_on(host: Host, lab: Lab, programs: Mapping[str, str]) -> LabPlacement:
    """Where the services of a lab go. Raises Refused, with the sums, where they do not fit."""
    reading = read_gpus()
    current = _current(host)
    units = [spec.unit for spec in current.manifest.services] if current else []
    placed = place_lab(
        lab.services,
        programs,
        reading,
        Oracle(host.paths.runtime),
        holdings=holdings(reading, host.units.states(units)) if reading.usable else (),
        costs=Costs(learned=_learned(current)),
        other_gpus=Path("/dev/dri").exists(),
        before={p.service: p for p in current.manifest.placements} if current else {},
    )
    refusals = placed.placement.refusals
    if not refusals:
        return placed
    for refusal in refusals:
        tell(f"does not fit: {refusal.message}")
        for line in refusal.arithmetic:
            tell(f"    {line}")
    names = ", ".join(dict.fromkeys(r.services[0] for r in refusals if r.services))
    hint = "; ".join(dict.fromkeys(refusal.hint for refusal in refusals if refusal.hint))
    raise Refused(f"{names}: the GPU memory does not suffice; nothing was touched", hint=hint)


def _current(host: Host) -> Generation | None:
    try:
        return host.store.current()
    except StoreDamaged:
        return None


def _learned(current: Generation | None) -> dict[str, int]:
    """What the driver was seen to take for a process, by GPU."""
    proofs = current.judgement.proofs if current and current.judgement else ()
    learned: dict[str, int] = {}
    for proof in proofs:
        for uuid, mib in proof.context_mib:
            learned[uuid] = max(mib, learned.get(uuid, 0))
    return learned
