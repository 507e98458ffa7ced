"""Requests and tokens a minute for each deployment: LiteLLM counts deployment by deployment."""

from __future__ import annotations

from agent.model.lab import Lab, RateLimit
from agent.model.routing import Deployment, Group


def deployment_limits(lab: Lab, group: Group) -> tuple[RateLimit, ...]:
    """The limit of each deployment of a group, in its order.

    A group's limit is divided by weight, so that the parts add up to it; failover moves requests
    to a part that is not used up. A provider's limit holds for each of its deployments: LiteLLM
    has no counter for a provider as a whole.
    """
    limit = next(
        (each for ref, each in lab.gateway.rate_limits if ref.name == group.name), RateLimit()
    )
    weights = [d.weight or 1.0 for d in group.deployments]
    requests = _divided(limit.requests_per_minute, weights)
    tokens = _divided(limit.tokens_per_minute, weights)
    return tuple(
        _lower(RateLimit(r, t), _provider_limit(lab, d))
        for d, r, t in zip(group.deployments, requests, tokens, strict=True)
    )


def _provider_limit(lab: Lab, deployment: Deployment) -> RateLimit:
    provider = lab.provider(deployment.provider)
    return provider.rate_limit if provider is not None else RateLimit()


def _divided(total: int | None, weights: list[float]) -> list[int | None]:
    """Whole parts in proportion to the weights, at least 1 each; what is left goes to the first."""
    if total is None:
        return [None] * len(weights)
    parts = [max(1, int(total * weight / sum(weights))) for weight in weights]
    parts[0] += max(0, total - sum(parts))
    return list(parts)


def _lower(one: RateLimit, other: RateLimit) -> RateLimit:
    return RateLimit(
        _minimum(one.requests_per_minute, other.requests_per_minute),
        _minimum(one.tokens_per_minute, other.tokens_per_minute),
    )


def _minimum(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
