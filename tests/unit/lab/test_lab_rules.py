"""The rules about services: what each catches, where, and how much it matters."""

from __future__ import annotations

import pytest

from agent.lab.read import read_lab
from agent.lab.rules import RULES
from agent.model.finding import Finding, Severity
from agent.model.host import HostFacts
from agent.model.routing import RoutingTable
from agent.model.rule import Subject

ERROR, WARNING = Severity.ERROR, Severity.WARNING
PROVIDERS = """\
providers:
  ollama:
    type: ollama
    base_url: http://127.0.0.1:11434
    models: [a]
  native:
    type: llama_cpp
    base_url: http://127.0.0.1:8080
    models: [n]
"""
LAB = """\
services:
  ollama: {}
  llamacpp-native: {model: /m.gguf}
gateway: {}
"""
SECRETS = "LITELLM_MASTER_KEY=sk-1\n"


def findings(
    lab: str | None = LAB,
    providers: str = PROVIDERS,
    secrets: str | None = SECRETS,
    facts: HostFacts | None = None,
) -> list[Finding]:
    texts = {"providers.yaml": providers.encode(), "model-mappings.yaml": b"{}"}
    texts |= {"lab.yaml": lab.encode()} if lab is not None else {}
    texts |= {"secrets.env": secrets.encode()} if secrets is not None else {}
    read = read_lab(texts, "/lab", "/home/u")
    assert read.lab is not None and read.findings == ()
    subject = Subject(read.lab, RoutingTable(()), facts or HostFacts())
    return [finding for rule in RULES for finding in rule.findings(subject)]


def told(found: list[Finding]) -> list[tuple[str, Severity, str]]:
    assert all(f.message and f.why for f in found)
    return [(f.rule, f.severity, str(f.at)) for f in found]


def service(settings: str) -> str:
    return LAB.replace("{model: /m.gguf}", "{model: /m.gguf, " + settings + "}")


def test_a_sound_lab_has_no_findings() -> None:
    assert findings() == []


@pytest.mark.parametrize(
    ("lab", "providers", "rule", "severity", "at", "part"),
    [
        (
            LAB.replace("ollama: {}", "ollama: {port: 8080, provider: ollama}"),
            PROVIDERS.replace("11434", "8080"),
            *("port-clash", ERROR, "lab.yaml:3:3", "both listen on port 8080"),
        ),
        (
            LAB.replace("gateway: {}", "gateway: {port: 8080}"),
            PROVIDERS,
            *("port-clash", ERROR, "lab.yaml:3:3", "the gateway both listen on port 8080"),
        ),
        (
            LAB.replace("ollama: {}", "ollama: {port: 11500}"),
            PROVIDERS,
            *("port-clash", ERROR, "providers.yaml:2:3", "calls port 11434"),
        ),
        (
            LAB,
            PROVIDERS + "  x: {type: openai_compatible, base_url: 'http://localhost:4000'}\n",
            *("port-clash", ERROR, "providers.yaml:10:3", "the gateway itself"),
        ),
        (
            service("exclusive: g").replace("ollama: {}", "ollama: {exclusive: g}"),
            PROVIDERS,
            *("exclusive-clash", ERROR, "lab.yaml:3:3", "group `g`"),
        ),
        (
            service("enabled: false"),
            PROVIDERS,
            *("disabled-service", ERROR, "providers.yaml:6:3", "disabled"),
        ),
        (
            LAB.replace("gateway", "  vllm: {model: x}\ngateway"),
            PROVIDERS,
            *("service-without-provider", WARNING, "lab.yaml:4:3", "`vllm`"),
        ),
        (
            service("model_name: other"),
            PROVIDERS,
            *("model-name-mismatch", ERROR, "providers.yaml:9:14", "serves `other` alone"),
        ),
        (
            LAB.replace("{model: /m.gguf}", "{}"),
            PROVIDERS,
            *("missing-model-file", ERROR, "lab.yaml:3:3", "names no model file"),
        ),
        (
            service("host: 0.0.0.0"),
            PROVIDERS,
            *("exposure", ERROR, "lab.yaml:3:3", "every address"),
        ),
        (
            service("host: 0.0.0.0, exposed: true"),
            PROVIDERS,
            *("exposure", WARNING, "lab.yaml:3:3", "without a key"),
        ),
        (
            LAB.replace("ollama: {}", "ollama: {host: 10.0.0.1}"),
            PROVIDERS,
            *("exposure", ERROR, "lab.yaml:2:3", "10.0.0.1"),
        ),
        (
            service("api_key: KEY"),
            PROVIDERS,
            *("missing-secret", ERROR, "lab.yaml:3:3", "`KEY`: secrets.env does not set it"),
        ),
        (
            LAB,
            PROVIDERS + "  o: {type: openai, base_url: 'https://x', env_var: K, models: [g]}\n",
            *("missing-secret", ERROR, "providers.yaml:10:3", "the key of provider `o`, `K`"),
        ),
    ],
)
def test_rules(lab: str, providers: str, rule: str, severity: Severity, at: str, part: str) -> None:
    found = findings(lab, providers)
    assert told(found) == [(rule, severity, at)]
    assert part in found[0].message


def test_a_service_with_its_key_may_listen_anywhere() -> None:
    lab = service("host: 0.0.0.0, api_key: KEY")
    assert findings(lab, secrets=SECRETS + "KEY=x\n") == []
    assert findings(LAB.replace("gateway: {}", "gateway: {host: 0.0.0.0}")) == []


def test_a_gateway_beyond_loopback_wants_its_key() -> None:
    found = findings(LAB.replace("gateway: {}", "gateway: {host: 0.0.0.0}"), secrets="X=1\n")
    assert told(found) == [
        ("missing-secret", ERROR, "lab.yaml:4:1"),
        ("exposure", ERROR, "lab.yaml:4:1"),
    ]


def test_what_the_host_lacks_is_an_error_where_it_is_required() -> None:
    facts = HostFacts(
        missing_files=frozenset({"/m.gguf"}),
        programs={"ollama": None, "llamacpp-native": "/bin/x", "litellm": None},
    )
    assert told(findings(facts=facts)) == [
        ("missing-model-file", ERROR, "lab.yaml:3:3"),
        ("missing-program", ERROR, "lab.yaml:2:3"),
        ("missing-program", ERROR, "lab.yaml:4:1"),
    ]
    optional = service("required: false").replace("ollama: {}", "ollama: {required: false}")
    assert told(findings(optional, facts=facts)) == [
        ("missing-model-file", WARNING, "lab.yaml:3:3"),
        ("missing-program", WARNING, "lab.yaml:2:3"),
        ("missing-program", ERROR, "lab.yaml:4:1"),
    ]


@pytest.mark.parametrize(("deploying", "severity"), [(False, WARNING), (True, ERROR)])
def test_a_bare_folder_may_describe_another_host(deploying: bool, severity: Severity) -> None:
    facts = HostFacts(programs={"ollama": None, "litellm": None}, deploying=deploying)
    found = findings(None, secrets=None, facts=facts)
    assert told(found) == [
        ("missing-model-file", WARNING, "providers.yaml:6:3"),  # inferred as not required
        ("missing-program", severity, "providers.yaml:2:3"),
        ("missing-program", severity, "model-mappings.yaml"),
        ("missing-secret", severity, "model-mappings.yaml"),
    ]
    assert "does not exist" in found[-1].message


def test_rules_have_distinct_ids_and_say_what_they_catch() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.summary.endswith(".") and rule.why for rule in RULES)
