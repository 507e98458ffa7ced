"""Lab → RoutingTable: every name that clients may ask for, its deployments and its chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.model.finding import Finding, Position
from agent.model.lab import Balance, Capability, Lab, Provider, ProviderModel, Reference
from agent.model.routing import Deployment, Group, GroupOrigin, RoutingTable
from agent.model.rule import Subject
from agent.routing.names import offered_names
from agent.routing.resolve import Ambiguous, backend_name, provider_model, route_model
from agent.routing.rules_resolution import RESOLUTION_RULES


def build_table(lab: Lab) -> tuple[RoutingTable, tuple[Finding, ...]]:
    """Build the gateway's model groups, in the order of the lab's files.

    The findings are about what could not be placed: a share or a capability that names a provider
    without saying which of its models is meant, and two models that want one name. Everything
    else that can be wrong is found by `agent.routing.RULES`.

    1. One group a route whose active provider lists its model.
    2. One group for each listed model that no route names.
    3. One group a capability: its first preferred model.
    4. Balances add a group, or replace the deployments of the group of that name.
    5. Chains: the group's own; else the rest of its capability or its route's fallback;
       else the default chain.
    """
    groups: dict[str, Group] = {}
    for group in (*_routed(lab), *_listed(lab)):
        groups.setdefault(group.name, group)
    for capability in lab.capabilities:
        deployments = _capability_deployments(lab, capability, groups)
        if deployments:
            origin = GroupOrigin.CAPABILITY
            group = Group(capability.name, capability.at, origin, deployments)
            groups.setdefault(capability.name, group)
    for balance in lab.balances:
        deployments = _shares(lab, balance)
        if deployments:
            groups[balance.name] = Group(balance.name, balance.at, GroupOrigin.BALANCE, deployments)
    default = tuple(m.name for m in lab.default_chain.members) if lab.default_chain else ()
    chained = tuple(_with_chain(lab, group, groups, default) for group in groups.values())
    table = RoutingTable(chained, default)
    subject = Subject(lab, table)
    return table, tuple(f for rule in RESOLUTION_RULES for f in rule.findings(subject))


def _deployment(
    group: str, provider: Provider, model: ProviderModel, weight: float | None = None
) -> Deployment:
    return Deployment(group, provider.name, model.name, provider.service, weight)


def _single(name: str, at: Position, provider: Provider, model: ProviderModel) -> Group:
    deployment = _deployment(name, provider, model)
    return Group(name, at, GroupOrigin.MODEL, (deployment,))


def _routed(lab: Lab) -> Iterator[Group]:
    for route in lab.routes:
        provider = lab.provider(route.provider.name)
        model = route_model(lab, route)
        if provider is not None and model is not None:
            yield _single(route.name, route.at, provider, model)


def _listed(lab: Lab) -> Iterator[Group]:
    """Models of active providers that no route leads to."""
    routed = {(route.provider.name, backend_name(route)) for route in lab.routes}
    for provider in lab.providers:
        if not provider.active:
            continue
        for model in provider.models:
            if (provider.name, model.name) not in routed:
                yield _single(model.name, model.at, provider, model)


def _capability_deployments(
    lab: Lab, capability: Capability, groups: dict[str, Group]
) -> tuple[Deployment, ...]:
    """The deployments of the first preferred model that exists, or of the capability's provider.

    A preferred model that does not exist is a finding of its own; going on with the next one
    keeps the capability from adding a second finding about itself to each chain that names it.
    """
    for preferred in capability.preferred:
        group = groups.get(preferred.name)
        if group is not None:
            return tuple(replace(d, group=capability.name) for d in group.deployments)
    if capability.preferred or capability.provider is None:
        return ()
    provider = lab.provider(capability.provider.name)
    if provider is None or not provider.active:
        return ()
    model = provider_model(lab, provider, capability.name)
    if isinstance(model, Ambiguous):
        return ()
    return (_deployment(capability.name, provider, model),)


def _shares(lab: Lab, balance: Balance) -> tuple[Deployment, ...]:
    """One deployment a share that can be placed; weights only where there is a choice."""
    deployments: list[Deployment] = []
    for share in balance.shares:
        provider = lab.provider(share.provider.name)
        if provider is None or not provider.active:
            continue
        model = provider_model(lab, provider, balance.name, share.preferred_model)
        if not isinstance(model, Ambiguous):
            deployments.append(_deployment(balance.name, provider, model, share.weight))
    if len(deployments) == 1:
        return (replace(deployments[0], weight=None),)
    return tuple(deployments)


def _with_chain(
    lab: Lab, group: Group, groups: dict[str, Group], default: tuple[str, ...]
) -> Group:
    """The group with its chain; members that name no group are left out."""
    own = own_chain(lab, group.name, groups)
    wanted = default if own is None else own
    members = dict.fromkeys(name for name in wanted if name in groups and name != group.name)
    return replace(group, chain=tuple(members), inherits=own is None and bool(default))


def own_chain(lab: Lab, name: str, groups: dict[str, Group]) -> tuple[str, ...] | None:
    """The chain that the lab gives a group; None when it gives none, () for a deliberate end."""
    chain = next((chain for chain in lab.chains if chain.group == name), None)
    if chain is not None:
        return tuple(member.name for member in chain.members)
    capability = next((c for c in lab.capabilities if c.name == name), None)
    if capability is not None:
        return _capability_chain(lab, capability, groups)
    route = next((route for route in lab.routes if route.name == name), None)
    if route is not None and route.fallback is not None:
        target = fallback_group(lab, route.fallback, groups)
        return (target,) if target is not None else None
    return None


def _capability_chain(
    lab: Lab, capability: Capability, groups: dict[str, Group]
) -> tuple[str, ...] | None:
    """The preferred models after the one that serves, then the fallback.

    A capability that has neither goes on as the model that it stands for does.
    """
    known = [member.name for member in capability.preferred if member.name in groups]
    rest = known[1:]
    if capability.fallback is not None:
        target = fallback_group(lab, capability.fallback, groups)
        rest += [target] if target is not None else []
    if rest:
        return tuple(rest)
    if known and known[0] != capability.name:
        return own_chain(lab, known[0], groups)
    return None


def fallback_group(lab: Lab, fallback: Reference, groups: dict[str, Group]) -> str | None:
    """The group that a `fallback:` means: a group's name, or a provider with a single model."""
    if fallback.name in groups:
        return fallback.name
    provider = lab.provider(fallback.name)
    if provider is None or not provider.active or len(provider.models) != 1:
        return None
    name = offered_names(lab, provider)[0]
    return name if name in groups else None
