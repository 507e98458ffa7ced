"""The seed lab's releases: what they are refused for, and that the corrected one passes."""

from __future__ import annotations

import time

from agent.lab.read import read_lab
from agent.model.finding import Severity
from agent.model.rule import Subject
from agent.routing.document import render_document
from agent.routing.lint import lint_gateway_config
from agent.routing.rules import RULES
from agent.routing.table import build_table
from tests.unit.routing.labs import SEED, seed

CORRECTED = "v1.7.1.1-corrected"


def test_v1_7_has_a_single_provider_at_the_end_of_its_chains() -> None:
    routing = seed("v1.7")
    (finding,) = routing.of("spof")
    assert "the last resort of 11 chains" in finding.message
    assert "is the single provider `ollama`" in finding.message
    assert any("`llama-cpp-default` has no provider" in f.message for f in routing.errors)


def test_v1_7_1_is_refused_for_both_models_and_each_chain_that_needs_them() -> None:
    routing = seed("v1.7.1-broken")
    missing = [f.message.split("`")[1] for f in routing.of("model-without-provider")]
    assert missing == ["llama-cpp-default", "llama-cpp-native"]
    needs = [f.message.split(":", 1)[0] for f in routing.of("dangling-fallback")]
    assert "the chain of `llama3.1" in needs
    chains = [
        f.message for f in routing.of("dangling-fallback") if f.message.startswith("the chain of")
    ]
    assert chains == [
        "the chain of `llama3.1:latest` needs `llama-cpp-default`: no provider serves it",
        "the chain of `llama-cpp-default` is of no model: no provider serves it",
        "the chain of `llama-cpp-default` needs `llama-cpp-native`: no provider serves it",
        "the chain of `llama-cpp-native` is of no model: no provider serves it",
        "the chain of `gpt-oss:20b-cloud` needs `llama-cpp-default`: no provider serves it",
        "the chain of `gpt-oss:20b-cloud` needs `llama-cpp-native`: no provider serves it",
    ]
    bare = [f.message for f in routing.of("provider-without-models")]
    assert len(bare) == 2 and "`llama_cpp_native`" in bare[1]


def test_v1_7_1_1_is_refused_for_what_its_own_checks_missed() -> None:
    (error,) = seed("v1.7.1.1-hotfixed").errors
    assert (error.rule, error.at.line, error.at.column) == ("dangling-fallback", 250, 9)
    assert error.message == (
        "the capability `large_context` prefers `llama_cpp_python`: that is a provider, not a model"
    )
    assert error.hint == "its model is `llama-cpp-default`"


def test_the_corrected_release_differs_in_one_line_and_passes() -> None:
    before = (SEED / "v1.7.1.1-hotfixed" / "model-mappings.yaml").read_text().splitlines()
    after = (SEED / CORRECTED / "model-mappings.yaml").read_text().splitlines()
    changed = [number for number, (b, a) in enumerate(zip(before, after, strict=True), 1) if a != b]
    assert changed == [250]
    routing = seed(CORRECTED)
    assert routing.errors == ()
    assert {f.rule for f in routing.findings} == {"mixed-balance", "cloud-leak", "spof"}


def test_the_corrected_release_renders_to_its_gateway_config() -> None:
    expected = (SEED / CORRECTED / "litellm-unified.yaml").read_text()
    assert seed(CORRECTED).document == expected
    assert lint_gateway_config(expected, "litellm-unified.yaml") == ()


def test_the_seed_is_checked_and_rendered_quickly() -> None:
    folder = SEED / CORRECTED
    names = ("providers.yaml", "model-mappings.yaml")
    lab = read_lab({n: (folder / n).read_bytes() for n in names}, "/lab", "/home/user").lab
    text = (SEED / "v1.7.1.1-hotfixed" / "litellm-unified.yaml").read_text()
    assert lab is not None
    best = 1.0
    for _ in range(3):
        start = time.process_time()
        table, _findings = build_table(lab)
        found = [f for rule in RULES for f in rule.findings(Subject(lab, table))]
        render_document(lab, table)
        lint_gateway_config(text, "litellm-unified.yaml")
        best = min(best, time.process_time() - start)
        assert all(f.severity is not Severity.ERROR for f in found)
    assert best < 0.060
