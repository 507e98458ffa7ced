"""Findings about a LiteLLM config that lies in the lab's folder, written by another tool.

labctl writes its own config and never reads that file, so every finding is a warning. They say
what LiteLLM 1.106.2 really does with it; `docs/gateway.md` and the facts have the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from agent.model.finding import Finding, Position, Severity
from agent.routing.lint_deployments import lint_deployment
from agent.routing.lint_nodes import Node, Problem
from agent.routing.lint_settings import lint_fallbacks, lint_sections

_HINT = "labctl deploys a config of its own and never reads this file"


def lint_gateway_config(text: str, file: str) -> tuple[Finding, ...]:
    """Every problem of a LiteLLM config, with `file:line:column`. Never raises for bad input."""
    return tuple(
        Finding(
            rule=problem.rule,
            severity=Severity.WARNING,
            at=problem.at,
            message=problem.message,
            why=problem.why,
            hint=f"{problem.hint}; {_HINT}" if problem.hint else _HINT,
        )
        for problem in _problems(text, file)
    )


def _problems(text: str, file: str) -> Iterator[Problem]:
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = Position(file, mark.line + 1, mark.column + 1) if mark else Position(file)
        reason = getattr(error, "problem", None) or "cannot be read"
        yield Problem("syntax", at, f"no YAML: {reason}", "LiteLLM refuses to start")
        return
    document = Node(file, root)
    if not isinstance(root, yaml.MappingNode):
        yield Problem(
            "syntax", document.at, "no mapping at the top level", "LiteLLM serves nothing"
        )
        return
    yield from _duplicate_keys(document)
    models = document.get("model_list")
    for entry in models.items() if models is not None else ():
        yield from lint_deployment(entry)
    yield from lint_sections(document)
    yield from lint_fallbacks(document)


def _duplicate_keys(node: Node, depth: int = 0) -> Iterator[Problem]:
    """Keys written twice in one mapping, at any level that a config has."""
    seen: set[str] = set()
    for key, value in node.pairs():
        if key.text in seen:
            message = f"`{key.text}` is written twice"
            why = "the last one wins, in silence"
            yield Problem("duplicate-key", key.at, message, why, "keep one of them")
        seen.add(key.text)
        if depth < 6:
            yield from _duplicate_keys(value, depth + 1)
    for item in node.items() if depth < 6 else ():
        yield from _duplicate_keys(item, depth + 1)
