"""Walks along chains: the order that the real gateway was measured to have."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.finding import Position
from agent.model.routing import Group, GroupOrigin, RoutingTable
from agent.routing.chains import closure, cycles, walk

NAMES = "abcdefgh"


def table(**chains: str) -> RoutingTable:
    """`a="bc"` is the chain a → b, c."""
    at = Position("t")
    groups = tuple(
        Group(name, at, GroupOrigin.MODEL, (), tuple(chains.get(name, ""))) for name in NAMES
    )
    return RoutingTable(groups)


# The walks were read from the log of a backend behind LiteLLM 1.106.2 that fails every request.
MEASURED = RoutingTable(
    tuple(
        Group(name, Position("t"), GroupOrigin.MODEL, (), tuple(chain.split()))
        for name, chain in {
            **{f"d{n}": f"d{n + 1}" for n in range(1, 8)},
            **{"d8": "", "s1": "s2 s3 s4", "s2": "s5 s6", "s3": "s7 s1", "s4": "d6 d7"},
            **{"s5": "d1", "s6": "", "s7": ""},
        }.items()
    )
)


@pytest.mark.parametrize(
    ("start", "tried"),
    [
        ("d1", "d1 d2 d3 d4 d5 d6"),
        ("d3", "d3 d4 d5 d6 d7 d8"),
        ("d6", "d6 d7 d8"),
        ("d8", "d8"),
        ("s1", "s1 s2 s5 d1 d2 d3 s6 s3 s7 s4 d6 d7"),
        ("s2", "s2 s5 d1 d2 d3 d4 s6"),
        ("s3", "s3 s7 s1 s2 s5 d1 s6 s4 d6 d7"),
        ("s4", "s4 d6 d7 d8"),
        ("s5", "s5 d1 d2 d3 d4 d5"),
    ],
)
def test_the_walk_is_the_gateways(start: str, tried: str) -> None:
    assert walk(MEASURED, start, 5) == tuple(tried.split())


def naive_walk(chains: dict[str, str], start: str, limit: int) -> list[str]:
    """LiteLLM's recursion, as it is written there."""
    tried = [start]

    def run(group: str, depth: int) -> None:
        if depth >= limit:
            return
        for member in chains.get(group, ""):
            if member not in tried:
                tried.append(member)
                depth += 1
                run(member, depth)

    run(start, 0)
    return tried


GRAPHS = st.dictionaries(
    st.sampled_from(NAMES), st.text(alphabet=NAMES, max_size=5), max_size=len(NAMES)
)


@settings(deadline=None)
@given(GRAPHS, st.sampled_from(NAMES), st.integers(0, 9))
def test_the_walk_equals_the_recursion(chains: dict[str, str], start: str, limit: int) -> None:
    found = walk(table(**chains), start, limit)
    assert list(found) == naive_walk(chains, start, limit)
    assert set(found) <= set(closure(table(**chains), start))


@settings(deadline=None)
@given(GRAPHS, st.sampled_from(NAMES))
def test_the_closure_is_all_that_can_be_reached(chains: dict[str, str], start: str) -> None:
    reached = {start}
    while more := {m for name in reached for m in chains.get(name, "")} - reached:
        reached |= more
    assert set(closure(table(**chains), start)) == reached


@settings(deadline=None)
@given(GRAPHS)
def test_cycles_are_cycles_and_none_is_missed(chains: dict[str, str]) -> None:
    found = cycles(table(**chains))
    for path in found:
        assert len(set(path)) == len(path)
        for name, successor in zip(path, (*path[1:], path[0]), strict=True):
            assert successor in chains[name]
    on_a_cycle = {
        name
        for name in NAMES
        if any(name in closure(table(**chains), member) for member in chains.get(name, ""))
    }
    assert on_a_cycle == {name for path in found for name in path}


def test_a_cycle_is_named_once_from_its_first_group() -> None:
    assert cycles(table(b="c", c="d", d="b")) == (("b", "c", "d"),)
