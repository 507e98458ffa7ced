"""A plan for people: a diff of files, then the unit actions in their order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from agent.cli.output import paint
from agent.deploy.render import INPUTS_VARIABLE
from agent.model.generation import Generation
from agent.model.host import PortHolder
from agent.model.placed import ServicePlacement
from agent.model.plan import ChangeKind, FileChange, Plan

_SIGN = {ChangeKind.ADDED: "+", ChangeKind.CHANGED: "~", ChangeKind.REMOVED: "-"}


def change_lines(changes: Sequence[FileChange], *, colour: bool = False) -> list[str]:
    """A unified diff of every changed file; secrets are named, never shown."""
    lines = []
    for change in changes:
        lines.append(paint(f"{_SIGN[change.kind]} {change.path}", "bold", colour=colour))
        if change.secret:
            lines.append("    its values are not shown")
            continue
        if change.kind is not ChangeKind.CHANGED:
            count = len((change.before or change.after).splitlines())
            lines.append(f"    {change.kind}, {count} lines")
            continue
        for line in _unified(change):
            style = {"+": "green", "-": "red"}.get(line[:1], "dim")
            lines.append("    " + paint(line, style, colour=colour))
    return lines


def _unified(change: FileChange) -> list[str]:
    before, after = _readable(change.before), _readable(change.after)
    diff = difflib.unified_diff(before, after, lineterm="", n=2)
    return [line for line in diff if not line.startswith(("---", "+++"))]


def _readable(text: str) -> list[str]:
    """Without the digest that a process carries: it differs whenever anything else does."""
    return [line for line in text.splitlines() if not line.startswith(f"{INPUTS_VARIABLE}=")]


def plan_lines(
    plan: Plan,
    current: Generation | None,
    holders: dict[int, PortHolder],
    edited: Sequence[str],
    *,
    colour: bool = False,
) -> list[str]:
    """The whole plan, or the one line that there is nothing to do."""
    if plan.empty and not edited:
        number = current.number if current else 0
        return [f"nothing to do: generation {number} is what the lab asks for"]
    lines = []
    if plan.changes:
        lines += ["Files", *(f"  {line}" for line in change_lines(plan.changes, colour=colour))]
    if plan.adopts:
        lines += ["", "Keeps what stands there now, as an adopted generation"]
        lines += [f"  {path}" for path in plan.adopts]
    if plan.repairs:
        lines += ["", "Puts back"]
        lines += [f"  {path}" for path in plan.repairs]
    if edited:
        lines += ["", "Edited by hand since the last deploy (a deploy refuses to lose this)"]
        lines += [f"  {path}" for path in edited]
    if holders:
        lines += ["", "Ports held by others (a deploy refuses)"]
        lines += [f"  {port}: {holder}" for port, holder in sorted(holders.items())]
    lines += ["", "Units", *_unit_lines(plan)]
    return lines[1:] if lines and not lines[0] else lines


def _unit_lines(plan: Plan) -> list[str]:
    if not plan.waves:
        return ["  none is started, stopped or restarted"]
    lines = []
    for number, wave in enumerate(plan.waves, start=1):
        lines += [f"  {number}. {step}" for step in wave]
    return lines


def placement_lines(placements: Sequence[ServicePlacement]) -> list[str]:
    """Which layers go where, and why; nothing for a lab without models to place."""
    if not placements:
        return []
    return ["", "Layers", *(f"  {placed.service}: {placed.why}" for placed in placements)]


def plan_json(
    plan: Plan,
    current: Generation | None,
    holders: dict[int, PortHolder],
    edited: Sequence[str],
) -> dict[str, object]:
    return {
        "empty": plan.empty and not edited,
        "generation": current.number if current else None,
        "changes": [
            {"path": c.path, "kind": str(c.kind), "secret": c.secret, "diff": _unified(c)}
            for c in plan.changes
        ],
        "adopts": list(plan.adopts),
        "repairs": list(plan.repairs),
        "edited": list(edited),
        "holders": {str(port): str(holder) for port, holder in holders.items()},
        "waves": [
            [{"action": str(s.action), "unit": s.service.unit, "why": s.why} for s in wave]
            for wave in plan.waves
        ],
    }
