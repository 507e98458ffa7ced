"""Where the findings of one file are collected, and how much is said."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.model.finding import Finding, Position, Severity

FINDINGS_MAX = 200

WHY = {
    "unknown-key": "a misspelt setting would be ignored in silence",
    "duplicate-key": "YAML keeps only the last of two equal keys, in silence",
    "type": "a setting of the wrong type would be dropped or misread",
    "value": "a value out of its range fails only when the service starts",
    "missing-key": "nothing can be deployed without it",
    "missing-file": "the two routing files are the lab",
    "syntax": "nothing in a file that does not parse can be used",
    "encoding": "text that is not UTF-8 is read differently by every program",
    "too-deep": "the file is damaged, or made to exhaust its reader",
}


@dataclass(slots=True)
class Scope:
    """One file being read, and where its findings go."""

    file: str
    findings: list[Finding] = field(default_factory=list)
    idle: dict[tuple[str, str], _Idle] = field(default_factory=dict)
    unsaid: list[Position] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """So many problems that more would help nobody, and cost time."""
        return len(self.findings) >= FINDINGS_MAX

    def at(self, line: int, column: int) -> Position:
        return Position(self.file, line, column)

    def error(self, rule: str, at: Position, message: str, hint: str = "") -> None:
        if self.full:
            self.unsaid.append(at)
            return
        self.findings.append(Finding(rule, Severity.ERROR, at, message, WHY.get(rule, ""), hint))

    def without_effect(self, at: Position, what: str, where: str, why: Effectless) -> None:
        """Note a setting that nothing reads; equal ones become one finding."""
        self.idle.setdefault((what, where), _Idle(why)).places.append(at)

    def finish(self) -> None:
        """Turn the collected settings without effect into findings, one a kind."""
        if self.unsaid:
            message = f"{len(self.unsaid)} more problems from here on"
            at = self.unsaid[0]
            self.findings.append(Finding("value", Severity.ERROR, at, message, "", "fix the first"))
        for (what, where), idle in self.idle.items():
            first = min(idle.places)
            message = f"{what} in {where} has no effect"
            if len(idle.places) > 1:
                lines = ", ".join(str(line) for line in sorted({p.line for p in idle.places}))
                message += f" ({len(idle.places)} places: lines {lines})"
            why = idle.why
            self.findings.append(
                Finding("no-effect", why.severity, first, message, why.why, why.hint)
            )
        self.idle.clear()


@dataclass(frozen=True, slots=True)
class Effectless:
    """Why a setting does nothing, and what does instead."""

    why: str
    hint: str = "remove it"
    severity: Severity = Severity.WARNING


@dataclass(slots=True)
class _Idle:
    why: Effectless
    places: list[Position] = field(default_factory=list)
