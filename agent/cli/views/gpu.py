"""The GPUs of a host, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.cli.output import paint, table
from agent.host.gpu_owners import ProcessOwner
from agent.model.finding import Severity
from agent.model.gpu import Gpu, GpuProcess, GpuReading, GpuTrouble, MigMode
from agent.model.placement import OffloadProof, ServicePlacement

HEADERS = ("GPU", "NAME", "FREE", "TOTAL", "UTIL", "TEMP", "MIG", "UUID")
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


@dataclass(frozen=True, slots=True)
class ServiceOnGpu:
    """One llama.cpp service: what was planned for it and what was proved of it, where known."""

    service: str
    unit: str
    planned: ServicePlacement | None = None
    proven: OffloadProof | None = None


@dataclass(frozen=True, slots=True)
class GpuSeen:
    """Everything that `labctl gpu` shows. `names` maps a unit of ours to its service."""

    reading: GpuReading
    owners: dict[int, ProcessOwner] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    services: tuple[ServiceOnGpu, ...] = ()

    @property
    def troubles(self) -> tuple[GpuTrouble, ...]:
        whole = self.reading.trouble
        return ((whole,) if whole else ()) + self.reading.troubles

    @property
    def healthy(self) -> bool:
        return all(trouble.severity is not Severity.ERROR for trouble in self.troubles)

    def owner(self, process: GpuProcess) -> ProcessOwner:
        return self.owners.get(process.pid, ProcessOwner(process.pid))


def gpu_lines(seen: GpuSeen, *, colour: bool = False) -> list[str]:
    """Driver, devices, who holds what, planned against proven, troubles with their remedies."""
    reading = seen.reading
    lines = [f"driver {reading.driver or 'of unknown version'}"] if reading.gpus else []
    if reading.gpus:
        lines += ["", *table(HEADERS, [_cells(gpu) for gpu in reading.gpus])]
    if reading.processes:
        rows = [_process_cells(seen, process) for process in reading.processes]
        lines += ["", *table(("GPU", "HELD", "PID", "BY"), rows)]
    for uuid in reading.unlisted:
        lines.append(f"GPU {_label(reading, uuid)}: its processes cannot be listed")
    if seen.services:
        lines += ["", *table(("SERVICE", "PLANNED", "PROVEN", "WHY"), _service_rows(seen))]
    if lines and seen.troubles:
        lines.append("")
    for trouble in seen.troubles:
        lines += _trouble_lines(trouble, colour=colour)
    return lines


def _cells(gpu: Gpu) -> tuple[str, ...]:
    return (
        str(gpu.index) if not gpu.mig_parent else f"{gpu.index}/MIG",
        gpu.name or "unknown",
        mib(gpu.free_mib),
        mib(gpu.total_mib),
        "unknown" if gpu.utilisation is None else f"{gpu.utilisation} %",
        "unknown" if gpu.temperature_c is None else f"{gpu.temperature_c} °C",
        "unknown" if gpu.mig is None else "-" if gpu.mig is MigMode.UNSUPPORTED else str(gpu.mig),
        gpu.uuid,
    )


def mib(size_mib: int | None) -> str:
    return "unknown" if size_mib is None else f"{size_mib} MiB"


def _label(reading: GpuReading, uuid: str) -> str:
    gpu = reading.gpu(uuid)
    if gpu is None:
        return uuid
    return str(gpu.index) if not gpu.mig_parent else f"{gpu.index}/{uuid}"


def _process_cells(seen: GpuSeen, process: GpuProcess) -> tuple[str, ...]:
    return (
        _label(seen.reading, process.uuid),
        mib(process.used_mib),
        str(process.pid),
        _by(seen, process),
    )


def _by(seen: GpuSeen, process: GpuProcess) -> str:
    owner = seen.owner(process)
    service = seen.names.get(owner.unit, "")
    if service:
        return f"{service} ({owner.unit})"
    program = owner.program or "a process that is not seen here"
    return f"{program} in {owner.unit}" if owner.unit else program


def _service_rows(seen: GpuSeen) -> list[tuple[str, ...]]:
    return [
        (
            row.service,
            f"{row.planned.layers}/{row.planned.of}" if row.planned else "-",
            row.proven.words if row.proven else "-",
            row.planned.why if row.planned else "",
        )
        for row in seen.services
    ]


def _trouble_lines(trouble: GpuTrouble, *, colour: bool) -> Iterator[str]:
    if trouble.severity is None:
        yield trouble.message
    else:
        word = paint(f"{trouble.severity}:", _STYLES[trouble.severity], colour=colour)
        yield f"{word} {trouble.message}"
    if trouble.remedy:
        yield f"  remedy: {trouble.remedy}"


def gpu_json(seen: GpuSeen) -> dict[str, object]:
    reading = seen.reading
    return {
        "healthy": seen.healthy,
        "driver": reading.driver or None,
        "gpus": list(reading.gpus),
        "processes": [
            {
                "gpu": process.uuid,
                "pid": process.pid,
                "used_mib": process.used_mib,
                "unit": seen.owner(process).unit or None,
                "service": seen.names.get(seen.owner(process).unit),
                "program": seen.owner(process).program or None,
            }
            for process in reading.processes
        ],
        "unlisted": list(reading.unlisted),
        "services": [_service_json(row) for row in seen.services],
        "troubles": list(seen.troubles),
    }


def _service_json(row: ServiceOnGpu) -> dict[str, object]:
    return {
        "service": row.service,
        "unit": row.unit,
        "planned": row.planned,
        "proven": row.proven,
        "verdict": row.proven.words if row.proven else None,
    }
