"""Lab → table: groups, deployments and chains."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.model.finding import Severity
from agent.model.routing import GroupOrigin
from tests.unit.routing.labs import PROVIDERS, routed


def backends(routing: str, group: str) -> list[tuple[str, str, float | None]]:
    found = routed(routing).table.group(group)
    assert found is not None
    return [(d.provider, d.model, d.weight) for d in found.deployments]


def test_every_listed_model_of_an_active_provider_is_a_group() -> None:
    table = routed("exact_matches: {}").table
    assert table.names == ("llama3:8b", "coder:7b", "gguf", "big:120b")


def test_a_route_renames_its_backend_model() -> None:
    mappings = 'exact_matches: {chatty: {provider: ollama, backend_model: "llama3:8b"}}'
    table = routed(mappings).table
    assert table.names == ("chatty", "coder:7b", "gguf", "big:120b")
    assert backends(mappings, "chatty") == [("ollama", "llama3:8b", None)]


def test_a_route_to_a_disabled_provider_makes_no_group() -> None:
    routing = routed("exact_matches: {sleeping: {provider: idle}}")
    assert routing.table.group("sleeping") is None
    (finding,) = routing.of("unknown-provider")
    assert finding.severity is Severity.WARNING
    assert "`idle` is disabled: `sleeping` is not served" in finding.message


def test_local_deployments_know_their_service() -> None:
    table = routed("exact_matches: {}").table
    gguf, big = table.group("gguf"), table.group("big:120b")
    assert gguf is not None and gguf.services == {"llamacpp-python"} and gguf.local
    assert big is not None and big.services == frozenset() and not big.local


@dataclass(frozen=True)
class ChainCase:
    """What the lab says, and the chain that the group gets."""

    name: str
    mappings: str
    group: str
    chain: tuple[str, ...]
    inherits: bool = False


CHAINS = [
    ChainCase("own", "fallback_chains: {gguf: {chain: [coder:7b]}}", "gguf", ("coder:7b",)),
    ChainCase("none", "exact_matches: {}", "gguf", ()),
    ChainCase(
        "default", 'fallback_chains: {default: {chain: ["big:120b"]}}', "gguf", ("big:120b",), True
    ),
    ChainCase(
        "a deliberate end is not the default",
        'fallback_chains: {gguf: {chain: []}, default: {chain: ["big:120b"]}}',
        "gguf",
        (),
    ),
    ChainCase(
        "the default chain leaves out the group itself",
        'fallback_chains: {default: {chain: ["big:120b", gguf]}}',
        "gguf",
        ("big:120b",),
        True,
    ),
    ChainCase(
        "a capability goes on with the rest of its models",
        'capabilities: {chat: {preferred_models: ["llama3:8b", gguf, "big:120b"]}}',
        "chat",
        ("gguf", "big:120b"),
    ),
    ChainCase(
        "a capability's fallback comes last, a provider means its only model",
        'capabilities: {chat: {preferred_models: ["llama3:8b", "big:120b"], fallback: python}}',
        "chat",
        ("big:120b", "gguf"),
    ),
    ChainCase(
        "a capability of one model goes on as the model does",
        'capabilities: {chat: {preferred_models: ["llama3:8b"]}}\n'
        'fallback_chains: {"llama3:8b": {chain: [gguf]}, default: {chain: ["big:120b"]}}',
        "chat",
        ("gguf",),
    ),
    ChainCase(
        "a chain written for a capability wins",
        'capabilities: {chat: {preferred_models: ["llama3:8b", gguf]}}\n'
        'fallback_chains: {chat: {chain: ["big:120b"]}}',
        "chat",
        ("big:120b",),
    ),
    ChainCase(
        "a route's fallback to a provider means its only model",
        'exact_matches: {"llama3:8b": {provider: ollama, fallback: python}}',
        "llama3:8b",
        ("gguf",),
    ),
    ChainCase(
        "members that name nothing are left out",
        "fallback_chains: {gguf: {chain: [nothing, coder:7b]}}",
        "gguf",
        ("coder:7b",),
    ),
]


@pytest.mark.parametrize("case", CHAINS, ids=lambda case: case.name)
def test_chains(case: ChainCase) -> None:
    group = routed(case.mappings).table.group(case.group)
    assert group is not None
    assert (group.chain, group.inherits) == (case.chain, case.inherits)


def test_a_capability_is_served_by_its_first_model_that_exists() -> None:
    mappings = 'capabilities: {chat: {preferred_models: [gone, "llama3:8b", gguf]}}'
    assert backends(mappings, "chat") == [("ollama", "llama3:8b", None)]
    group = routed(mappings).table.group("chat")
    assert group is not None and group.chain == ("gguf",)
    assert group.origin is GroupOrigin.CAPABILITY


def test_a_capability_of_a_provider_is_served_by_the_model_of_that_specialty() -> None:
    mappings = "capabilities: {code-generation: {provider: ollama}}"
    assert backends(mappings, "code-generation") == [("ollama", "coder:7b", None)]


def test_shares_find_their_models() -> None:
    """Preferred; the group's own name; specialty; the only model."""
    mappings = """
        load_balancing:
          mix:
            providers:
              - {provider: ollama, weight: 2, preferred_model: "coder:7b"}
              - {provider: python, weight: 1}
          "llama3:8b":
            providers: [{provider: ollama, weight: 3}, {provider: cloud, weight: 1}]
          general-chat:
            providers: [{provider: ollama, weight: 1}, {provider: python, weight: 1}]
    """
    assert backends(mappings, "mix") == [("ollama", "coder:7b", 2), ("python", "gguf", 1)]
    assert backends(mappings, "llama3:8b") == [
        ("ollama", "llama3:8b", 3),
        ("cloud", "big:120b", 1),
    ]
    assert backends(mappings, "general-chat")[0] == ("ollama", "llama3:8b", 1)


def test_a_balance_of_one_active_share_has_no_weight() -> None:
    mappings = """
        load_balancing:
          mix: {providers: [{provider: python, weight: 1}, {provider: idle, weight: 1}]}
    """
    assert backends(mappings, "mix") == [("python", "gguf", None)]


def test_a_share_that_means_no_single_model_is_an_error() -> None:
    mappings = "load_balancing: {mix: {providers: [{provider: ollama, weight: 1}]}}"
    (finding,) = routed(mappings).of("ambiguous-share")
    assert finding.severity is Severity.ERROR
    assert finding.message.startswith("`mix`: provider `ollama` lists `llama3:8b` and `coder:7b`")
    assert finding.hint == "name one with `preferred_model:`"


def test_a_preferred_model_that_the_provider_lacks_is_an_error() -> None:
    mappings = """
        load_balancing:
          mix: {providers: [{provider: ollama, weight: 1, preferred_model: gguf}]}
    """
    (finding,) = routed(mappings).of("ambiguous-share")
    assert finding.message == "`mix`: provider `ollama` does not list `gguf`"


def test_two_providers_that_list_one_name() -> None:
    providers = PROVIDERS + (
        "      second: {type: ollama, base_url: 'http://127.0.0.1:11500', status: active,"
        " models: [gguf]}\n"
    )
    routing = routed("exact_matches: {}", providers)
    (finding,) = routing.of("name-taken")
    assert finding.severity is Severity.WARNING
    assert "`gguf` of provider `second` is never asked for" in finding.message
    group = routing.table.group("gguf")
    assert group is not None and [d.provider for d in group.deployments] == ["python"]


def test_a_capability_of_a_models_name_is_an_error() -> None:
    (finding,) = routed("capabilities: {gguf: {preferred_models: ['coder:7b']}}").of("name-taken")
    assert finding.severity is Severity.ERROR
