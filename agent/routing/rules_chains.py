"""Rules about the shape of chains and balances."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.finding import Position, Severity
from agent.model.lab import Chain, Lab
from agent.model.rule import Complaint, Rule, Subject, rule
from agent.routing.chains import closure, cycles, walk
from agent.routing.names import counted, quoted


@rule(
    "cycle",
    Severity.ERROR,
    "The gateway tries each group once a request and then stops: whoever counts on the chain"
    " counts some members twice.",
)
def cycle(subject: Subject) -> Iterator[Complaint]:
    """Chains lead back to where they began.

    Example: `a: [b]` and `b: [a]`. Members that inherit the default chain from each other are
    not meant.
    """
    circles: dict[str, list[str]] = {}
    for path in cycles(subject.table):
        around = " → ".join(f"`{name}`" for name in (*path, path[0]))
        circles.setdefault(path[0], []).append(around)
    for first, ways in circles.items():
        message = f"fallbacks go in a circle: {'; '.join(ways)}"
        hint = "in each circle take one name out of the chain before it"
        yield Complaint(_chain_position(subject, first), message, hint)


def _chain_position(subject: Subject, name: str) -> Position:
    chain = next((chain for chain in subject.lab.chains if chain.group == name), None)
    group = subject.table.group(name)
    if chain is not None:
        return chain.at
    return group.at if group is not None else subject.lab.gateway.at


@rule(
    "self-fallback",
    Severity.ERROR,
    "The gateway skips it in silence: the chain is shorter than it reads.",
)
def self_fallback(subject: Subject) -> Iterator[Complaint]:
    """A model falls back to itself.

    Example: `llama3: {chain: [llama3, mistral]}`.
    """
    lab = subject.lab
    for chain in lab.chains:
        for member in chain.members:
            if member.name == chain.group:
                message = f"the chain of `{chain.group}` names `{chain.group}` itself"
                yield Complaint(member.at, message, "take it out")
    for route in lab.routes:
        if route.fallback is not None and route.fallback.name == route.name:
            message = f"`{route.name}` falls back to itself"
            yield Complaint(route.fallback.at, message, "take the fallback out")


@rule(
    "duplicate",
    Severity.WARNING,
    "The gateway tries a group once a request: the second mention adds nothing.",
)
def duplicate(subject: Subject) -> Iterator[Complaint]:
    """A chain, a capability or a balance names one thing twice.

    Example: `chain: [mistral, qwen, mistral]`.
    """
    for chain in _all_chains(subject.lab):
        what = f"the chain of `{chain.group}`"
        for number, member in enumerate(chain.members):
            if member.name in {earlier.name for earlier in chain.members[:number]}:
                yield Complaint(member.at, f"{what} names `{member.name}` again", "take it out")
    for capability in subject.lab.capabilities:
        what = f"the capability `{capability.name}`"
        for number, member in enumerate(capability.preferred):
            if member.name in {earlier.name for earlier in capability.preferred[:number]}:
                yield Complaint(member.at, f"{what} prefers `{member.name}` again", "take it out")
    for group in subject.table.groups:
        backends = [(d.provider, d.model) for d in group.deployments]
        for backend in dict.fromkeys(b for b in backends if backends.count(b) > 1):
            message = f"`{group.name}` is spread over `{backend[1]}` of `{backend[0]}` twice"
            yield Complaint(group.at, message, "add their weights up in one share")


def _all_chains(lab: Lab) -> tuple[Chain, ...]:
    return (*lab.chains, lab.default_chain) if lab.default_chain is not None else lab.chains


@rule(
    "chain-depth",
    Severity.WARNING,
    "The gateway gives up on the way: the groups named here are never tried.",
)
def chain_depth(subject: Subject) -> Iterator[Complaint]:
    """A chain of chains is deeper than `gateway.max_fallbacks`.

    Example: `a: [b]`, `b: [c]` ... seven long, with the default of 5.
    """
    table, limit = subject.table, subject.lab.gateway.max_fallbacks
    lost: dict[str, list[str]] = {}
    for group in table.groups:
        tried = walk(table, group.name, limit)
        never = tuple(name for name in closure(table, group.name) if name not in tried)
        if never:
            lost.setdefault(quoted(never), []).append(group.name)
    for never_tried, groups in lost.items():
        message = (
            f"{counted(len(groups), 'chain')} never get{'s' if len(groups) == 1 else ''} to"
            f" {never_tried}: {quoted(groups)} would need more than {limit} fallbacks"
        )
        hint = "raise `gateway.max_fallbacks`, or name the last resort earlier in the chains"
        yield Complaint(_chain_position(subject, groups[0]), message, hint)


@rule(
    "mixed-balance",
    Severity.WARNING,
    "The same request gets answers of different quality, by chance.",
)
def mixed_balance(subject: Subject) -> Iterator[Complaint]:
    """A balanced group spreads requests over different models.

    Example: `chat` spread over `llama3.1` at one provider and a coding model at another.
    """
    for group in subject.table.groups:
        models = tuple(dict.fromkeys(d.model for d in group.deployments))
        if len(models) < 2:
            continue
        total = sum(d.weight or 0.0 for d in group.deployments) or 1.0
        parts = [
            f"{(d.weight or 0.0) / total:.0%} `{d.model}` of `{d.provider}`"
            for d in group.deployments
        ]
        message = f"`{group.name}` answers from different models: {', '.join(parts)}"
        yield Complaint(group.at, message, "spread over providers of one model, or use a chain")


CHAIN_RULES: tuple[Rule, ...] = (cycle, self_fallback, duplicate, chain_depth, mixed_balance)
