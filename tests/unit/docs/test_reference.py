"""The reference is the code's: verbs, keys, rules, exit codes, variables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.reference import LINT_FINDINGS, READ_FINDINGS, VARIABLES, reference
from agent.cli.reference_keys import TABLES, KeyTable, default_of
from agent.lab.read import read_lab
from agent.model.errors import ExitCode

ROOT = Path(__file__).parents[3]
UNKNOWN = "zqxjk"

# A lab with a key that nobody knows in every mapping: the reader answers with those it knows.
PROBE = {
    "lab.yaml": f"""\
{UNKNOWN}: 1
services: {{a: {{{UNKNOWN}: 1, kind: vllm}}}}
gateway:
  {UNKNOWN}: 1
  redis: {{{UNKNOWN}: 1}}
  rate_limits: {{a: {{{UNKNOWN}: 1}}}}
deploy: {{{UNKNOWN}: 1}}
""",
    "providers.yaml": f"""\
{UNKNOWN}: 1
providers:
  a:
    {UNKNOWN}: 1
    type: ollama
    base_url: http://127.0.0.1:11434
    models: [{{name: a, {UNKNOWN}: 1}}]
    rate_limits: {{{UNKNOWN}: 1}}
    configuration: {{{UNKNOWN}: 1}}
""",
    "model-mappings.yaml": f"""\
{UNKNOWN}: 1
exact_matches: {{a: {{{UNKNOWN}: 1, provider: a}}}}
fallback_chains: {{a: {{{UNKNOWN}: 1, chain: []}}}}
capabilities: {{a: {{{UNKNOWN}: 1, preferred_models: [a]}}}}
load_balancing: {{a: {{{UNKNOWN}: 1, providers: [{{provider: a, {UNKNOWN}: 1}}]}}}}
""",
}


def test_the_committed_reference_is_what_the_code_says() -> None:
    committed = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert committed == reference().rstrip("\n") + "\n", (
        "run `python -m agent.cli.reference > docs/reference.md`"
    )


def test_the_reference_holds_every_exit_code() -> None:
    text = reference()
    for code in ExitCode:
        assert f"| {int(code)} | {code.meaning} |" in text


def test_the_key_tables_are_the_readers_own() -> None:
    """Every mapping that the reader knows has a table, and each table has exactly its keys."""
    accepted = dict(_accepted())
    assert set(accepted) == {(table.file, table.path) for table in TABLES}
    for table in TABLES:
        assert table.names == accepted[table.file, table.path], f"{table.file}: {table.path}"


def _accepted() -> Iterator[tuple[tuple[str, str], frozenset[str]]]:
    """(file, path with `*` for names) → the keys that the reader accepts there."""
    texts = {name: text.encode() for name, text in PROBE.items()}
    for finding in read_lab(texts, "/lab", "/home").findings:
        if finding.rule != "unknown-key":
            continue
        inside = re.search(r" in `([^`]+)` is unknown", finding.message)
        path = re.sub(r"\.a(?=$|\.)", ".*", inside[1]) if inside else ""
        path = path.replace("[0]", "[]")
        listed = finding.hint.removeprefix("known here: ")
        assert listed != finding.hint, finding.hint
        yield (finding.at.file, path), frozenset(listed.split(", "))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.file}:{table.path}")
def test_every_default_is_in_words(table: KeyTable) -> None:
    for key in table.keys:
        assert re.fullmatch(r"[\w`' .:+-]+", default_of(table, key)), key.name


def test_every_finding_of_a_reader_is_described() -> None:
    raised = {
        *_first_words("agent/lab/tree.py", "Flaw", "_Stop"),
        *(word for file in _lab_modules() for word in _first_words(file, "error", "wrong")),
        "no-effect",
    }
    assert raised == set(READ_FINDINGS)


def test_every_finding_of_the_linter_is_described() -> None:
    files = (str(path.relative_to(ROOT)) for path in (ROOT / "agent/routing").glob("lint*.py"))
    raised = {word for file in files for word in _first_words(file, "Problem")}
    assert raised == set(LINT_FINDINGS)


def test_every_environment_variable_that_is_read_is_described() -> None:
    read = re.compile(r"environ(?:\.get\(|\[)\s*\"([A-Z_]+)\"")
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "agent").rglob("*.py"))
    found = {name for text in texts for name in read.findall(text)}
    described = {f"`{name}`" for name in found - {"TERM"}}  # described with NO_COLOR
    assert described - {name for name, _ in VARIABLES} == set()
    assert "LABCTL_DEBUG" in found


def _lab_modules() -> Iterator[str]:
    return (str(path.relative_to(ROOT)) for path in (ROOT / "agent/lab").glob("*.py"))


def _first_words(file: str, *called: str) -> Iterator[str]:
    """The first argument of every call of these names, where it is a text."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = node.args[0]
        if name in called and isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value
