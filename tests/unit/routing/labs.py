"""Labs for the tests of this folder, from a few lines of YAML through the real reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from agent.lab.read import read_lab
from agent.model.finding import Finding, Severity
from agent.model.lab import Lab
from agent.model.routing import RoutingTable
from agent.model.rule import Subject
from agent.routing.document import render_document
from agent.routing.rules import RULES
from agent.routing.table import build_table

SEED = Path(__file__).resolve().parents[2] / "data" / "seed"

PROVIDERS = """
    providers:
      ollama:
        type: ollama
        base_url: http://127.0.0.1:11434
        status: active
        models:
          - {name: "llama3:8b", specialty: general_chat}
          - {name: "coder:7b", specialty: code_generation}
      python:
        type: llama_cpp
        base_url: http://127.0.0.1:8000
        status: active
        models: [{name: gguf, context_length: 4096}]
      cloud:
        type: ollama
        base_url: https://ollama.com
        status: active
        requires_api_key: true
        env_var: OLLAMA_API_KEY
        models: ["big:120b"]
      idle:
        type: vllm
        base_url: http://127.0.0.1:8002
        status: disabled
        models: [sleeping]
"""


@dataclass(frozen=True)
class Routed:
    """A lab with everything that routing makes of it."""

    lab: Lab
    table: RoutingTable
    findings: tuple[Finding, ...]

    @property
    def document(self) -> str:
        return render_document(self.lab, self.table)

    def of(self, rule: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.rule == rule)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)


def routed(mappings: str, providers: str = PROVIDERS, lab: str = "version: 1\n") -> Routed:
    """Read, build and check; fails when the reader itself finds an error."""
    texts = {
        "lab.yaml": dedent(lab).encode(),
        "providers.yaml": dedent(providers).encode(),
        "model-mappings.yaml": dedent(mappings).encode(),
    }
    return _checked(texts)


def seed(release: str) -> Routed:
    folder = SEED / release
    names = ("providers.yaml", "model-mappings.yaml")
    return _checked({name: (folder / name).read_bytes() for name in names})


def _checked(texts: dict[str, bytes]) -> Routed:
    reading = read_lab(texts, "/lab", "/home/user")
    stopping = [str(f) for f in reading.findings if f.severity is Severity.ERROR]
    assert reading.lab is not None and not stopping, stopping
    table, findings = build_table(reading.lab)
    subject = Subject(reading.lab, table)
    checked = tuple(finding for rule in RULES for finding in rule.findings(subject))
    return Routed(reading.lab, table, (*findings, *checked))
