"""Which of a provider's models is meant where a lab names only the provider."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.lab import Lab, Provider, ProviderModel, Reference, Route


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """No single model of `provider` is meant.

    `wanted` is a preferred model that the provider does not list, if that is what went wrong.
    """

    provider: Provider
    wanted: str | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.provider.models)


def backend_name(route: Route) -> str:
    """The name that a route's provider is asked for."""
    return route.backend_model.name if route.backend_model else route.name


def route_model(lab: Lab, route: Route) -> ProviderModel | None:
    """The model that a route leads to; None when its provider is unknown, inactive or lacks it."""
    provider = lab.provider(route.provider.name)
    if provider is None or not provider.active:
        return None
    return provider.model(backend_name(route))


def provider_model(
    lab: Lab, provider: Provider, group: str, preferred: Reference | None = None
) -> ProviderModel | Ambiguous:
    """The model that `provider` serves for the group named `group`.

    1. The preferred model, by its own name or by a route's name for it.
    2. The model of the group's own name, or of the route of that name on this provider.
    3. The only model whose specialty is the group's name (`general-chat` ~ `general_chat`).
    4. The only model.
    """
    if preferred is not None:
        named = _named(lab, provider, preferred.name)
        return named or Ambiguous(provider, wanted=preferred.name)
    named = _named(lab, provider, group)
    if named is not None:
        return named
    specialty = _folded(group)
    special = [m for m in provider.models if m.specialty and _folded(m.specialty) == specialty]
    if len(special) == 1:
        return special[0]
    return provider.models[0] if len(provider.models) == 1 else Ambiguous(provider)


def _named(lab: Lab, provider: Provider, name: str) -> ProviderModel | None:
    """The model that is listed under `name`, or that a route of that name asks for."""
    listed = provider.model(name)
    if listed is not None:
        return listed
    routes = (r for r in lab.routes if r.name == name and r.provider.name == provider.name)
    return next((provider.model(backend_name(route)) for route in routes), None)


def _folded(text: str) -> str:
    return text.casefold().replace("_", "-").replace(" ", "-")
