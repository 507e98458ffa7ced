"""Look at the current generation's services once, cheaply, for `labctl status`."""

from __future__ import annotations

from dataclasses import replace

from agent.cli.host import Host
from agent.cli.views.status import Row, Seen
from agent.deploy.placements import Placements
from agent.host.session import linger_enabled
from agent.model.generation import Generation
from agent.model.host import UnitState

PROBE_TIMEOUT_S = 1.0


def look(host: Host, current: Generation) -> Seen:
    """Unit states, cheap probes side by side, drift. Never loads or interrupts a model."""
    services = current.manifest.services
    states = host.units.states([spec.unit for spec in services])
    asked = [spec for spec in services if states[spec.unit].running]
    samples = host.prober.health_all(asked, PROBE_TIMEOUT_S)
    by_name = dict(zip((spec.name for spec in asked), samples, strict=True))
    states = {unit: _with_memory(host, state) for unit, state in states.items()}
    drift = Placements(host.ports.disk, host.store).wrong(current)
    return Seen(
        generation=current,
        rows=tuple(Row(spec, states[spec.unit], by_name.get(spec.name)) for spec in services),
        edited=host.store.edited(current),
        misplaced=drift,
        linger=linger_enabled(host.user),
        user=host.user,
        now=host.ports.clock.now().timestamp(),
    )


def _with_memory(host: Host, state: UnitState) -> UnitState:
    """Where the cgroup counts no memory, ask the processes themselves."""
    if state.memory_bytes is not None or not state.running:
        return state
    return replace(state, memory_bytes=host.processes.memory_bytes(state))
