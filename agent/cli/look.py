"""Look at the current generation's services once, cheaply, for `labctl status`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from agent.cli.host import Host, open_host, recover_if_needed
from agent.cli.output import say_json, say_lines, wants_colour
from agent.cli.services import current_generation
from agent.cli.views.status import Row, Seen, status_json, status_lines
from agent.deploy.placements import Placements
from agent.host.cgroup import pids_in, resident_bytes
from agent.host.session import linger_enabled
from agent.model.errors import ExitCode
from agent.model.generation import Generation
from agent.model.host import UnitState

PROBE_TIMEOUT_S = 1.0


def show_status(*, as_json: bool) -> int:
    """`labctl status`; returns its exit status."""
    host = open_host()
    recover_if_needed(host)
    seen = look(host, current_generation(host))
    if as_json:
        say_json(status_json(seen))
    else:
        say_lines(status_lines(seen, colour=wants_colour(sys.stdout)))
    return ExitCode.OK if seen.healthy else ExitCode.UNHEALTHY


def look(host: Host, current: Generation) -> Seen:
    """Unit states, cheap probes side by side, drift. Never loads or interrupts a model."""
    services = current.manifest.services
    with ThreadPoolExecutor(max_workers=1) as beside:
        # While the bus is being connected; what does not run refuses at once.
        probing = beside.submit(host.prober.health_all, services, PROBE_TIMEOUT_S)
        states = host.units.states([spec.unit for spec in services])
        samples = probing.result()
    by_name = {
        spec.name: sample
        for spec, sample in zip(services, samples, strict=True)
        if states[spec.unit].running
    }
    states = {unit: _with_memory(state) for unit, state in states.items()}
    judgement = current.judgement
    proofs = {proof.service: proof for proof in judgement.proofs} if judgement else {}
    drift = Placements(host.disk, host.store).wrong(current)
    return Seen(
        generation=current,
        rows=tuple(
            Row(spec, states[spec.unit], by_name.get(spec.name), proofs.get(spec.name))
            for spec in services
        ),
        edited=host.store.edited(current),
        misplaced=drift,
        linger=linger_enabled(host.user),
        user=host.user,
        now=host.clock.now().timestamp(),
    )


def _with_memory(state: UnitState) -> UnitState:
    """Where the cgroup counts no memory, ask the processes themselves."""
    if state.memory_bytes is not None or not state.running:
        return state
    pids = pids_in(state.control_group) if state.control_group else None
    main = (state.main_pid,) if state.main_pid is not None else ()
    return replace(state, memory_bytes=resident_bytes(pids or main))
