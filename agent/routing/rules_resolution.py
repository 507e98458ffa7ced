"""Rules about what the table could not place."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.finding import Position, Severity
from agent.model.lab import Provider, Reference
from agent.model.rule import Complaint, Rule, Subject, rule
from agent.routing.names import quoted
from agent.routing.resolve import Ambiguous, backend_name, provider_model


@rule(
    "ambiguous-share",
    Severity.ERROR,
    "The gateway needs one model a deployment: without it the provider gets no requests at all.",
)
def ambiguous_share(subject: Subject) -> Iterator[Complaint]:
    """A balance or a capability names a provider, but not which of its models.

    Example: `load_balancing: {chat: {providers: [{provider: ollama, weight: 1}]}}` where `ollama`
    lists three models and none has the specialty `chat`.
    """
    for balance in subject.lab.balances:
        for share in balance.shares:
            key = "preferred_model"
            yield from _unplaced(subject, balance.name, share.provider, share.preferred_model, key)
    for capability in subject.lab.capabilities:
        if capability.provider is not None and not capability.preferred:
            key = "preferred_models"
            yield from _unplaced(subject, capability.name, capability.provider, None, key)


def _unplaced(
    subject: Subject, name: str, by: Reference, preferred: Reference | None, key: str
) -> Iterator[Complaint]:
    provider = subject.lab.provider(by.name)
    if provider is None or not provider.active or not provider.models:
        return  # `unknown-provider` and `provider-without-models` say it
    model = provider_model(subject.lab, provider, name, preferred)
    if not isinstance(model, Ambiguous):
        return
    if preferred is not None:
        message = f"`{name}`: provider `{provider.name}` does not list `{preferred.name}`"
        yield Complaint(preferred.at, message, f"it lists {quoted(model.candidates)}")
        return
    message = f"`{name}`: provider `{provider.name}` lists {quoted(model.candidates)}"
    yield Complaint(by.at, f"{message}; which is meant?", f"name one with `{key}:`")


@rule(
    "name-taken",
    Severity.WARNING,
    "A name leads to one place only: requests for it never reach the other one.",
)
def name_taken(subject: Subject) -> Iterator[Complaint]:
    """Two providers list a model under one name, or a capability has the name of a model.

    Example: `ollama` and `ollama2` both list `llama3`, and no route tells them apart. A capability
    of the name of a model is an error: one of the two could never be asked for.
    """
    lab = subject.lab
    taken: dict[str, Provider | None] = {r.name: lab.provider(r.provider.name) for r in lab.routes}
    routed = {(route.provider.name, backend_name(route)) for route in lab.routes}
    for provider in lab.providers:
        for model in provider.models if provider.active else ():
            if (provider.name, model.name) in routed:
                continue
            if model.name not in taken:
                taken[model.name] = provider
            else:
                yield _taken(model.name, model.at, provider, taken[model.name])
    for capability in lab.capabilities:
        if capability.name in taken:
            message = f"the capability `{capability.name}` has the name of a model"
            hint = "rename the capability"
            yield Complaint(capability.at, message, hint, Severity.ERROR)


def _taken(name: str, at: Position, provider: Provider, owner: Provider | None) -> Complaint:
    where = f"provider `{owner.name}`" if owner is not None else "a route"
    message = (
        f"`{name}` of provider `{provider.name}` is never asked for: the name leads to {where}"
    )
    hint = (
        "give it a name of its own with an exact match and `backend_model`,"
        " or spread requests over both under `load_balancing`"
    )
    return Complaint(at, message, hint)


RESOLUTION_RULES: tuple[Rule, ...] = (ambiguous_share, name_taken)
