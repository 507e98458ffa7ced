"""Every rule, on the smallest lab that breaks it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.model.finding import Severity
from agent.model.host import HostFacts
from agent.model.rule import Subject
from agent.routing.rules import RULES
from agent.routing.rules_resolution import RESOLUTION_RULES
from tests.unit.routing.labs import PROVIDERS, routed


@dataclass(frozen=True)
class Case:
    """A lab, and what exactly one finding of the rule must say about it."""

    rule: str
    mappings: str
    says: str
    severity: Severity = Severity.ERROR
    hint: str = ""
    line: int | None = None
    lab: str = "version: 1\n"
    providers: str = PROVIDERS


def lists(provider: str) -> str:
    """The providers with one more."""
    return PROVIDERS + f"      {provider}\n"


CASES = [
    Case(
        "dangling-fallback",
        "fallback_chains:\n  gguf:\n    chain:\n      - ollama\n",
        "the chain of `gguf` needs `ollama`: that is a provider, not a model",
        hint="its models are `llama3:8b` and `coder:7b`",
        line=4,
    ),
    Case(
        "dangling-fallback",
        "fallback_chains: {gguf: {chain: [cloud]}}",
        "that is a provider, not a model",
        hint="its model is `big:120b`",
    ),
    Case(
        "dangling-fallback",
        "fallback_chains: {gguf: {chain: ['llama3:8']}}",
        "the chain of `gguf` needs `llama3:8`: no such model",
        hint="did you mean `llama3:8b`?",
    ),
    Case(
        "dangling-fallback",
        "fallback_chains: {ggu: {chain: ['llama3:8b']}}",
        "the chain of `ggu` is of no model: no such model",
        hint="did you mean `gguf`?",
    ),
    Case(
        "dangling-fallback",
        "fallback_chains: {default: {chain: [gon]}}",
        "the chain of `default` needs `gon`",
    ),
    Case(
        "dangling-fallback",
        "exact_matches: {nap: {provider: idle, backend_model: sleeping}}\n"
        "fallback_chains: {gguf: {chain: [nap]}}",
        "the chain of `gguf` needs `nap`: its provider `idle` is disabled",
        hint="set `status: active` for `idle`, or take the name out",
    ),
    Case(
        "dangling-fallback",
        "fallback_chains: {gguf: {chain: [sleeping]}}",
        "the chain of `gguf` needs `sleeping`: its provider `idle` is disabled",
    ),
    Case(
        "dangling-fallback",
        "capabilities: {chat: {preferred_models: [gguf, python]}}",
        "the capability `chat` prefers `python`: that is a provider, not a model",
        hint="its model is `gguf`",
    ),
    Case(
        "dangling-fallback",
        "capabilities: {chat: {preferred_models: [gguf], fallback: ollama}}",
        "the capability `chat` falls back to `ollama`: that is a provider, not a model",
    ),
    Case(
        "dangling-fallback",
        "exact_matches: {gguf: {provider: python, fallback: ollama}}",
        "`gguf` falls back to `ollama`: that is a provider, not a model",
    ),
    Case(
        "dangling-fallback",
        "capabilities: {chat: {preferred_models: [gguf], size_thresholds: {high: huge}}}",
        "a threshold of the capability `chat` names `huge`: no such model",
        Severity.WARNING,
    ),
    Case(
        "model-without-provider",
        "exact_matches:\n  big:\n    provider: cloud\n",
        "`big` has no provider: `cloud` does not list `big`, it lists `big:120b`",
        hint="list `big` under `models:` of `cloud` in providers.yaml, or name one that it lists"
        " with `backend_model:` (`big:120b`)",
        line=2,
    ),
    Case(
        "provider-without-models",
        "exact_matches: {}",
        "the active provider `bare` lists no models",
        providers=lists(
            "bare: {type: llama_cpp, base_url: 'http://127.0.0.1:8080', status: active}"
        ),
    ),
    Case(
        "unknown-provider",
        "exact_matches: {gguf: {provider: pyton}}",
        "no provider is called `pyton`: `gguf` is not served",
        hint="did you mean `python`?",
    ),
    Case(
        "unknown-provider",
        "load_balancing: {mix: {providers: [{provider: python, weight: 1},"
        " {provider: idle, weight: 1}]}}",
        "the provider `idle` is disabled: `mix` is spread over 1 provider",
        Severity.WARNING,
    ),
    Case(
        "unknown-provider",
        "load_balancing: {mix: {providers: [{provider: idle, weight: 1}]}}",
        "the provider `idle` is disabled: `mix` is spread over 0 providers",
    ),
    Case(
        "unknown-provider",
        "capabilities: {fast: {provider: idle}}",
        "the provider `idle` is disabled: the capability `fast` is not served",
    ),
    Case(
        "rate-limit-unknown-group",
        "exact_matches: {}",
        "a rate limit names `llama3`: no such model",
        hint="did you mean `llama3:8b`?",
        lab="version: 1\ngateway: {rate_limits: {llama3: {rpm: 5}}}\n",
    ),
    Case(
        "cycle",
        "fallback_chains:\n  gguf: {chain: ['coder:7b']}\n  'coder:7b': {chain: [gguf]}\n",
        "fallbacks go in a circle: `coder:7b` → `gguf` → `coder:7b`",
        line=3,
    ),
    Case(
        "self-fallback",
        "fallback_chains: {gguf: {chain: [gguf, 'coder:7b']}}",
        "the chain of `gguf` names `gguf` itself",
    ),
    Case(
        "duplicate",
        "fallback_chains: {gguf: {chain: ['coder:7b', 'big:120b', 'coder:7b']}}",
        "the chain of `gguf` names `coder:7b` again",
        Severity.WARNING,
    ),
    Case(
        "duplicate",
        "load_balancing: {mix: {providers: [{provider: python, weight: 1},"
        " {provider: python, weight: 2}]}}",
        "`mix` is spread over `gguf` of `python` twice",
        Severity.WARNING,
    ),
    Case(
        "chain-depth",
        "fallback_chains: {gguf: {chain: ['coder:7b']}, 'coder:7b': {chain: ['llama3:8b']}}",
        "1 chain never gets to `llama3:8b`: `gguf` would need more than 1 fallbacks",
        Severity.WARNING,
        lab="version: 1\ngateway: {max_fallbacks: 1}\n",
    ),
    Case(
        "mixed-balance",
        "load_balancing: {mix: {providers: [{provider: python, weight: 3},"
        " {provider: cloud, weight: 1}]}}",
        "`mix` answers from different models: 75% `gguf` of `python`, 25% `big:120b` of `cloud`",
        Severity.WARNING,
    ),
    Case(
        "spof",
        "fallback_chains: {'coder:7b': {chain: ['llama3:8b']}}",
        "every member of 1 chain (`coder:7b`) is served by the provider `ollama` alone",
        Severity.WARNING,
    ),
    Case(
        "spof",
        "fallback_chains: {'big:120b': {chain: ['llama3:8b']}, 'coder:7b': {chain: ['big:120b']}}",
        "the last resort of 2 chains (`coder:7b` and `big:120b`) is the single provider `ollama`:"
        " when the network is out, nothing else is left",
        Severity.WARNING,
    ),
    Case(
        "spof",
        "fallback_chains: {'big:120b': {chain: [far]}}",
        "when the network is out, nothing is left of 1 chain (`big:120b`)",
        Severity.WARNING,
        providers=lists(
            "second: {type: openai_compatible, base_url: 'https://api.example.com/v1',"
            " status: active, requires_api_key: true, env_var: FAR_KEY, models: [far]}"
        ),
    ),
    Case(
        "spof",
        "fallback_chains: {gguf: {chain: ['coder:7b']}}",
        "1 chain (`gguf`) lives on this host alone",
        Severity.NOTE,
    ),
    Case(
        "spof",
        "fallback_chains: {gguf: {chain: ['coder:7b']}}",
        "every member of 1 chain (`gguf`) needs the GPU 0: lost, it takes all with it",
        Severity.WARNING,
        lab="version: 1\nservices:\n"
        "  ollama: {environment: {CUDA_VISIBLE_DEVICES: '0'}}\n"
        "  llamacpp-python: {provider: python, model: /m.gguf,"
        " environment: {CUDA_VISIBLE_DEVICES: '0'}}\n",
    ),
    Case(
        "cloud-leak",
        "fallback_chains: {gguf: {chain: ['coder:7b']}, 'coder:7b': {chain: ['big:120b']}}",
        "requests for 2 local models can end up at the cloud provider `cloud`:"
        " `coder:7b` → `big:120b`, `gguf` → `big:120b`",
        Severity.WARNING,
    ),
    Case(
        "unusable-option",
        "exact_matches: {}",
        "option `presence_penalty` of `extra` has no effect: LiteLLM has no way to send it",
        Severity.WARNING,
        providers=lists(
            "more: {type: ollama, base_url: 'http://127.0.0.1:11500', status: active,"
            " models: [{name: extra, options: {presence_penalty: 1}}]}"
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.says[:40]}")
def test_the_rule_says_what_is_wrong(case: Case) -> None:
    (finding,) = routed(case.mappings, case.providers, case.lab).of(case.rule)
    assert case.says in finding.message
    assert finding.severity is case.severity
    assert finding.why and finding.at.line > 0
    assert case.hint in finding.hint
    if case.line is not None:
        assert finding.at.line == case.line


def test_a_good_lab_breaks_no_rule() -> None:
    mappings = """
        fallback_chains:
          "llama3:8b": {chain: [gguf]}
          gguf: {chain: []}
          "coder:7b": {chain: []}
          "big:120b": {chain: ["llama3:8b"]}
    """
    findings = routed(mappings).findings
    assert [(f.rule, f.severity) for f in findings] == [("spof", Severity.NOTE)]


def test_the_only_gpu_of_a_host_is_shared_by_all_who_need_one() -> None:
    made = routed("fallback_chains: {gguf: {chain: ['coder:7b']}}")
    [spof] = [rule for rule in RULES if rule.id == "spof"]
    with_one = Subject(made.lab, made.table, HostFacts(gpus=1))
    (finding,) = spof.findings(with_one)
    assert "needs the only GPU of this host" in finding.message
    with_two = Subject(made.lab, made.table, HostFacts(gpus=2))
    (note,) = spof.findings(with_two)
    assert note.severity is Severity.NOTE


def test_every_rule_is_tested_and_documented() -> None:
    tested = {case.rule for case in CASES} | {"ambiguous-share", "name-taken"}
    rules = (*RULES, *RESOLUTION_RULES)
    assert {rule.id for rule in rules} == tested
    assert all(rule.summary.endswith(".") and rule.why.endswith(".") for rule in rules)
    assert all("Example:" in (rule.check.__doc__ or "") for rule in rules)


def test_members_that_inherit_the_default_chain_from_each_other_are_no_circle() -> None:
    mappings = "fallback_chains: {default: {chain: [gguf, 'coder:7b']}}"
    assert routed(mappings).of("cycle") == ()
