"""Every branch of the planner's decision tree, its reasons, and the order of its waves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deploy.planner import make_plan, order, providers_together, weaker_chains
from agent.model.generation import GenerationKind, GroupSpec, Manifest, ServiceSpec
from agent.model.host import Observed, UnitState
from agent.model.kinds import ServiceKind
from agent.model.plan import Action, Step

UP = UnitState("alpha.service", "loaded", "active", "running", main_pid=7)


def spec(
    name: str = "alpha",
    *,
    kind: ServiceKind = ServiceKind.LLAMACPP_NATIVE,
    port: int | None = 8080,
    inputs: str = "new",
    active: bool = True,
    components: tuple[tuple[str, str], ...] = (),
) -> ServiceSpec:
    return ServiceSpec(
        name, f"{name}.service", kind, active, port=port, inputs=inputs, components=components
    )


GATEWAY = spec("litellm", kind=ServiceKind.LITELLM, port=4000)


def manifest(*services: ServiceSpec) -> Manifest:
    return Manifest(1, "", GenerationKind.DEPLOY, "", "digest", services=services)


def seen(state: UnitState, carries: str | None = None, edited: Sequence[str] = ()) -> Observed:
    carried = {} if carries is None else {state.unit: carries}
    return Observed(units={state.unit: state}, running_inputs=carried, edited=tuple(edited))


OLD = spec(inputs="old", components=(("unit", "1"), ("environment", "1")))
NEW = spec(components=(("unit", "1"), ("environment", "2")))
TWO = spec(components=(("unit", "2"), ("environment", "2"), ("model file", "1")))
FEWER = spec(components=(("unit", "1"),))
FAILED = UnitState(
    "alpha.service", "loaded", "failed", "failed", None, 0, "exit-code", "exited", 78
)
WAITING = UnitState("alpha.service", "loaded", "activating", "auto-restart", result="signal")
STARTING = UnitState("alpha.service", "loaded", "activating", "start")


@pytest.mark.parametrize(
    ("wanted", "before", "observed", "expected"),
    [
        (spec(active=False), None, seen(UP), "stop alpha.service (it did not run before)"),
        (spec(active=False), None, seen(WAITING), "stop alpha.service (it did not run before)"),
        (spec(active=False), None, seen(FAILED), None),
        (spec(active=False), None, Observed(), None),
        (spec(), None, Observed(), "start alpha.service (it does not run)"),
        (spec(), None, seen(FAILED), "start alpha.service (it failed, exit status 78)"),
        (spec(), None, seen(WAITING), "restart alpha.service (it failed, result signal)"),
        (spec(), None, seen(STARTING), "start alpha.service (it does not run)"),
        (spec(), None, seen(UP, "new"), None),
        (NEW, OLD, seen(UP, "old"), "restart alpha.service (environment changed)"),
        (
            TWO,
            OLD,
            seen(UP, "old"),
            "restart alpha.service (unit, environment and model file changed)",
        ),
        (FEWER, OLD, seen(UP, "old"), "restart alpha.service (environment changed)"),
        (spec(), spec(inputs="old"), seen(UP, "old"), "restart alpha.service (its inputs changed)"),
        (
            NEW,
            OLD,
            seen(UP, "unreadable"),
            "restart alpha.service (it runs with other settings than labctl deployed)",
        ),
        (
            NEW,
            None,
            seen(UP, ""),
            "restart alpha.service (it runs with other settings than labctl deployed)",
        ),
        (
            spec(),
            spec(),
            seen(UP, "new", ["env/alpha.env", "lab/lab.yaml"]),
            "restart alpha.service (env/alpha.env was edited by hand)",
        ),
        (spec(), spec(), seen(UP, "new", ["env/beta.env", "litellm.yaml"]), None),
    ],
)
def test_the_decision_tree(
    wanted: ServiceSpec, before: ServiceSpec | None, observed: Observed, expected: str | None
) -> None:
    plan = make_plan([wanted], (), manifest(before) if before else None, observed)
    assert [str(step) for step in plan.steps] == ([expected] if expected else [])
    assert plan.empty is (expected is None)


def test_an_edited_gateway_config_restarts_the_gateway() -> None:
    state = UnitState("litellm.service", "loaded", "active", "running", main_pid=8)
    plan = make_plan([GATEWAY], (), manifest(GATEWAY), seen(state, "new", ["litellm.yaml"]))
    assert [str(s) for s in plan.steps] == [
        "restart litellm.service (litellm.yaml was edited by hand)"
    ]


def test_a_unit_that_the_lab_has_no_more_is_stopped_last() -> None:
    beta = spec("beta", port=8081)
    observed = Observed(units={"beta.service": UnitState("beta.service", "loaded", "active")})
    plan = make_plan([spec(), GATEWAY], (), manifest(beta, GATEWAY), observed)
    assert [[str(s) for s in wave] for wave in plan.waves] == [
        ["start alpha.service (it does not run)"],
        ["start litellm.service (it does not run)"],
        ["stop beta.service (the lab has it no more)"],
    ]


def test_a_unit_that_left_and_does_not_run_needs_no_step() -> None:
    plan = make_plan([], (), manifest(spec("beta")), Observed())
    assert plan.empty


def test_a_unit_that_leaves_gives_its_port_up_first() -> None:
    beta = spec("beta", port=8080)
    observed = Observed(units={"beta.service": UnitState("beta.service", "loaded", "active")})
    plan = make_plan([spec()], (), manifest(beta), observed)
    assert [s.action for s in plan.steps] == [Action.STOP, Action.START]


def test_two_services_that_swap_ports_are_both_stopped_before_either_starts() -> None:
    old = manifest(spec("alpha", port=8080, inputs="a"), spec("beta", port=8081, inputs="b"))
    observed = Observed(
        units={
            name: UnitState(name, "loaded", "active", "running", main_pid=pid)
            for pid, name in ((7, "alpha.service"), (8, "beta.service"))
        },
        running_inputs={"alpha.service": "a", "beta.service": "b"},
    )
    wanted = [spec("alpha", port=8081), spec("beta", port=8080)]
    plan = make_plan(wanted, (), old, observed)
    assert [str(s) for s in plan.waves[0]] == [
        "stop alpha.service (its port 8080 goes to beta)",
        "stop beta.service (its port 8081 goes to alpha)",
    ]
    assert [s.action for s in plan.steps[2:]] == [Action.RESTART, Action.RESTART]


def test_a_port_that_a_new_service_takes_over_is_free_before_it_starts() -> None:
    old = manifest(spec("alpha", port=8080, inputs="a"))
    observed = seen(UP, "a")
    plan = make_plan([spec("alpha", port=8090), spec("beta", port=8080)], (), old, observed)
    assert [(s.action, s.service.name) for s in plan.steps] == [
        (Action.STOP, "alpha"),
        (Action.START, "beta"),
        (Action.RESTART, "alpha"),
    ]


def test_flags_of_a_plan_follow_what_was_observed() -> None:
    plan = make_plan([], (), None, Observed(wrong_placements=("/units/alpha.service",)))
    assert (plan.reload, plan.switch, plan.empty) == (True, False, False)
    assert plan.repairs == ("/units/alpha.service",)
    assert make_plan([], (), None, Observed(foreign=("/u/a",))).adopts == ("/u/a",)
    assert make_plan([], (), None, Observed(), switch=True).reload


# -- waves ---------------------------------------------------------------------------------------

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "litellm")


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Step], list[Step], list[GroupSpec]]:
    """Any steps over any chains, cycles and names of no group among them."""
    groups = [
        GroupSpec(
            f"g{index}",
            tuple(draw(st.lists(st.sampled_from(NAMES[:-1]), max_size=2, unique=True))),
            draw(st.booleans()),
            tuple(draw(st.lists(st.sampled_from(["g0", "g1", "g2", "g9"]), max_size=3))),
        )
        for index in range(draw(st.integers(0, 3)))
    ]
    acted = draw(st.lists(st.sampled_from(NAMES), unique=True))
    steps = []
    for index, name in enumerate(acted):
        kind = ServiceKind.LITELLM if name == "litellm" else ServiceKind.OLLAMA
        action = draw(st.sampled_from(list(Action)))
        steps.append(Step(action, spec(name, kind=kind, port=8000 + index), "why"))
    gone = [
        Step(Action.STOP, spec(f"old-{index}", port=draw(st.integers(8000, 8009))), "gone")
        for index in range(draw(st.integers(0, 2)))
    ]
    return steps, gone, groups


@given(situations())
def test_waves_hold_every_step_once_and_never_two_restarts_of_one_chain(
    situation: tuple[list[Step], list[Step], list[GroupSpec]],
) -> None:
    steps, gone, groups = situation
    waves = order(steps, gone, groups)
    flat = [step for wave in waves for step in wave]
    assert sorted(map(str, flat)) == sorted(map(str, [*steps, *gone]))
    assert all(waves), "no empty wave"
    together = providers_together(groups)
    for wave in waves:
        restarted = {s.service.name for s in wave if s.action is Action.RESTART}
        for name in restarted:
            assert not together.get(name, frozenset()) & restarted


@given(situations())
def test_the_gateway_moves_after_its_providers(
    situation: tuple[list[Step], list[Step], list[GroupSpec]],
) -> None:
    steps, gone, groups = situation
    flat = [step for wave in order(steps, gone, groups) for step in wave]
    rising = [s for s in flat if s.action is not Action.STOP]
    gateway = [index for index, s in enumerate(rising) if s.service.is_gateway]
    assert gateway in ([], [len(rising) - 1])
    for step in gone:
        taken = any(s.service.port == step.service.port for s in steps)
        where = flat.index(step)
        assert where < len(gone) if taken else where >= len(steps)


def test_a_chain_is_followed_through_its_members_and_around_a_cycle() -> None:
    groups = [
        GroupSpec("a", ("alpha",), False, ("b",)),
        GroupSpec("b", ("beta",), False, ("c", "gone")),
        GroupSpec("c", ("gamma",), False, ("a",)),
        GroupSpec("d", ("delta",), True),
    ]
    together = providers_together(groups)
    assert together["alpha"] == {"beta", "gamma"}
    assert together["gamma"] == {"alpha", "beta"}
    assert together["delta"] == frozenset()


@pytest.mark.parametrize(
    ("down", "sentences"),
    [
        (frozenset(), ()),
        (frozenset({"beta"}), ("a: without beta, a → c is left", "b: without beta, c is left")),
        (
            frozenset({"alpha", "beta"}),
            ("a: without alpha and beta, c is left", "b: without beta, c is left"),
        ),
        (
            frozenset({"gamma"}),
            (
                "a: without gamma, a → b → c is left",
                "b: without gamma, b → c is left",
                "c: without gamma, c is left",
                "d: without gamma, nothing is left: it answers no request",
            ),
        ),
    ],
)
def test_weaker_chains(down: frozenset[str], sentences: tuple[str, ...]) -> None:
    groups = [
        GroupSpec("a", ("alpha",), False, ("b", "c")),
        GroupSpec("b", ("beta",), False, ("c", "gone")),
        GroupSpec("c", ("gamma",), True),
        GroupSpec("d", ("gamma",), False),
    ]
    assert weaker_chains(groups, down) == sentences
