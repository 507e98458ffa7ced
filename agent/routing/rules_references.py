"""Rules about names that lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.finding import Severity
from agent.model.lab import Lab, Provider, Reference
from agent.model.routing import RoutingTable
from agent.model.rule import Complaint, Rule, Subject, rule
from agent.routing.names import (
    counted,
    dead_route,
    did_you_mean,
    offered_names,
    quoted,
    status_reason,
)
from agent.routing.resolve import backend_name
from agent.routing.table import fallback_group


@rule(
    "dangling-fallback",
    Severity.ERROR,
    "The gateway answers 400, or skips the member in silence: the chain is shorter than it reads.",
)
def dangling_fallback(subject: Subject) -> Iterator[Complaint]:
    """A chain, a capability or a fallback names something that is no model of the gateway.

    Example: `preferred_models: [kimi, llama_cpp_python]`, where `llama_cpp_python` is a provider.
    A name in `*_thresholds` is only a warning, because the gateway has no use for thresholds.
    """
    lab, table = subject.lab, subject.table
    chains = (*lab.chains, lab.default_chain) if lab.default_chain else lab.chains
    for chain in chains:
        if chain.group != "default" and table.group(chain.group) is None:
            key = Reference(chain.group, chain.at)
            yield _dangling(subject, key, f"the chain of `{chain.group}` is of no model")
        for member in chain.members:
            yield from _missing(subject, member, f"the chain of `{chain.group}` needs")
    for capability in lab.capabilities:
        for member in capability.preferred:
            yield from _missing(subject, member, f"the capability `{capability.name}` prefers")
        if capability.fallback is not None:
            what = f"the capability `{capability.name}` falls back to"
            yield from _missing_fallback(subject, capability.fallback, what)
        for level in capability.thresholds:
            what = f"a threshold of the capability `{capability.name}` names"
            yield from _missing(subject, level, what, Severity.WARNING)
    for route in lab.routes:
        if route.fallback is not None:
            yield from _missing_fallback(subject, route.fallback, f"`{route.name}` falls back to")


def _missing(
    subject: Subject, member: Reference, what: str, severity: Severity | None = None
) -> Iterator[Complaint]:
    if subject.table.group(member.name) is None:
        yield _dangling(subject, member, f"{what} `{member.name}`", severity)


def _missing_fallback(subject: Subject, fallback: Reference, what: str) -> Iterator[Complaint]:
    groups = {group.name: group for group in subject.table.groups}
    if fallback_group(subject.lab, fallback, groups) is None:
        yield _dangling(subject, fallback, f"{what} `{fallback.name}`")


def _dangling(
    subject: Subject, name: Reference, what: str, severity: Severity | None = None
) -> Complaint:
    """Say why the name leads nowhere: a provider, a dead or broken route, or a typing mistake."""
    lab, table = subject.lab, subject.table
    provider = lab.provider(name.name)
    if provider is not None:
        return Complaint(
            name.at,
            f"{what}: that is a provider, not a model",
            _offer(lab, table, provider),
            severity,
        )
    dead = dead_route(lab, name.name)
    if dead is not None:
        owner = dead[1]
        message = f"{what}: its provider `{owner.name}` {status_reason(owner)}"
        hint = f"set `status: active` for `{owner.name}`, or take the name out"
        return Complaint(name.at, message, hint, severity)
    route = next((route for route in lab.routes if route.name == name.name), None)
    if route is not None:
        message = f"{what}: no provider serves it"
        hint = f"list `{backend_name(route)}` under `models:` of `{route.provider.name}`"
        return Complaint(name.at, message, hint, severity)
    owners = [p for p in lab.providers if not p.active and p.model(name.name) is not None]
    if owners:
        message = f"{what}: its provider `{owners[0].name}` {status_reason(owners[0])}"
        hint = f"set `status: active` for `{owners[0].name}`, or take the name out"
        return Complaint(name.at, message, hint, severity)
    message = f"{what}: no such model"
    return Complaint(name.at, message, did_you_mean(name.name, table.names), severity)


def _offer(lab: Lab, table: RoutingTable, provider: Provider) -> str:
    names = [name for name in offered_names(lab, provider) if table.group(name) is not None]
    if not provider.active:
        return f"it {status_reason(provider)} and serves nothing"
    if not names:
        return "it lists no models; list them under `models:` in providers.yaml"
    return f"its {'model is' if len(names) == 1 else 'models are'} {quoted(names)}"


@rule(
    "model-without-provider",
    Severity.ERROR,
    "The gateway would not list the model; every request for it answers 400.",
)
def model_without_provider(subject: Subject) -> Iterator[Complaint]:
    """An exact match leads to an active provider that does not list its model.

    Example: `llama-cpp-default: {provider: llama_cpp_python}` without that model among the
    provider's `models:`.
    """
    lab = subject.lab
    for route in lab.routes:
        provider = lab.provider(route.provider.name)
        name = backend_name(route)
        if provider is None or not provider.active or provider.model(name) is not None:
            continue
        listed = [model.name for model in provider.models]
        message = (
            f"`{route.name}` has no provider: `{provider.name}` does not list `{name}`,"
            f" it lists {quoted(listed)}"
        )
        hint = f"list `{name}` under `models:` of `{provider.name}` in providers.yaml"
        if listed:
            hint += f", or name one that it lists with `backend_model:` ({quoted(listed)})"
        yield Complaint((route.backend_model or route).at, message, hint)


@rule(
    "provider-without-models",
    Severity.ERROR,
    "The gateway sends nothing to a provider without models.",
)
def provider_without_models(subject: Subject) -> Iterator[Complaint]:
    """An active provider lists no models.

    Example: `llama_cpp_native: {type: llama_cpp, status: active, base_url: ...}`.
    """
    lab = subject.lab
    for provider in lab.providers:
        if not provider.active or provider.models:
            continue
        users = _users(lab, provider.name)
        needs = f"; {counted(len(users), 'entry')} of model-mappings.yaml" if users else ""
        needs = needs.replace("entrys", "entries")
        named = f"{needs} need{'s' if len(users) == 1 else ''} it: {quoted(users)}" if users else ""
        message = f"the active provider `{provider.name}` lists no models{named}"
        hint = "list what it serves under `models:`, or set `status: disabled`"
        yield Complaint(provider.at, message, hint)


def _users(lab: Lab, provider: str) -> list[str]:
    """What asks a provider for a model: routes, balances and capabilities."""
    routes = [route.name for route in lab.routes if route.provider.name == provider]
    balances = [b.name for b in lab.balances if provider in {s.provider.name for s in b.shares}]
    capabilities = [
        c.name for c in lab.capabilities if c.provider is not None and c.provider.name == provider
    ]
    return list(dict.fromkeys([*routes, *balances, *capabilities]))


@rule(
    "unknown-provider",
    Severity.ERROR,
    "Nothing can be asked of a provider that providers.yaml does not have, or has switched off.",
)
def unknown_provider(subject: Subject) -> Iterator[Complaint]:
    """An exact match, a share or a capability names a provider that is missing or not active.

    Example: `provider: vllm-qwn`. An inactive provider is only a warning where the name simply
    is not served, or where another share takes the requests.
    """
    lab = subject.lab
    for route in lab.routes:
        left = f"`{route.name}` is not served"
        yield from _provider_problem(lab, route.provider, left, Severity.WARNING)
    for balance in lab.balances:
        active = [s for s in balance.shares if _is_active(lab, s.provider.name)]
        severity = Severity.WARNING if active else Severity.ERROR
        left = f"`{balance.name}` is spread over {counted(len(active), 'provider')}"
        for share in balance.shares:
            yield from _provider_problem(lab, share.provider, left, severity)
    for capability in lab.capabilities:
        if capability.provider is not None and not capability.preferred:
            left = f"the capability `{capability.name}` is not served"
            yield from _provider_problem(lab, capability.provider, left, Severity.ERROR)


def _is_active(lab: Lab, name: str) -> bool:
    provider = lab.provider(name)
    return provider is not None and provider.active


def _provider_problem(
    lab: Lab, reference: Reference, left: str, severity: Severity
) -> Iterator[Complaint]:
    provider = lab.provider(reference.name)
    if provider is None:
        known = [each.name for each in lab.providers]
        message = f"no provider is called `{reference.name}`: {left}"
        yield Complaint(reference.at, message, did_you_mean(reference.name, known))
    elif not provider.active:
        message = f"the provider `{provider.name}` {status_reason(provider)}: {left}"
        hint = f"set `status: active` for `{provider.name}`, or take this out"
        yield Complaint(reference.at, message, hint, severity)


@rule(
    "rate-limit-unknown-group",
    Severity.ERROR,
    "A limit on a name that the gateway does not serve limits nothing.",
)
def rate_limit_unknown_group(subject: Subject) -> Iterator[Complaint]:
    """A rate limit in lab.yaml names something that is no model of the gateway.

    Example: `gateway: {rate_limits: {llama3: {rpm: 100}}}` where the model is `llama3.1:latest`.
    """
    for reference, _ in subject.lab.gateway.rate_limits:
        yield from _missing(subject, reference, "a rate limit names")


REFERENCE_RULES: tuple[Rule, ...] = (
    dangling_fallback,
    model_without_provider,
    provider_without_models,
    unknown_provider,
    rate_limit_unknown_group,
)
