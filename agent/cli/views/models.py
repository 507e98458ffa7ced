"""Model files and who serves them, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass

from agent.cli.output import table
from agent.model.finding import Finding
from agent.model.gguf import ModelFacts
from agent.model.placement import whole_mib

HEADERS = ("MODEL", "SIZE", "LAYERS", "TRAINED", "QUANT", "USED BY", "FILE")


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One file, or a catalogue entry whose file is not here (`path` is empty).

    Attributes:
        name: the catalogue's alias, else the file's name.
        facts: None when the file is not here or cannot be trusted; `problem` says why.
    """

    name: str
    path: str = ""
    facts: ModelFacts | None = None
    problem: str = ""
    used_by: tuple[str, ...] = ()
    specialty: str = ""


def model_lines(rows: tuple[ModelRow, ...]) -> list[str]:
    if not rows:
        return ["no models: no service has a model file, and there is no catalogue"]
    return table(HEADERS, [_cells(row) for row in rows])


def _cells(row: ModelRow) -> tuple[str, ...]:
    facts = row.facts
    return (
        row.name,
        f"{whole_mib(facts.file_bytes)} MiB" if facts else "-",
        str(facts.most_layers) if facts else "-",
        str(facts.train_context or "-") if facts else "-",
        (facts.label or "-") if facts else "-",
        ", ".join(row.used_by) or "-",
        (f"{row.path}: {row.problem}" if row.path else row.problem) if row.problem else row.path,
    )


def models_json(rows: tuple[ModelRow, ...], findings: tuple[Finding, ...]) -> dict[str, object]:
    return {
        "models": [
            {
                "name": row.name,
                "path": row.path or None,
                "problem": row.problem or None,
                "used_by": list(row.used_by),
                "file_bytes": row.facts.file_bytes if row.facts else None,
                "layers": row.facts.most_layers if row.facts else None,
                "train_context": (row.facts.train_context or None) if row.facts else None,
                "quantization": (row.facts.label or None) if row.facts else None,
                "architecture": row.facts.architecture if row.facts else None,
            }
            for row in rows
        ],
        "findings": list(findings),
    }
