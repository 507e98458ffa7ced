"""The linter of other tools' gateway configs: what it says and where."""

from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from agent.model.finding import Severity
from agent.routing.lint import lint_gateway_config
from tests.unit.routing.labs import SEED

GOOD = """\
model_list:
  - model_name: a
    litellm_params:
      model: hosted_vllm/m
      api_base: http://127.0.0.1:8001/v1
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


def found(text: str) -> list[tuple[str, int, int]]:
    return [(f.rule, f.at.line, f.at.column) for f in lint_gateway_config(text, "gw.yaml")]


def deployment(params: str) -> str:
    """A good config with one more deployment, whose parameters begin on line 5."""
    head = "model_list:\n  - model_name: a\n    litellm_params:\n      api_key: x\n"
    tail = "general_settings:\n  master_key: os.environ/K\n"
    return head + "".join(f"      {line}\n" for line in params.splitlines()) + tail


def settings(text: str) -> str:
    """A good config with more settings, from line 8 on."""
    return GOOD + dedent(text)


def test_a_good_config() -> None:
    assert found(GOOD) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (deployment("model: openai/m\napi_base: http://127.0.0.1:8000"), ("missing-v1", 6, 17)),
        (
            deployment("model: openai/m\napi_base: http://h/v1").replace("api_key", "user"),
            ("no-credential", 6, 17),
        ),
        (
            deployment("model: m\ncustom_llm_provider: vllm\napi_base: http://h"),
            ("missing-v1", 7, 17),
        ),
        (deployment("model: ollama/m"), ("ollama-generate", 5, 14)),
        (
            deployment("model: ollama_chat/m\nextra_body: {options: {num_ctx: 1}}"),
            ("options-override", 6, 29),
        ),
        (deployment("model: ollama_chat/m\napibase: http://h"), ("unknown-param", 6, 7)),
        (deployment("model: openai/m\nnum_gpu: 3"), ("unknown-param", 6, 7)),
        (deployment("model: openai/m\norganization: ${ORG}"), ("env-ref", 6, 21)),
        (deployment("model: openai/m\nrpm: 10"), ("unenforced-limit", 6, 7)),
        (deployment("model: openai/m\nmodel: openai/n"), ("duplicate-key", 6, 7)),
        ("model_list:\n  - model_name: a\n", ("missing-key", 2, 5)),
        (settings("server_settings: {port: 1}"), ("unknown-key", 8, 1)),
        (settings("rate_limit_settings: {}"), ("unenforced-limit", 8, 1)),
        (settings("litellm_settings: {timeout: 3}"), ("clobber", 8, 20)),
        (settings("litellm_settings: {stream_timeout: 3}"), ("unknown-key", 8, 20)),
        (settings("router_settings: {lab_extensions: {}}"), ("unknown-key", 8, 19)),
        (settings("router_settings: {redis_host: '${H}'}"), ("env-ref", 8, 31)),
        (settings("router_settings: {model_group_alias: {x: [a]}}"), ("alias-type", 8, 42)),
        (settings("router_settings: {model_group_alias: {x: b}}"), ("alias-type", 8, 42)),
        (settings("router_settings: {fallbacks: [{default: [a]}]}"), ("default-key", 8, 32)),
        (settings("router_settings: {fallbacks: [{b: [a]}]}"), ("dangling-fallback", 8, 32)),
        (settings("router_settings: {fallbacks: [{a: [b]}]}"), ("dangling-fallback", 8, 36)),
        (settings("router_settings: {default_fallbacks: [b]}"), ("dangling-fallback", 8, 39)),
        ("model_list: [\n", ("syntax", 2, 1)),
        ("- a\n", ("syntax", 1, 1)),
        ("", ("syntax", 0, 0)),
    ],
)
def test_one_thing_wrong(text: str, expected: tuple[str, int, int]) -> None:
    assert expected in found(text)
    wrong = {rule for rule, _, _ in found(text)} - {"no-master-key"}
    assert wrong == {expected[0]}


def test_no_master_key() -> None:
    assert found(GOOD.split("general_settings")[0]) == [("no-master-key", 1, 1)]


def test_options_of_ollama_are_no_unknown_parameters() -> None:
    assert found(deployment("model: ollama_chat/m\nnum_ctx: 5\nnum_gpu: 1")) == []


def test_the_catch_all_chain_is_no_dangling_one() -> None:
    assert found(settings("router_settings: {fallbacks: [{'*': [a]}]}")) == []


def test_an_alias_may_be_hidden() -> None:
    alias = (
        "router_settings: {model_group_alias: {x: {model: a, hidden: true}}, fallbacks: [{x: [a]}]}"
    )
    assert found(settings(alias)) == []


def test_everything_is_a_warning_that_says_labctl_writes_its_own() -> None:
    text = (SEED / "v1.7.1.1-hotfixed" / "litellm-unified.yaml").read_text()
    findings = lint_gateway_config(text, "litellm-unified.yaml")
    assert all(f.severity is Severity.WARNING for f in findings)
    assert all("labctl deploys a config of its own" in f.hint for f in findings)


def test_the_seeds_config() -> None:
    """What the facts say really happens with it, each at its place."""
    text = (SEED / "v1.7.1.1-hotfixed" / "litellm-unified.yaml").read_text()
    places = found(text)
    for expected in [
        ("missing-v1", 54, 17),
        ("no-credential", 54, 17),
        ("missing-v1", 65, 17),
        ("ollama-generate", 20, 14),
        ("options-override", 44, 11),
        ("clobber", 151, 3),
        ("unknown-key", 149, 3),
        ("unknown-key", 240, 3),
        ("unknown-key", 415, 1),
        ("unenforced-limit", 425, 1),
        ("alias-type", 164, 7),
        ("default-key", 216, 7),
        ("dangling-fallback", 239, 11),
    ]:
        assert expected in places
    assert [rule for rule, _, _ in places].count("no-master-key") == 1


def test_v1_7_1_lists_neither_of_its_last_resorts() -> None:
    text = (SEED / "v1.7.1-broken" / "litellm-unified.yaml").read_text()
    dangling = [f for f in lint_gateway_config(text, "g") if f.rule == "dangling-fallback"]
    named = {f.message.split("`")[1] for f in dangling}
    assert {"llama-cpp-default", "llama-cpp-native"} <= named


@profile(deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="ab:{}[]-&*\n #'\"!", max_size=200))
def test_no_text_makes_it_raise(text: str) -> None:
    for finding in lint_gateway_config(text, "gw.yaml"):
        assert finding.message and finding.at.file == "gw.yaml"
