"""What the gateway will serve: model groups, their deployments and their chains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.model.finding import Position


class GroupOrigin(StrEnum):
    """Which part of the lab a model group comes from."""

    MODEL = "model"
    CAPABILITY = "capability"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One (model group, provider) entry of the gateway's model list.

    Attributes:
        model: the name that the provider is asked for.
        service: the local service behind it; None for a remote provider.
        weight: relative share within its group; None when it is alone.
    """

    group: str
    provider: str
    model: str
    service: str | None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A name that clients may ask the gateway for.

    `chain` holds the fallback groups in order, as the gateway will try them. `inherits` says that
    they are the default chain's, because the lab gives the group no chain of its own.
    """

    name: str
    at: Position
    origin: GroupOrigin
    deployments: tuple[Deployment, ...]
    chain: tuple[str, ...] = ()
    inherits: bool = False

    @property
    def services(self) -> frozenset[str]:
        return frozenset(d.service for d in self.deployments if d.service is not None)

    @property
    def local(self) -> bool:
        """Whether every deployment is on this host."""
        return all(d.service is not None for d in self.deployments)


@dataclass(frozen=True, slots=True)
class GatewayDocument:
    """The gateway's config, rendered.

    Attributes:
        text: the whole file; empty when the lab has no gateway.
        body: its effective part, without the header: what counts as changed.
        ids: by deployment, the id that reaches it alone when it is asked for as a model.
        addresses: by provider name, the address as the gateway names it in its answers.
    """

    text: str = ""
    body: str = ""
    ids: Mapping[Deployment, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every model group, in the order in which the gateway lists them."""

    groups: tuple[Group, ...]
    default_chain: tuple[str, ...] = ()

    def group(self, name: str) -> Group | None:
        return next((group for group in self.groups if group.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.groups)
