"""Decide what has to happen: pure functions from wanted, deployed and observed to a `Plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agent.deploy.room import Room
from agent.model.generation import GATEWAY_CONFIG, GroupSpec, Manifest, ServiceSpec
from agent.model.host import Observed, UnitState
from agent.model.kinds import ServiceKind
from agent.model.placed import ServicePlacement
from agent.model.plan import Action, FileChange, Plan, Step


def make_plan(
    wanted: Sequence[ServiceSpec],
    groups: Sequence[GroupSpec],
    deployed: Manifest | None,
    observed: Observed,
    *,
    placements: Sequence[ServicePlacement] = (),
    changes: tuple[FileChange, ...] = (),
    switch: bool = False,
) -> Plan:
    """The steps that lead from what is observed to what is wanted.

    Decision tree, for each wanted unit:

    1. It shall not run (it did not when it was adopted) and runs → stop.
    2. It shall run and does not → start; or restart, where systemd waits to restart it by itself:
       a start would wait as well.
    3. It runs with other inputs than wanted, or what it reads was edited by hand → restart,
       saying what changed.
    4. Otherwise it is left alone.

    And for each deployed unit that is wanted no more: it is stopped. So is one that is restarted
    on another port, where its old port goes to another unit.

    `placements` are those of the wanted services; those of `deployed` say what is held now.
    """
    steps = [step for spec in wanted if (step := _step(spec, deployed, observed))]
    leaving = _leaving(wanted, deployed, observed)
    room = Room(deployed.placements if deployed else (), placements)
    return Plan(
        changes=changes,
        waves=order(steps, leaving + _making_room(steps, deployed), groups, room),
        adopts=observed.foreign,
        reload=switch or bool(observed.foreign or observed.wrong_placements),
        switch=switch,
        repairs=observed.wrong_placements,
    )


def _step(spec: ServiceSpec, deployed: Manifest | None, observed: Observed) -> Step | None:
    state = observed.unit(spec.unit)
    if not spec.active:
        return Step(Action.STOP, spec, "it did not run before") if _alive(state) else None
    if not state.running:
        waits = state.sub.startswith("auto-restart")
        return Step(Action.RESTART if waits else Action.START, spec, _why_down(state))
    edited = [path for path in observed.edited if path in _reads(spec)]
    if edited:
        return Step(Action.RESTART, spec, f"{_listed(edited)} was edited by hand")
    carried = observed.running_inputs.get(spec.unit)
    if carried == spec.inputs:
        return None
    return Step(Action.RESTART, spec, _why_changed(spec, deployed, carried))


def _reads(spec: ServiceSpec) -> frozenset[str]:
    """The sealed files that a unit is made from, as the renderer names them."""
    own = {f"units/{spec.unit}", f"dropins/{spec.name}.conf"}
    own |= {f"env/{spec.name}.env", f"secrets/{spec.name}.env"}
    return frozenset(own | {GATEWAY_CONFIG} if spec.is_gateway else own)


def _alive(state: UnitState) -> bool:
    return state.active not in ("inactive", "failed") or state.sub.startswith("auto-restart")


def _why_down(state: UnitState) -> str:
    if state.broken:
        return f"it failed, {state.ending}" if state.ending else "it failed"
    return "it does not run"


def _why_changed(spec: ServiceSpec, deployed: Manifest | None, carried: str | None) -> str:
    before = deployed.service(spec.name) if deployed else None
    if before is None or before.inputs != carried:
        return "it runs with other settings than labctl deployed"
    old = dict(before.components)
    new = dict(spec.components)
    changed = [what for what in new if old.get(what) != new[what]]
    changed += [what for what in old if what not in new]
    return f"{_listed(changed)} changed" if changed else "its inputs changed"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _leaving(
    wanted: Sequence[ServiceSpec], deployed: Manifest | None, observed: Observed
) -> list[Step]:
    if deployed is None:
        return []
    staying = {spec.unit for spec in wanted}
    return [
        Step(Action.STOP, spec, "the lab has it no more")
        for spec in deployed.services
        if spec.unit not in staying and _alive(observed.unit(spec.unit))
    ]


def _making_room(steps: Sequence[Step], deployed: Manifest | None) -> list[Step]:
    """Stops of units that hold, until their own restart, the port that another step needs."""
    if deployed is None:
        return []
    old = {spec.unit: spec for spec in deployed.services}
    return [
        Step(Action.STOP, before, f"its port {before.port} goes to {other.service.name}")
        for step in steps
        if step.action is Action.RESTART and (before := old.get(step.service.unit))
        for other in steps
        if other.service.unit != before.unit and other.service.port == before.port
        if before.port is not None and other.action is not Action.STOP
    ]


def order(
    steps: Iterable[Step],
    leaving: Iterable[Step],
    groups: Sequence[GroupSpec],
    room: Room | None = None,
) -> tuple[tuple[Step, ...], ...]:
    """Put steps into waves. Steps of one wave may run side by side.

    1. Units that leave and hold what another unit needs now, a port, GPU memory or the GPU of
       their exclusive group: stopped first.
    2. Units that shall not run: stopped.
    3. Restarts that give GPU memory back which another unit needs.
    4. Units that do not run are started together: they take nothing down.
    5. The other restarts, so that no wave holds two providers of one chain.
    6. The gateway, after its providers.
    7. The other units that leave: the gateway asks them no more.
    """
    steps, leaving, room = list(steps), list(leaving), room or Room()
    ports = {step.service.port for step in steps if step.service.port is not None}
    rivals = {step.service.exclusive for step in steps if step.service.exclusive is not None}
    in_the_way = [
        step
        for step in leaving
        if step.service.port in ports
        or step.service.exclusive in rivals
        or room.makes_way(step, steps)
    ]
    stops = [step for step in steps if step.action is Action.STOP]
    gateway = [step for step in steps if step.service.is_gateway and step not in stops]
    backends = [step for step in steps if step not in stops and step not in gateway]
    starts = [step for step in backends if step.action is Action.START]
    restarts = [step for step in backends if step.action is Action.RESTART]
    yielding = [step for step in restarts if room.makes_way(step, backends)]
    waves = [
        in_the_way,
        stops,
        *_apart(yielding, groups),
        starts,
        *_apart([step for step in restarts if step not in yielding], groups),
        gateway,
        [step for step in leaving if step not in in_the_way],
    ]
    return tuple(tuple(wave) for wave in waves if wave)


def _apart(restarts: Sequence[Step], groups: Sequence[GroupSpec]) -> list[list[Step]]:
    """Greedy colouring: each restart joins the first wave that holds nobody of its chains."""
    together = providers_together(groups)
    waves: list[list[Step]] = []
    for step in restarts:
        rivals = together.get(step.service.name, frozenset())
        for wave in waves:
            if not any(other.service.name in rivals for other in wave):
                wave.append(step)
                break
        else:
            waves.append([step])
    return waves


def providers_together(groups: Sequence[GroupSpec]) -> Mapping[str, frozenset[str]]:
    """For each service, the others that some chain may fall back to or come from."""
    by_name = {group.name: group for group in groups}
    together: dict[str, set[str]] = {}
    for group in groups:
        services = _services_of_chain(group, by_name)
        for service in services:
            together.setdefault(service, set()).update(services - {service})
    return {service: frozenset(others) for service, others in together.items()}


def _services_of_chain(group: GroupSpec, by_name: Mapping[str, GroupSpec]) -> set[str]:
    seen: set[str] = set()
    services: set[str] = set()
    waiting = [group.name]
    while waiting:
        name = waiting.pop()
        member = by_name.get(name)
        if member is None or name in seen:
            continue
        seen.add(name)
        services.update(member.services)
        waiting.extend(member.chain)
    return services


def weaker_chains(groups: Sequence[GroupSpec], down: frozenset[str]) -> tuple[str, ...]:
    """One sentence per chain that has lost members to services that are down."""
    by_name = {group.name: group for group in groups}
    sentences = []
    for group in groups:
        line = [by_name[name] for name in (group.name, *group.chain) if name in by_name]
        lost = sorted({s for member in line for s in member.services if s in down})
        if not lost:
            continue
        left = [m.name for m in line if m.remote or any(s not in down for s in m.services)]
        rest = f"{' → '.join(left)} is left" if left else "nothing is left: it answers no request"
        sentences.append(f"{group.name}: without {_listed(lost)}, {rest}")
    return tuple(sentences)


def cautious_models(spec: ServiceSpec) -> bool:
    """Whether asking for the model list waits for a generation in progress."""
    return spec.kind is ServiceKind.LLAMACPP_PYTHON
