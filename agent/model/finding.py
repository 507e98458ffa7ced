"""What a check reports, and where it found it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters. Only an error stops a deploy."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def stops(self) -> bool:
        return self is Severity.ERROR

    @property
    def rank(self) -> int:
        """0 is the most severe: sorts findings for people."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a source file. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    Attributes:
        rule: the rule's id, kebab-case, stable for scripts.
        message: what is wrong, naming the value.
        why: why it matters when it is deployed.
        hint: what to do about it.
    """

    rule: str
    severity: Severity
    at: Position
    message: str
    why: str = ""
    hint: str = ""


def stopping(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that stop a deploy."""
    return tuple(finding for finding in findings if finding.severity.stops)


def in_reading_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then by file and place; stable, without repeats."""
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda f: (f.severity.rank, f.at, f.rule, f.message)))
