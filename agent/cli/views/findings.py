"""Findings for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.cli.output import paint
from agent.model.finding import Finding, Severity, stopping

_STYLE = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def finding_lines(findings: Iterable[Finding], *, colour: bool = False) -> list[str]:
    """`file:line:column: severity[rule]: what`, then why and hint, indented."""
    lines = []
    for finding in findings:
        severity = paint(str(finding.severity), _STYLE[finding.severity], colour=colour)
        lines.append(f"{finding.at}: {severity}[{finding.rule}]: {finding.message}")
        if finding.why:
            lines.append(paint(f"    why: {finding.why}", "dim", colour=colour))
        if finding.hint:
            lines.append(f"    hint: {finding.hint}")
    return lines


def summary_line(findings: Sequence[Finding]) -> str:
    """One sentence that counts them."""
    errors = len(stopping(findings))
    warnings = sum(1 for finding in findings if finding.severity is Severity.WARNING)
    counts = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    return f"refused: {counts}" if errors else f"ok: {counts}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def findings_json(findings: Sequence[Finding], directory: str) -> dict[str, object]:
    return {
        "ok": not stopping(findings),
        "lab": directory,
        "findings": [
            {
                "rule": finding.rule,
                "severity": str(finding.severity),
                "file": finding.at.file,
                "line": finding.at.line,
                "column": finding.at.column,
                "message": finding.message,
                "why": finding.why,
                "hint": finding.hint,
            }
            for finding in findings
        ],
    }
