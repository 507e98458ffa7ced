"""Look at the host: what runs, with which inputs, and what stands where."""

from __future__ import annotations

from collections.abc import Iterable

from agent.deploy.placements import Placements
from agent.deploy.ports import Ports
from agent.deploy.store import Store
from agent.model.generation import Generation, Link, ServiceSpec
from agent.model.host import Observed, PortHolder, UnitState


def observe(
    ports: Ports,
    store: Store,
    placements: Placements,
    *,
    current: Generation | None,
    services: Iterable[ServiceSpec],
    links: Iterable[Link],
) -> Observed:
    """Everything that a plan needs to know of the host.

    Args:
        services: the wanted services; those of `current` are looked at as well.
        links: the wanted links, to find foreign files in their places.
    """
    wanted = {spec.unit: spec for spec in services}
    deployed = {spec.unit: spec for spec in current.manifest.services} if current else {}
    stays = {spec.unit: spec.port for spec in deployed.values()}
    states = ports.units.states(sorted(wanted.keys() | deployed.keys()))
    return Observed(
        units=states,
        running_inputs=_running_inputs(ports, states.values()),
        wrong_placements=placements.wrong(current) if current else (),
        foreign=placements.foreign(links, current).paths,
        edited=store.edited(current) if current else (),
        holders=_foreign_holders(ports, wanted.values(), states, stays),
    )


def _running_inputs(ports: Ports, states: Iterable[UnitState]) -> dict[str, str]:
    """What each running process says it was started with; unreadable ones count as unknown."""
    carried = {}
    for state in states:
        if state.running and state.main_pid is not None:
            inputs = ports.processes.inputs(state.main_pid)
            carried[state.unit] = "unreadable" if inputs is None else inputs
    return carried


def _foreign_holders(
    ports: Ports,
    wanted: Iterable[ServiceSpec],
    states: dict[str, UnitState],
    deployed_ports: dict[str, int | None],
) -> dict[int, PortHolder]:
    """Who holds a port that a unit will need, and does not hold itself."""
    units = set(states)
    holders = {}
    for spec in wanted:
        if spec.port is None or not spec.active:
            continue
        if states[spec.unit].running and deployed_ports.get(spec.unit) == spec.port:
            continue
        holder = ports.processes.holder(spec.port)
        if holder is not None and holder.unit not in units:
            holders[spec.port] = holder
    return holders
