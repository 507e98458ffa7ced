"""Reading a lab: every finding with its exact place, links, inference, the seed, the starter."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.lab.read import LAB_FILES, Reading, read_lab
from agent.model.finding import Severity, stopping
from agent.model.lab import (
    Lab,
    Provider,
    ProviderStatus,
    ProviderType,
    RateLimit,
    Redis,
    Service,
    ServiceKind,
)

ROOT = Path(__file__).parents[3]
SEED = ROOT / "tests" / "data" / "seed"
STARTER = {name: (ROOT / "config" / name).read_bytes() for name in LAB_FILES}

PROVIDERS = """\
providers:
  ollama:
    type: ollama
    base_url: http://127.0.0.1:11434
    models: [a]
"""
MAPPINGS = "exact_matches:\n  a:\n    provider: ollama\n"


def reading(
    lab: str | None = None, providers: str = PROVIDERS, mappings: str = MAPPINGS, secrets: str = ""
) -> Reading:
    texts = {"providers.yaml": providers.encode(), "model-mappings.yaml": mappings.encode()}
    if lab is not None:
        texts["lab.yaml"] = lab.encode()
    if secrets:
        texts["secrets.env"] = secrets.encode()
    return read_lab(texts, "/lab", "/home/u")


def seed(release: str) -> Lab:
    names = ("providers.yaml", "model-mappings.yaml")
    result = read_lab({n: (SEED / release / n).read_bytes() for n in names}, "/lab", "/home/u")
    assert stopping(result.findings) == ()
    assert result.lab is not None
    return result.lab


def good(result: Reading) -> Lab:
    assert result.findings == (), [str(f) for f in result.findings]
    assert result.lab is not None
    return result.lab


def service(lab: Lab, name: str) -> Service:
    found = lab.service(name)
    assert found is not None
    return found


def provider(lab: Lab, name: str) -> Provider:
    found = lab.provider(name)
    assert found is not None
    return found


def in_provider(line: str) -> str:
    return PROVIDERS + "    " + line + "\n"


def in_service(line: str, kind: str = "llamacpp-native") -> str:
    return f"services:\n  {kind}:\n    {line}\n"


# (file, text of it, rule, line, column, part of the message, part of the hint)
ERRORS = [
    ("providers.yaml", "providers:\n  x: 3\n", "type", 2, 6, "`providers.x` must be a mapping", ""),
    ("providers.yaml", "- a\n", "type", 1, 1, "top level must be a mapping", ""),
    ("providers.yaml", "", "missing-key", 1, 1, "`providers` is missing", ""),
    ("providers.yaml", "providers: {x: {}}\n", "missing-key", 1, 13, "no `type`", "ollama"),
    ("providers.yaml", "providers: {x: {}}\n", "missing-key", 1, 13, "no `base_url`", "http"),
    ("providers.yaml", in_provider("statu: active"), "unknown-key", 6, 5, "`statu`", "`status`"),
    ("providers.yaml", in_provider("api_key: s3"), "unknown-key", 6, 5, "`api_key`", "secrets.env"),
    ("providers.yaml", in_provider("type: vllm"), "duplicate-key", 6, 5, "`type`", "keep one"),
    ("providers.yaml", in_provider("status: activ"), "value", 6, 13, "`activ`", "`active`?"),
    ("providers.yaml", in_provider("status: on"), "type", 6, 13, "must be text", 'write "on"'),
    ("providers.yaml", in_provider("requires_api_key: true"), "missing-key", 6, 5, "env_var", ""),
    ("providers.yaml", in_provider("env_var: sk-1"), "value", 6, 14, "not the name", "never the"),
    (
        *("providers.yaml", in_provider("rate_limits: {requests_per_minute: 0}")),
        *("value", 6, 40, "is 0: outside 1 to", ""),
    ),
    (
        *("providers.yaml", in_provider("rate_limits: {tokens_per_minute: '90'}")),
        *("type", 6, 38, "whole number", "quotes"),
    ),
    (
        *("providers.yaml", in_provider("cost_per_1k_tokens: {b: 1}")),
        *("value", 6, 26, "`b`, which the provider does not list", "models"),
    ),
    (
        *("providers.yaml", PROVIDERS.replace("[a]", "[a, a]")),
        *("duplicate-key", 5, 17, "listed twice", ""),
    ),
    ("providers.yaml", PROVIDERS.replace("[a]", "[3.1]"), "type", 5, 14, "3.1", "in quotes"),
    ("providers.yaml", PROVIDERS.replace("[a]", "a"), "type", 5, 13, "must be a list", "- "),
    ("providers.yaml", PROVIDERS.replace("[a]", "[{nam: a}]"), "missing-key", 5, 14, "name", ""),
    ("providers.yaml", PROVIDERS.replace("[a]", '["a\\nb"]'), "value", 5, 14, "line break", ""),
    (
        *("providers.yaml", PROVIDERS.replace("[a]", "[{name: a, options: {num_ctx: x}}]")),
        *("type", 5, 43, "`providers.ollama.models[0].options.num_ctx`", ""),
    ),
    *(
        ("providers.yaml", PROVIDERS.replace("http://127.0.0.1:11434", url), *rest)
        for url, *rest in (
            ("ftp://x", "value", 4, 15, "no http or https URL", "http://HOST:PORT"),
            ("http://x:99999", "value", 4, 15, "cannot be read", ""),
            ("http://x:0", "value", 4, 15, "no http or https URL", ""),
            ("http://x:PORT", "value", 4, 15, "cannot be read", ""),
            ("http://[::1", "value", 4, 15, "cannot be read", ""),
            ("'http://a b'", "value", 4, 15, "blank", ""),
            ("http://x/?a=1", "value", 4, 15, "query", ""),
            ("http://0.0.0.0:1", "value", 4, 15, "address to listen on", "127.0.0.1"),
            ("http://u:hunter2@x", "value", 4, 15, "user name or password", "secrets.env"),
        )
    ),
    ("model-mappings.yaml", "exact_matches: {a: {}}", "missing-key", 1, 17, "no `provider`", ""),
    ("model-mappings.yaml", "exact_match: {}\n", "unknown-key", 1, 1, "", "`exact_matches`"),
    (
        *("model-mappings.yaml", MAPPINGS + "    model: b\n"),
        *("unknown-key", 4, 5, "`model`", "backend_model"),
    ),
    (
        *("model-mappings.yaml", "fallback_chains: {a: {fallbacks: [b]}}\n"),
        *("missing-key", 1, 19, "no `chain`", "chain: []"),
    ),
    (
        *("model-mappings.yaml", "fallback_chains:\n  a:\n    chain:\n      - [b]\n"),
        *("type", 4, 9, "`fallback_chains.a.chain[0]` must be text", ""),
    ),
    ("model-mappings.yaml", "capabilities: {c: {}}\n", "missing-key", 1, 16, "preferred", ""),
    (
        *("model-mappings.yaml", "load_balancing: {g: {providers: [{provider: a, weight: 0}]}}\n"),
        *("value", 1, 56, "must be above 0", ""),
    ),
    (
        *("model-mappings.yaml", "load_balancing: {g: {providers: [{provider: a, weight: .nan}]}}"),
        *("value", 1, 56, "`.nan`", ""),
    ),
    ("lab.yaml", "version: 2\n", "value", 1, 10, "is 2", ""),
    ("lab.yaml", "services: {litellm: {}}\n", "value", 1, 12, "the gateway is not", "`gateway:`"),
    ("lab.yaml", "services: {x: {kind: litellm}}\n", "value", 1, 12, "gateway", "`gateway:`"),
    ("lab.yaml", "services: {x: {}}\n", "missing-key", 1, 12, "no `kind`", "vllm"),
    ("lab.yaml", "services: {x: {kind: olama}}\n", "value", 1, 22, "`olama`", "`ollama`?"),
    ("lab.yaml", "services: {X_1: {kind: vllm}}\n", "value", 1, 12, "cannot name a unit", ""),
    ("lab.yaml", in_service("port: 70000"), "value", 3, 11, "is 70000: outside 1 to 65,535", ""),
    ("lab.yaml", in_service("port: 010"), "value", 3, 11, "YAML reads as 8", "write 8"),
    ("lab.yaml", in_service("port: '80'"), "type", 3, 11, "whole number", "remove the quotes"),
    ("lab.yaml", in_service("gpu_layers: -1"), "value", 3, 17, "`-1`", "`all`"),
    ("lab.yaml", in_service("gpu_layers: [1]"), "value", 3, 17, "no scalar", "`auto`"),
    ("lab.yaml", in_service("memory_max: 24GB"), "value", 3, 17, "no size", "write `24G`"),
    (
        "lab.yaml",
        in_service("memory_max: 24"),
        "value",
        3,
        17,
        "outside",
        "",
    ),
    ("lab.yaml", in_service("memory_max: 200%"), "value", 3, 17, "no size", ""),
    ("lab.yaml", in_service("start_timeout: soon"), "value", 3, 20, "no duration", "30s"),
    ("lab.yaml", in_service("start_timeout: 9999h"), "value", 3, 20, "outside 1 to 86400", ""),
    ("lab.yaml", in_service("host: 'http://x'"), "value", 3, 11, "no address", "127.0.0.1"),
    ("lab.yaml", in_service("program: llama-server"), "value", 3, 14, "bare name", "PATH"),
    ("lab.yaml", in_service("model: ~other/x.gguf"), "value", 3, 12, "another user", ""),
    ("lab.yaml", in_service("api_key: sk-hunter2"), "value", 3, 14, "not the name", "never the"),
    ("lab.yaml", in_service("provider: nobody"), "value", 3, 15, "`nobody`, which is no", ""),
    ("lab.yaml", in_service("environment: {1X: y}"), "value", 3, 19, "`1X`", ""),
    ("lab.yaml", in_service("environment: {LABCTL_X: y}"), "value", 3, 19, "labctl's own", ""),
    ("lab.yaml", in_service("environment: {X: }"), "type", 3, 22, "not nothing", ""),
    ("lab.yaml", in_service('environment: {X: "a\\nb"}'), "value", 3, 22, "line break", ""),
    ("lab.yaml", in_service('args: ["a\\nb"]'), "value", 3, 12, "line break", ""),
    ("lab.yaml", in_service("args: --x"), "type", 3, 11, "must be a list", ""),
    ("lab.yaml", in_service("enabled: 1"), "type", 3, 14, "true or false", ""),
    ("lab.yaml", in_service("exclusive: GPU 0"), "value", 3, 16, "`GPU 0`", "gpu0"),
    ("lab.yaml", in_service("gpulayers: 3"), "unknown-key", 3, 5, "", "`gpu_layers`"),
    ("lab.yaml", "gateway: {timeout: 3}\n", "unknown-key", 1, 11, "", "`request_timeout`"),
    ("lab.yaml", "gateway: {rate_limits: {a: {}}}", "missing-key", 1, 25, "no `rpm`", ""),
    ("lab.yaml", "deploy: {soak: -1}\n", "value", 1, 16, "no duration", ""),
    ("lab.yaml", "deploy: {keep_generations: 1}\n", "value", 1, 28, "outside 2", ""),
    ("secrets.env", "A=1\nA=2\n", "duplicate-key", 2, 1, "`A` is set twice, first on line 1", ""),
    ("secrets.env", "A=1\nhunter2\n", "value", 2, 1, "no `NAME=value`", ""),
    ("secrets.env", "hunter2/x=\n", "value", 1, 1, "no variable name", "letters"),
    ("secrets.env", "export A=hunter2\n", "value", 1, 1, "`export`", "no shell"),
    ("secrets.env", 'A="hunter2\nB=1\n', "value", 1, 3, "never closed", ""),
    ("secrets.env", "# c \\\nA=1\n", "value", 1, 1, "skips the next line", "backslash"),
]


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case[0]}-{case[1][-30:]!r}")
def test_errors_with_their_places(case: tuple[str, str, str, int, int, str, str]) -> None:
    file, text, rule, line, column, message, hint = case
    texts = {"providers.yaml": PROVIDERS.encode(), "model-mappings.yaml": MAPPINGS.encode()}
    found = read_lab(texts | {file: text.encode()}, "/lab", "/home/u").findings
    at = [f for f in found if (f.rule, f.at.line, f.at.column) == (rule, line, column)]
    assert [f for f in at if message in f.message and hint in f.hint and f.at.file == file], found
    assert "hunter2" not in repr(found)


def test_every_problem_of_every_file_is_told_at_once() -> None:
    found = reading("versio: 1\n", "provider: 1\n", "a: [\n", "x\n").findings
    assert {(str(f.at), f.rule) for f in found} == {
        ("lab.yaml:1:1", "unknown-key"),
        ("providers.yaml:1:1", "unknown-key"),
        ("providers.yaml:1:1", "missing-key"),
        ("model-mappings.yaml:2:1", "syntax"),
        ("secrets.env:1:1", "value"),
    }


def test_missing_files() -> None:
    result = read_lab({}, "/lab", "/home/u")
    assert result.lab is None
    assert [(f.rule, str(f.at)) for f in result.findings] == [
        ("missing-file", "model-mappings.yaml"),
        ("missing-file", "providers.yaml"),
    ]


def test_a_template_may_hold_any_url() -> None:
    text = "providers: {t: {type: openai, status: template, base_url: 'http://[PORT'}}"
    assert provider(good(reading(None, text, "{}")), "t").host == ""


def test_a_bad_value_leaves_the_rest_to_look_at() -> None:
    lab = reading(None, PROVIDERS.replace("type: ollama", "type: olama")).lab
    assert lab is not None
    assert provider(lab, "ollama").type is ProviderType.OPENAI_COMPATIBLE
    assert [model.name for model in provider(lab, "ollama").models] == ["a"]


IDLE = [
    ("providers.yaml", in_provider("health_endpoint: /x"), 6, 5, Severity.WARNING, "probed"),
    ("providers.yaml", in_provider("service_file: x"), 6, 5, Severity.NOTE, "unit"),
    ("providers.yaml", in_provider("api_format: x"), 6, 5, Severity.NOTE, "type"),
    ("providers.yaml", in_provider("rate_limits: {hourly: true}"), 6, 5, Severity.WARNING, "limit"),
    ("providers.yaml", PROVIDERS + "health_checks: {enabled: true}\n", 6, 1, Severity.WARNING, ""),
    (
        *("providers.yaml", PROVIDERS.replace("[a]", "[{name: a, options: {num_gpu_layers: 1}}]")),
        *(5, 34, Severity.WARNING, "`num_gpu`"),
    ),
    (
        *("providers.yaml", PROVIDERS.replace("[a]", "[{name: a, options: {num_ctxx: 1}}]")),
        *(5, 34, Severity.WARNING, "ignores options"),
    ),
    ("model-mappings.yaml", MAPPINGS + "patterns: [{}]\n", 4, 1, Severity.WARNING, "exact names"),
    ("model-mappings.yaml", MAPPINGS + "routing_rules: {a: 1}\n", 4, 1, Severity.WARNING, ""),
    ("model-mappings.yaml", MAPPINGS + "special_cases: {a: 1}\n", 4, 1, Severity.WARNING, ""),
    ("model-mappings.yaml", MAPPINGS + "    priority: primary\n", 4, 5, Severity.NOTE, ""),
    (
        *("model-mappings.yaml", MAPPINGS + "    fallback: b\nfallback_chains: {a: {chain: []}}\n"),
        *(4, 5, Severity.WARNING, "chain"),
    ),
    *(
        (
            *(
                "model-mappings.yaml",
                f"capabilities: {{c: {{preferred_models: [a], {setting}}}}}\n",
            ),
            *(1, 43, Severity.WARNING, ""),
        )
        for setting in ("routing_strategy: x", "min_context: 3", "x_thresholds: {low: a}")
    ),
    (
        "model-mappings.yaml",
        "load_balancing: {g: {strategy: x, providers: [{provider: ollama}]}}\n",
        *(1, 22, Severity.WARNING, "weight"),
    ),
    (
        "model-mappings.yaml",
        "load_balancing: {g: {providers: [{provider: ollama, condition: x}]}}\n",
        *(1, 53, Severity.WARNING, "weight"),
    ),
    *(
        ("lab.yaml", in_service(line, kind), 3, 5, Severity.WARNING, "no way to take it")
        for kind, line in (
            ("ollama", "model: x"),
            ("ollama", "gpu_layers: 3"),
            ("ollama", "args: [x]"),
            ("ollama", "threads: 3"),
            ("ollama", "api_key: X"),
            ("llamacpp-python", "slots: 3"),
            ("vllm", "gpu_layers: all"),
        )
    ),
]


@pytest.mark.parametrize("case", IDLE, ids=lambda case: f"{case[0]}-{case[1][-30:]!r}")
def test_settings_without_effect(case: tuple[str, str, int, int, Severity, str]) -> None:
    file, text, line, column, severity, why = case
    texts = {"providers.yaml": PROVIDERS.encode(), "model-mappings.yaml": MAPPINGS.encode()}
    found = read_lab(texts | {file: text.encode()}, "/lab", "/home/u").findings
    assert [(f.rule, str(f.at), f.severity) for f in found] == [
        ("no-effect", f"{file}:{line}:{column}", severity)
    ]
    assert why in found[0].why and found[0].hint


def test_equal_settings_without_effect_are_one_finding() -> None:
    mappings = "exact_matches:\n" + "".join(
        f"  {name}:\n    provider: ollama\n    priority: x\n" for name in "abc"
    )
    (found,) = reading(mappings=mappings).findings
    assert found.message == "`priority` in exact_matches has no effect (3 places: lines 4, 7, 10)"


def test_false_and_null_ask_for_nothing() -> None:
    mappings = MAPPINGS + "    fallback: null\nspecial_cases: null\nrouting_rules: false\n"
    assert good(reading(mappings=mappings)).routes[0].fallback is None


def test_a_fallback_without_a_chain_is_kept() -> None:
    route = good(reading(mappings=MAPPINGS + "    fallback: b\n")).routes[0]
    assert route.fallback is not None
    assert (route.fallback.name, str(route.fallback.at)) == ("b", "model-mappings.yaml:4:15")


def test_a_full_lab_file() -> None:
    text = """\
version: 1
services:
  native2:
    kind: llamacpp-native
    provider: ollama
    required: false
    port: 9000
    host: "[::1]"
    program: ~/bin
    model: models/x.gguf
    model_name: x
    context: 4096
    slots: 2
    threads: 3
    gpu_layers: 12
    environment: {B: 1, A: on, C: "x y"}
    args: [--a, 1.50, yes]
    exclusive: gpu0
    memory_max: 1.5G
    api_key: KEY
    exposed: true
    start_timeout: 2m
gateway:
  port: 4001
  program: ./litellm
  master_key: MK
  request_timeout: 90
  stream_timeout: 500ms
  cooldown: 0
  retries: 0
  redis: {port: 6380, ttl: 1h}
  rate_limits: {a: {rpm: 5}}
deploy: {soak: 0, start_timeout: 1h, keep_generations: 3, prove_completions: false}
"""
    result = reading(text.replace("500ms", "5s"), secrets="KEY=hunter2\nEMPTY=\n")
    lab = good(result)
    native = service(lab, "native2")
    assert native.unit == "native2.service" and native.kind is ServiceKind.LLAMACPP_NATIVE
    assert (native.port, native.host, native.required, native.declared) == (
        9000,
        "::1",
        False,
        True,
    )
    assert (native.program, native.model_file) == ("/home/u/bin", "/lab/models/x.gguf")
    assert (native.context, native.slots, native.threads, native.gpu_layers) == (4096, 2, 3, 12)
    assert native.environment == (("A", "on"), ("B", "1"), ("C", "x y"))
    assert native.args == ("--a", "1.50", "yes")
    assert (native.exclusive, native.memory_max, native.api_key_variable) == ("gpu0", "1.5G", "KEY")
    assert native.exposed and native.start_timeout_s == 120
    assert provider(lab, "ollama").service == "native2"
    gateway = lab.gateway
    assert (gateway.port, gateway.program, gateway.master_key_variable) == (
        *(4001, "/lab/./litellm".replace("/.", "")),
        "MK",
    )
    assert (gateway.request_timeout_s, gateway.stream_timeout_s, gateway.cooldown_s) == (90, 5, 0)
    assert gateway.retries == 0 and gateway.redis == Redis("127.0.0.1", 6380, 3600)
    assert [(ref.name, limit) for ref, limit in gateway.rate_limits] == [("a", RateLimit(5))]
    assert (lab.deploy.soak_s, lab.deploy.start_timeout_s) == (0, 3600)
    assert lab.deploy.keep_generations == 3 and not lab.deploy.prove_completions
    assert lab.secret_names == frozenset({"KEY"}) and lab.declared
    assert [source.name for source in lab.sources] == [
        *("lab.yaml", "providers.yaml", "model-mappings.yaml")
    ]
    assert "hunter2" not in repr(result)


@pytest.mark.parametrize(
    ("name", "type_", "port", "expected"),
    [
        ("x", "ollama", 11434, "ollama"),
        ("x", "llama_cpp", 8000, "llamacpp-python"),
        ("x", "llama_cpp", 8080, "llamacpp-native"),
        ("my_python", "llama_cpp", 8080, "llamacpp-python"),
        ("native", "llama_cpp", 8000, "llamacpp-native"),
        ("x", "vllm", 8001, "vllm"),
        ("x", "openai_compatible", 8001, None),
    ],
)
def test_inference_from_type_name_and_port(
    name: str, type_: str, port: int, expected: str | None
) -> None:
    text = f"providers:\n  {name}: {{type: {type_}, base_url: 'http://localhost:{port}'}}\n"
    lab = good(reading(None, text, "{}\n"))
    assert provider(lab, name).service == expected
    assert [s.name for s in lab.services] == ([expected] if expected else [])
    assert all(not s.declared and s.port == port for s in lab.services)


def test_a_second_service_of_a_kind_carries_its_port() -> None:
    text = (
        "providers:\n"
        "  a: {type: vllm, base_url: 'http://127.0.0.1:8001'}\n"
        "  b: {type: vllm, base_url: 'http://127.0.0.1:8002'}\n"
        "  c: {type: vllm, base_url: 'http://127.0.0.1:8003', status: disabled}\n"
        "  d: {type: ollama, base_url: 'https://ollama.com'}\n"
    )
    lab = good(reading(None, text, "{}\n"))
    assert [s.name for s in lab.services] == ["vllm", "vllm-8002"]
    assert [p.service for p in lab.providers] == ["vllm", "vllm-8002", None, None]


def test_a_declared_service_takes_the_provider_on_its_port() -> None:
    lab = good(reading("services: {big: {kind: ollama, port: 11434}}\n"))
    assert provider(lab, "ollama").service == "big"
    assert [s.name for s in lab.services] == ["big"]


def test_a_declared_service_replaces_the_one_that_would_be_inferred() -> None:
    lab = good(reading("services: {ollama: {port: 11500}}\n"))
    assert provider(lab, "ollama").service == "ollama"
    assert [s.port for s in lab.services] == [11500]


@pytest.mark.parametrize(
    ("models", "mappings", "expected"),
    [
        ("[]", "exact_matches: {n: {provider: x}}", "n"),
        ("[]", "exact_matches: {n: {provider: x, backend_model: m}}", "m"),
        ("[l]", "exact_matches: {n: {provider: x, backend_model: l}}", "l"),
        ("[l, m]", "exact_matches: {n: {provider: x, backend_model: m}}", "m"),
        ("[l]", "{}", "l"),
        ("[]", "{}", None),
    ],
)
def test_the_name_that_a_one_model_service_answers_to(
    models: str, mappings: str, expected: str | None
) -> None:
    text = f"providers: {{x: {{type: llama_cpp, base_url: 'http://[::1]:8080', models: {models}}}}}"
    lab = good(reading(None, text, mappings))
    assert service(lab, "llamacpp-native").model_name == expected
    assert service(lab, "llamacpp-native").host == "::1"


def test_the_seed_reads_as_it_is() -> None:
    lab = seed("v1.7.1.1-hotfixed")
    assert [(s.name, s.required, s.model_name) for s in lab.services] == [
        ("ollama", True, None),
        ("llamacpp-python", True, "llama-cpp-default"),
        ("llamacpp-native", False, "llama-cpp-native"),
        ("vllm", False, "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ"),
    ]
    python = service(lab, "llamacpp-python")
    assert (python.context, python.slots, python.threads, python.gpu_layers) == (
        *(8192, None, 6, "all"),
    )
    assert service(lab, "vllm").args == (
        *("--max-model-len", "4096", "--gpu-memory-utilization", "0.45"),
    )
    assert len(lab.routes) == 12 and len(lab.chains) == 12 and lab.default_chain is not None
    assert [len(b.shares) for b in lab.balances] == [2, 2, 3, 2]
    openai = provider(lab, "openai")
    assert openai.status is ProviderStatus.DISABLED and openai.rate_limit == RateLimit(3500, 90000)
    assert openai.models[0].input_cost_per_token == pytest.approx(0.00003)
    assert provider(lab, "custom_openai_compatible").status is ProviderStatus.TEMPLATE
    (code,) = [c for c in lab.capabilities if c.name == "code"]
    assert code.thresholds[0].name == "qwen3-coder:480b-cloud"
    assert str(code.preferred[0].at) == "model-mappings.yaml:182:9"
    (llama,) = [c for c in lab.chains if c.group == "llama3.1:latest"]
    assert (str(llama.at), str(llama.members[0].at)) == (
        *("model-mappings.yaml:336:3", "model-mappings.yaml:339:9"),
    )


def test_the_older_seeds_read_as_they_are() -> None:
    assert len(seed("v1.7").chains) == 10
    assert provider(seed("v1.7.1-broken"), "llama_cpp_python").models == ()


@pytest.mark.parametrize("release", ["v1.7", "v1.7.1-broken", "v1.7.1.1-hotfixed"])
def test_what_the_seed_asks_for_in_vain_is_a_readable_list(release: str) -> None:
    names = ("providers.yaml", "model-mappings.yaml")
    texts = {n: (SEED / release / n).read_bytes() for n in names}
    found = read_lab(texts, "/lab", "/home/u").findings
    assert {f.rule for f in found} == {"no-effect"}
    told = " ".join(f.message for f in found)
    for key in (
        *("patterns", "routing_rules", "special_cases", "health_checks", "condition", "strategy"),
        *("complexity_thresholds", "context_thresholds", "num_gpu_layers", "rate_limits"),
        *("min_model_size", "parameters", "priority", "n_parallel", "health_endpoint"),
    ):
        assert f"`{key}`" in told
    assert 15 <= len(found) <= 25


def test_the_starter_lab_has_nothing_to_complain_about() -> None:
    result = read_lab(STARTER, "/lab", "/home/u")
    lab = good(result)
    assert [(s.name, s.enabled) for s in lab.services] == [
        ("ollama", True),
        ("llamacpp-python", True),
        ("llamacpp-native", True),
        ("vllm", False),
    ]
    assert all(s.declared for s in lab.services)
    assert b"\nLITELLM_MASTER_KEY=\n" in STARTER["secrets.env"]
    assert lab.secret_names == frozenset()


def test_every_commented_setting_of_the_starter_is_valid() -> None:
    text = STARTER["lab.yaml"].decode()
    uncommented, count = re.subn(r"(?m)^( +)# ( *[a-z_-]+:( .*)?)$", r"\1\2", text)
    assert count > 20
    texts = STARTER | {"lab.yaml": uncommented.encode()}
    assert good(read_lab(texts, "/lab", "/home/u")).gateway.redis is not None


@pytest.mark.parametrize("before", ["", "services:\n  vllm:\n    ", "gateway:\n  ", "deploy:\n  "])
def test_every_setting_of_lab_yaml_is_in_the_starter(before: str) -> None:
    (found,) = [f for f in reading(before + "zzqq: 1\n").findings if f.rule == "unknown-key"]
    keys = found.hint.removeprefix("known here: ").split(", ")
    starter = STARTER["lab.yaml"].decode()
    missing = [key for key in keys if f"{key}:" not in starter]
    assert set(missing) <= {"description", "notes"} and len(keys) > 4


def test_reading_the_seed_is_quick() -> None:
    names = ("providers.yaml", "model-mappings.yaml")
    texts = {n: (SEED / "v1.7.1.1-hotfixed" / n).read_bytes() for n in names}
    took = []
    for _ in range(5):
        started = time.process_time()
        read_lab(texts, "/lab", "/home/u")
        took.append(time.process_time() - started)
    assert min(took) < 0.1


def test_many_problems_stay_bounded() -> None:
    text = "\n".join(f"key{i}: 1" for i in range(30_000))
    started = time.perf_counter()
    found = reading(text).findings
    assert time.perf_counter() - started < 10
    assert found[-1].message == "29800 more problems from here on" and len(found) == 201


FRAGMENTS = st.sampled_from(
    (
        *(b"\n", b": ", b"- ", b"  ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"<<: *a", b"!!int "),
        *(b'"', b"null", b"-1", b"1e999", b".nan", b"~", b"\xff", b"\x00", b"\t", b"'", b"|\n"),
        *(b"---\n", b"?", b"\xc2\x85", b"\xe2\x80\xa8"),
    )
)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_lab_is_read_to_findings(data: st.DataObject) -> None:
    texts = dict(STARTER)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(LAB_FILES))
        at = data.draw(st.integers(0, len(texts[name])))
        cut = data.draw(st.integers(0, 40))
        new = data.draw(st.one_of(FRAGMENTS, st.binary(max_size=8)))
        texts[name] = texts[name][:at] + new + texts[name][at + cut :]
    result = read_lab(texts, "/lab", "/home/u")
    assert result.lab is not None or stopping(result.findings)
    for finding in result.findings:
        assert finding.at.line <= len(texts[finding.at.file]) and finding.message.isprintable()


@given(st.dictionaries(st.sampled_from(LAB_FILES), st.binary(max_size=200)))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_to_findings(texts: dict[str, bytes]) -> None:
    result = read_lab(texts, "/lab", "/home/u")
    assert result.lab is not None or stopping(result.findings)
