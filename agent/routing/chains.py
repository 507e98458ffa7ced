"""What the gateway does along a chain when everything on it fails. Pure graph walks.

The order is LiteLLM 1.106.2's (`run_async_fallback`, measured against the real gateway):

1. A group fails: each member of its chain is tried in order, unless this request tried it before.
2. A member that fails goes down its own chain first: depth first.
3. Each attempt counts, siblings too: a chain that would start after `max_fallbacks` attempts on
   the way down to it is not started.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.routing import RoutingTable

DEFAULT_MAX_FALLBACKS = 5


def walk(
    table: RoutingTable, group: str, max_fallbacks: int = DEFAULT_MAX_FALLBACKS
) -> tuple[str, ...]:
    """The groups that one request for `group` tries when all of them fail, `group` first."""
    chains = {g.name: g.chain for g in table.groups}
    tried: dict[str, None] = {group: None}
    # One entry a level: the members still to try and how many attempts lead up to the next one.
    levels = [(iter(chains.get(group, ())), 0)] if max_fallbacks > 0 else []
    while levels:
        members, depth = levels.pop()
        member = next((m for m in members if m not in tried), None)
        if member is None:
            continue
        tried[member] = None
        levels.append((members, depth + 1))
        if depth + 1 < max_fallbacks:
            levels.append((iter(chains.get(member, ())), depth + 1))
    return tuple(tried)


def closure(table: RoutingTable, group: str) -> tuple[str, ...]:
    """Every group that chains lead to from `group`, however deep, in the order of the walk."""
    return walk(table, group, max_fallbacks=sum(1 + len(g.chain) for g in table.groups) + 1)


def cycles(table: RoutingTable, inherited: bool = False) -> tuple[tuple[str, ...], ...]:
    """Chains that lead back to where they began, each once, from its first group of the table.

    One shortest cycle through each edge that closes one: enough to name every place to cut.
    Default chains do not count unless `inherited`: their members inherit them from each other.
    """
    edges = {g.name: g.chain for g in table.groups if inherited or not g.inherits}
    order = {g.name: number for number, g in enumerate(table.groups)}
    found: dict[tuple[str, ...], None] = {}
    for start in edges:
        for member in edges[start]:
            path = _shortest(edges, member, start)
            if path is not None:
                first = path.index(min(path, key=lambda name: order[name]))
                found[path[first:] + path[:first]] = None
    return tuple(found)


def _shortest(edges: dict[str, tuple[str, ...]], start: str, end: str) -> tuple[str, ...] | None:
    """The groups of a shortest way from `start` to `end`, both included."""
    paths: dict[str, tuple[str, ...]] = {start: (start,)}
    front = [start]
    while front:
        if end in paths:
            return paths[end]
        front = list(_next_front(edges, paths, front))
    return paths.get(end)


def _next_front(
    edges: dict[str, tuple[str, ...]], paths: dict[str, tuple[str, ...]], front: list[str]
) -> Iterator[str]:
    for name in front:
        for member in edges.get(name, ()):
            if member not in paths:
                paths[member] = (*paths[name], member)
                yield member
