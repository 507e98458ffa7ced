"""The status table, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass

from agent.cli.output import paint, table
from agent.model.generation import Generation, ServiceSpec
from agent.model.host import UnitState
from agent.model.placed import OffloadProof
from agent.model.verdict import Sample

HEADERS = ("SERVICE", "UNIT", "PORT", "HEALTH", "TTFB", "MEMORY", "SINCE", "LAYERS", "MODEL")


@dataclass(frozen=True, slots=True)
class Row:
    """One service: what was wanted, what systemd says, what the probe said (None: not asked).

    `proof` is where its layers were found when it was last judged.
    """

    spec: ServiceSpec
    state: UnitState
    sample: Sample | None
    proof: OffloadProof | None = None

    @property
    def healthy(self) -> bool:
        if not self.spec.active:
            return not self.state.running
        return self.sample is not None and self.sample.good


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that `labctl status` shows. `now` is Unix time in seconds."""

    generation: Generation
    rows: tuple[Row, ...]
    edited: tuple[str, ...]
    misplaced: tuple[str, ...]
    linger: bool
    user: str
    now: float

    @property
    def healthy(self) -> bool:
        return all(row.healthy for row in self.rows if row.spec.required)


def status_lines(seen: Seen, *, colour: bool = False) -> list[str]:
    lines = table(HEADERS, [_cells(row, seen.now) for row in seen.rows])
    for index, row in enumerate(seen.rows, start=1):
        if not row.healthy:
            style = "red" if row.spec.required else "yellow"
            lines[index] = paint(lines[index], style, colour=colour)
    manifest = seen.generation.manifest
    lines += [
        "",
        f"generation {manifest.number}, {seen.generation.standing},"
        f" {manifest.created_at.replace('+00:00', 'Z')}: {manifest.reason}",
    ]
    lines += [f"drift: {path} of the generation was edited by hand" for path in seen.edited]
    lines += [f"drift: {path} is not what was deployed" for path in seen.misplaced]
    lines += [_trouble(row) for row in seen.rows if not row.healthy]
    if not seen.linger:
        lines.append(
            "no lingering: the services stop when you log out; keep them with"
            f" `sudo loginctl enable-linger {seen.user}`"
        )
    return lines


def _cells(row: Row, now: float) -> tuple[str, ...]:
    spec, state, sample = row.spec, row.state, row.sample
    ttfb = f"{sample.ttfb_ms:.1f} ms" if sample and sample.ttfb_ms is not None else "-"
    return (
        spec.name + ("" if spec.required else " (optional)"),
        f"{state.active} ({state.sub})",
        str(spec.port) if spec.port is not None else "-",
        str(sample.health) if sample else "-",
        ttfb,
        _memory(state.memory_bytes),
        _age(now - state.since) if state.since is not None and state.running else "-",
        row.proof.words if row.proof is not None else "-",
        _model(spec),
    )


def _model(spec: ServiceSpec) -> str:
    if spec.is_gateway:
        return f"{len(spec.serves)} groups"
    return ", ".join(spec.serves) if spec.serves else "-"


def _memory(count: int | None) -> str:
    """Unknown stays unknown: a reading that failed is no zero."""
    return f"{count / 2**20:.0f} MiB" if count is not None else "unknown"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _trouble(row: Row) -> str:
    if row.sample is not None:
        return f"{row.spec.name}: {row.sample.detail}"
    ending = f", {row.state.ending}" if row.state.ending else ""
    return f"{row.spec.name}: {row.spec.unit} is {row.state.active}{ending}"


def status_json(seen: Seen) -> dict[str, object]:
    manifest = seen.generation.manifest
    return {
        "healthy": seen.healthy,
        "generation": {
            "number": manifest.number,
            "created_at": manifest.created_at,
            "kind": str(manifest.kind),
            "standing": str(seen.generation.standing),
            "reason": manifest.reason,
        },
        "drift": {"edited": list(seen.edited), "misplaced": list(seen.misplaced)},
        "linger": seen.linger,
        "services": [_row_json(row) for row in seen.rows],
    }


def _row_json(row: Row) -> dict[str, object]:
    spec, state, sample = row.spec, row.state, row.sample
    return {
        "name": spec.name,
        "unit": spec.unit,
        "required": spec.required,
        "healthy": row.healthy,
        "active": state.active,
        "sub": state.sub,
        "pid": state.main_pid,
        "restarts": state.restarts,
        "port": spec.port,
        "health": str(sample.health) if sample else None,
        "detail": sample.detail if sample else state.ending or None,
        "ttfb_ms": sample.ttfb_ms if sample else None,
        "memory_bytes": state.memory_bytes,
        "since": state.since,
        "layers": row.proof.words if row.proof is not None else None,
        "models": list(spec.serves),
    }
