"""Names that people meant: suggestions for a reference that names nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from agent.model.lab import Lab, Provider, ProviderStatus, Route


def quoted(names: Iterable[str]) -> str:
    """`a`, `b` and `c`; "nothing" for an empty list."""
    words = [f"`{name}`" for name in names]
    if len(words) < 2:
        return "".join(words) or "nothing"
    return f"{', '.join(words[:-1])} and {words[-1]}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A hint that names the closest known name, or all of them when there are few."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known are {quoted(known)}" if 0 < len(known) <= 12 else ""


def counted(count: int, noun: str) -> str:
    """`1 chain`, `2 chains`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def offered_names(lab: Lab, provider: Provider) -> tuple[str, ...]:
    """The group names under which clients reach a provider's models, in the lab's order."""
    routed = {
        route.backend_model.name if route.backend_model else route.name: route.name
        for route in lab.routes
        if route.provider.name == provider.name
    }
    return tuple(routed.get(model.name, model.name) for model in provider.models)


def status_reason(provider: Provider) -> str:
    """Why a provider that is not active serves nothing."""
    if provider.status is ProviderStatus.TEMPLATE:
        return "is only a template"
    return f"is {provider.status}"


def dead_route(lab: Lab, name: str) -> tuple[Route, Provider] | None:
    """The route of this name whose provider exists but is not active."""
    for route in lab.routes:
        provider = lab.provider(route.provider.name)
        if route.name == name and provider is not None and not provider.active:
            return route, provider
    return None
