"""A rule of `labctl check`: one function, with its id, its severity and its why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from agent.model.finding import Finding, Position, Severity
from agent.model.host import HostFacts
from agent.model.lab import Lab
from agent.model.routing import RoutingTable


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules look at."""

    lab: Lab
    table: RoutingTable
    facts: HostFacts = field(default_factory=HostFacts)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One place where a rule is broken; the rule adds its id, severity and why.

    `severity` overrides the rule's own, for the cases that its docstring names.
    """

    at: Position
    message: str
    hint: str = ""
    severity: Severity | None = None


Check = Callable[[Subject], Iterable[Complaint]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named check. `summary` says what it catches, `why` what happens when it is deployed."""

    id: str
    severity: Severity
    summary: str
    why: str
    check: Check

    def findings(self, subject: Subject) -> Iterator[Finding]:
        for complaint in self.check(subject):
            yield Finding(
                rule=self.id,
                severity=complaint.severity or self.severity,
                at=complaint.at,
                message=complaint.message,
                why=self.why,
                hint=complaint.hint,
            )


def rule(id: str, severity: Severity, why: str) -> Callable[[Check], Rule]:
    """Turn a function into a rule; its docstring's first line is the summary."""

    def make(check: Check) -> Rule:
        summary = (check.__doc__ or "").strip().splitlines()[0]
        return Rule(id=id, severity=severity, summary=summary, why=why, check=check)

    return make
