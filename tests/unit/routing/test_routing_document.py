"""The gateway's config: exact text, and the settings that were measured to matter."""

from __future__ import annotations

from hashlib import sha256
from textwrap import dedent
from typing import Any

import pytest
import yaml

from agent.model.finding import Position
from agent.model.lab import Provider, ProviderStatus, ProviderType
from agent.model.routing import RoutingTable
from agent.routing.document import (
    GATEWAY_ENVIRONMENT,
    api_base,
    deployment_ids,
    document_body,
)
from agent.routing.lint import lint_gateway_config
from tests.unit.routing.labs import Routed, routed

PROVIDERS = """
    providers:
      ollama:
        type: ollama
        base_url: http://127.0.0.1:11434
        status: active
        models:
          - name: llama3:8b
            context_length: 8192
            options: {num_ctx: 8192, num_predict: 99, repeat_penalty: 1.1, stop: ["</s>"]}
          - {name: embedder, specialty: embedding}
      native: {type: llama_cpp, base_url: "http://127.0.0.1:8080", status: active, models: [gguf]}
      claude:
        type: anthropic
        base_url: https://api.anthropic.com/v1
        status: active
        requires_api_key: true
        env_var: ANTHROPIC_API_KEY
        models: [claude-3]
        rate_limits: {requests_per_minute: 50}
"""

MAPPINGS = """
    load_balancing:
      mix:
        providers:
          - {provider: native, weight: 3}
          - {provider: claude, weight: 1}
    fallback_chains:
      gguf: {chain: []}
      mix: {chain: ["llama3:8b"]}
      default: {chain: [gguf]}
"""

LAB = """
    version: 1
    services:
      llamacpp-native: {provider: native, model: /models/a.gguf, api_key: NATIVE_KEY}
    gateway: {rate_limits: {mix: {rpm: 10}}, retries: 1}
"""

EXPECTED = """\
model_list:
- model_name: llama3:8b
  litellm_params:
    model: ollama_chat/llama3:8b
    api_base: http://127.0.0.1:11434
    api_key: not-needed
    num_ctx: 8192
    max_tokens: 99
    frequency_penalty: 1.1
    stop:
    - </s>
  model_info:
    id: llama3:8b@ollama
    cooldown_time: 0
    max_input_tokens: 8192
- model_name: embedder
  litellm_params:
    model: ollama/embedder
    api_base: http://127.0.0.1:11434
    api_key: not-needed
  model_info:
    id: embedder@ollama
    cooldown_time: 0
    mode: embedding
- model_name: gguf
  litellm_params:
    model: openai/gguf
    api_base: http://127.0.0.1:8080/v1
    api_key: os.environ/NATIVE_KEY
  model_info:
    id: gguf@native
    cooldown_time: 0
- model_name: claude-3
  litellm_params:
    model: anthropic/claude-3
    api_base: https://api.anthropic.com
    api_key: os.environ/ANTHROPIC_API_KEY
    rpm: 50
  model_info:
    id: claude-3@claude
    cooldown_time: 0
- model_name: mix
  litellm_params:
    model: openai/gguf
    api_base: http://127.0.0.1:8080/v1
    api_key: os.environ/NATIVE_KEY
    weight: 3.0
    rpm: 8
  model_info:
    id: mix@native
    allowed_fails: 3
    cooldown_time: 30.0
- model_name: mix
  litellm_params:
    model: anthropic/claude-3
    api_base: https://api.anthropic.com
    api_key: os.environ/ANTHROPIC_API_KEY
    weight: 1.0
    rpm: 2
  model_info:
    id: mix@claude
    allowed_fails: 3
    cooldown_time: 30.0
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
router_settings:
  num_retries: 0
  max_fallbacks: 5
  enable_weighted_failover: true
  optional_pre_call_checks:
  - enforce_model_rate_limits
  model_group_retry_policy:
    gguf:
      DefaultRetries: 1
      TimeoutErrorRetries: 0
      RateLimitErrorRetries: 0
      BadRequestErrorRetries: 0
      AuthenticationErrorRetries: 0
      NotFoundErrorRetries: 0
      ContentPolicyViolationErrorRetries: 0
  fallbacks:
  - gguf: []
  - mix:
    - llama3:8b
  default_fallbacks:
  - gguf
litellm_settings:
  request_timeout: 300.0
"""


def whole() -> Routed:
    return routed(MAPPINGS, PROVIDERS, LAB)


def loaded(routing: Routed) -> dict[str, Any]:
    body = yaml.safe_load(routing.document)
    assert isinstance(body, dict)
    return body


def test_the_document_to_the_byte() -> None:
    assert document_body(whole().document) == EXPECTED


def test_the_header_names_sources_and_digest() -> None:
    text = whole().document
    header, body = text.split("\n\n", 1)
    assert "# Sources: lab.yaml, providers.yaml, model-mappings.yaml" in header
    assert sha256(body.encode()).hexdigest() in header
    assert document_body(text) == body


def test_comments_of_the_lab_change_nothing() -> None:
    commented = routed("# a comment\n" + dedent(MAPPINGS), PROVIDERS, LAB)
    assert commented.document == whole().document


def test_our_own_document_has_nothing_to_lint() -> None:
    assert lint_gateway_config(whole().document, "litellm.yaml") == ()


@pytest.mark.parametrize(
    ("kind", "url", "base"),
    [
        (ProviderType.LLAMA_CPP, "http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        (ProviderType.LLAMA_CPP, "http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
        (ProviderType.VLLM, "http://127.0.0.1:8001/v1", "http://127.0.0.1:8001/v1"),
        (ProviderType.OPENAI, "https://api.openai.com/v1", "https://api.openai.com/v1"),
        (ProviderType.OPENAI_COMPATIBLE, "http://h/api/v2/", "http://h/api/v2"),
        (ProviderType.ANTHROPIC, "https://api.anthropic.com/v1", "https://api.anthropic.com"),
        (ProviderType.OLLAMA, "https://ollama.com/", "https://ollama.com"),
    ],
)
def test_addresses(kind: ProviderType, url: str, base: str) -> None:
    provider = Provider("p", Position("f"), kind, url, ProviderStatus.ACTIVE)
    assert api_base(provider) == base


def test_a_lab_of_single_deployments_asks_for_no_failover_and_no_limits() -> None:
    routing = routed("exact_matches: {}", PROVIDERS.replace("requests_per_minute: 50", ""))
    settings = loaded(routing)["router_settings"]
    assert "enable_weighted_failover" not in settings
    assert "optional_pre_call_checks" not in settings
    assert "fallbacks" not in settings and "default_fallbacks" not in settings


def test_no_retries_where_the_lab_wants_none() -> None:
    routing = routed(MAPPINGS, PROVIDERS, "version: 1\ngateway: {retries: 0}\n")
    assert "model_group_retry_policy" not in loaded(routing)["router_settings"]


def test_stream_timeout_and_redis_only_when_asked_for() -> None:
    plain = loaded(whole())
    assert "stream_timeout" not in plain["router_settings"]
    assert "cache" not in plain["litellm_settings"]
    lab = "version: 1\ngateway: {stream_timeout: 20s, redis: {host: 127.0.0.1, port: 6380}}\n"
    asked = loaded(routed(MAPPINGS, PROVIDERS, lab))
    assert asked["router_settings"]["stream_timeout"] == 20
    assert asked["litellm_settings"]["cache"] is True
    assert asked["litellm_settings"]["cache_params"] == {
        "type": "redis",
        "host": "127.0.0.1",
        "port": 6380,
        "ttl": 3600,
    }


def test_no_key_of_a_real_provider_can_reach_a_local_backend() -> None:
    for entry in loaded(whole())["model_list"]:
        params = entry["litellm_params"]
        assert params["api_key"]
        if "127.0.0.1" in params["api_base"]:
            assert params["api_key"] in ("not-needed", "os.environ/NATIVE_KEY")


def test_ids_are_unique_and_no_group_has_one() -> None:
    mappings = """
        exact_matches:
          "mix@native": {provider: native, backend_model: gguf}
        load_balancing:
          mix: {providers: [{provider: native, weight: 1}, {provider: claude, weight: 1}]}
    """
    table = routed(mappings, PROVIDERS).table
    ids = deployment_ids(table)
    assert len(set(ids.values())) == len(ids)
    assert not set(ids.values()) & set(table.names)
    assert "mix@native#2" in ids.values()
    assert deployment_ids(RoutingTable(())) == {}


def test_a_limit_is_shared_by_weight_and_adds_up() -> None:
    lab = "version: 1\ngateway: {rate_limits: {mix: {rpm: 7, tpm: 1000}}}\n"
    entries = [e for e in loaded(routed(MAPPINGS, PROVIDERS, lab))["model_list"]]
    parts = [e["litellm_params"] for e in entries if e["model_name"] == "mix"]
    assert [part["rpm"] for part in parts] == [6, 1]
    assert [part["tpm"] for part in parts] == [750, 250]


def test_the_gateways_environment_reaches_for_no_network() -> None:
    names = dict(GATEWAY_ENVIRONMENT)
    assert names["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    assert names["LITELLM_MODE"] == "PRODUCTION"
    assert len(names) == len(GATEWAY_ENVIRONMENT)
