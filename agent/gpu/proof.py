"""Where the layers of a running service really are. Pure: it takes what was read, and judges.

The backend's own summary is no evidence: `offloaded N/M layers to GPU` stands in the log of a load
that put nothing on a GPU. What counts is the devices used, the bytes of each buffer against the
plan, and what the driver says that the unit's processes hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.gpu.log_lines import BufferKind, LoadLog, LogDevice
from agent.model.gpu import GpuReading, GpuTroubleKind
from agent.model.placement import (
    MIB,
    DeviceNeed,
    EvidenceLevel,
    OffloadProof,
    OffloadVerdict,
    ServicePlacement,
)

Held = Mapping[str, int | None]
"""MiB by GPU UUID that the unit's processes hold; None where the driver does not tell."""

_HIDES = (GpuTroubleKind.WSL, GpuTroubleKind.CONTAINER)
_ROUNDING_HUNDREDTHS = 1
_ORACLE_HUNDREDTHS = 100  # the oracle floors to whole MiB


def held_by(reading: GpuReading, pids: frozenset[int], uuids: Sequence[str]) -> Held | None:
    """What a unit's processes hold on the GPUs `uuids`; None on a host without NVML.

    Where the driver may hide processes (WSL, containers) or could not be asked, a GPU without an
    entry is None, not 0.
    """
    if reading.trouble is not None and reading.trouble.kind is GpuTroubleKind.NO_DRIVER:
        return None
    held = dict(reading.used_by(pids))
    hidden = any(trouble.kind in _HIDES for trouble in reading.troubles)
    for uuid in uuids:
        unread = hidden or uuid in reading.unlisted or reading.gpu(uuid) is None
        if uuid not in held and unread:
            held[uuid] = None
    return held


def prove(
    planned: ServicePlacement,
    log: LoadLog,
    held: Held | None,
    pci: Mapping[str, str] | None = None,
) -> OffloadProof:
    """The verdict on one llama.cpp service.

    `held` is None on a host without NVML: the log alone has to do, and the level says so. A GPU
    that is missing from `held` holds nothing of the service; one that is None is unverifiable.
    `pci` gives the bus id of each planned UUID, where it is known.

    1. No buffer lines: unverifiable, unless the driver says that it holds nothing where it should.
    2. No device used, or no weights on any: `cpu`, whatever the summary says.
    3. Another GPU, or weights or KV cache not as planned: `partial`, and a contradiction.
    4. The driver does not tell: unverifiable, never a pass.
    5. The driver shows less than the log says: unverifiable, and a contradiction.
    6. Else as planned: `full`, `partial N/M` or `cpu`.
    """
    case = _Case(planned, log, held, pci or {})
    if not log.told:
        return _untold(case)
    if not log.devices:
        return _no_device(case)
    if not any(log.hundredths(device.name, BufferKind.MODEL) for device in log.devices):
        return _no_weights(case)
    contradictions, because = _against_plan(case)
    if contradictions:
        return case.proof(OffloadVerdict.PARTIAL, _log_layers(case), because, contradictions)
    if held is None:
        return case.proof(*_as_planned(case))
    return _measured(case, held)


@dataclass(frozen=True, slots=True)
class _Case:
    """What one proof rests on."""

    planned: ServicePlacement
    log: LoadLog
    held: Held | None
    pci: Mapping[str, str]

    @property
    def devices(self) -> tuple[tuple[LogDevice, DeviceNeed], ...]:
        """The devices used and what was planned there: both are in the order of the process."""
        return tuple(zip(self.log.devices, self.planned.needs, strict=False))

    def proof(
        self,
        verdict: OffloadVerdict,
        assigned: int | None,
        because: str = "",
        contradictions: Sequence[str] = (),
        level: EvidenceLevel = EvidenceLevel.LOGGED,
        context: Sequence[tuple[str, int]] = (),
        more: Sequence[str] = (),
    ) -> OffloadProof:
        return OffloadProof(
            self.planned.service,
            verdict,
            assigned,
            self.planned.of,
            level,
            (*_evidence(self.log), *more, *_beyond(self)),
            tuple(contradictions),
            tuple(context),
            because,
        )


# -- the cases, as numbered in `prove` -----------------------------------------------------


def _untold(case: _Case) -> OffloadProof:
    planned, held = case.planned, case.held
    if planned.on_gpu and held is not None and not any(_of(held, u) != 0 for u in planned.gpus):
        said = f"planned {planned.layers}/{planned.of} on a GPU, the driver shows no memory of it"
        verdict, because = OffloadVerdict.CPU, "holds no GPU memory"
        return case.proof(verdict, 0, because, (said,), EvidenceLevel.MEASURED)
    return case.proof(
        OffloadVerdict.UNVERIFIABLE, None, "no buffer lines in the log", (), EvidenceLevel.NONE
    )


def _no_device(case: _Case) -> OffloadProof:
    found = [name for name in case.log.listed or () if name != "CPU"]
    if case.log.listed is None:
        because, said = "no device used", "the load uses no device"
    elif found:
        because = "no device used"
        said = f"{', '.join(found)} is there, and the load does not use it (`--device none`?)"
    else:
        because, said = "no device found", "the program finds no device but the CPU"
    against = (f"{_plan(case)}, but {said}",) if case.planned.on_gpu else ()
    return case.proof(OffloadVerdict.CPU, 0, because if against else "", against, more=(said,))


def _no_weights(case: _Case) -> OffloadProof:
    names = ", ".join(device.name for device in case.log.devices)
    said = f"{names} holds no weights, although it is used (`-ot` to the CPU?)"
    against = (f"{_plan(case)}, but {said}",) if case.planned.on_gpu else ()
    because = "weights on the CPU" if against else ""
    return case.proof(OffloadVerdict.CPU, 0, because, against, more=(said,))


def _against_plan(case: _Case) -> tuple[list[str], str]:
    """What the buffers say against the plan, and the first of it in a few words."""
    if not case.planned.on_gpu:
        names = ", ".join(device.name for device in case.log.devices)
        return [f"{_plan(case)}, but weights are on {names}"], "planned on the CPU"
    found: list[str] = []
    because = ""
    if len(case.log.devices) != len(case.planned.needs):
        used, planned = len(case.log.devices), len(case.planned.needs)
        found.append(f"{used} devices are used, {planned} were planned")
        because = f"on {used} GPUs instead of {planned}"
    for device, need in case.devices:
        planned_at = case.pci.get(need.uuid, "")
        if device.pci and planned_at and not _same_bus(device.pci, planned_at):
            found.append(f"{device.name} is at {device.pci}, {need.uuid} is at {planned_at}")
            because = because or "on another GPU"
        for kind, planned_bytes in (
            (BufferKind.MODEL, need.model_bytes),
            (BufferKind.KV, need.kv_bytes),
        ):
            logged = case.log.hundredths(device.name, kind)
            planned_hundredths = round(planned_bytes * 100 / MIB)
            slack = _ROUNDING_HUNDREDTHS if need.exact else _ORACLE_HUNDREDTHS
            if abs(logged - planned_hundredths) <= slack:
                continue
            found.append(
                f"{device.name} holds {_mib(logged)} MiB {kind}, {_mib(planned_hundredths)} were"
                " planned"
            )
            because = because or _deviation(case, kind, logged, planned_hundredths)
    return found, because


def _same_bus(one: str, other: str) -> bool:
    """Whether two PCI addresses are one; NVML writes a longer domain than the backend."""
    return one.lower().lstrip("0") == other.lower().lstrip("0")


def _deviation(case: _Case, kind: BufferKind, logged: int, planned: int) -> str:
    if kind is BufferKind.KV and logged < planned:
        return "KV cache on the CPU" if logged == 0 else "part of the KV cache on the CPU"
    if kind is BufferKind.MODEL and logged < planned:
        return "part of the weights on the CPU"
    return f"more {kind} than planned"


def _measured(case: _Case, held: Held) -> OffloadProof:
    context: list[tuple[str, int]] = []
    short: list[str] = []
    sums: list[str] = []
    for device, need in case.devices:
        used = _of(held, need.uuid)
        if used is None:
            told = (f"the driver does not tell what its processes hold on {need.uuid}",)
            verdict, because = OffloadVerdict.UNVERIFIABLE, "the driver does not tell"
            return case.proof(verdict, None, because, more=told)
        buffers = sum(
            case.log.hundredths(device.name, kind)
            for kind in (BufferKind.MODEL, BufferKind.KV, BufferKind.COMPUTE)
        )
        sums.append(
            f"the driver shows {used} MiB on {need.uuid} for {_mib(buffers)} MiB of buffers"
        )
        if used + 1 < buffers // 100:  # the driver's figure is floored
            short.append(f"{sums[-1]}: less than the log says")
        else:
            context.append((need.uuid, used - buffers // 100))
    if short:
        because = "holds less than its log says"
        verdict = OffloadVerdict.UNVERIFIABLE
        return case.proof(verdict, None, because, short, EvidenceLevel.MEASURED, more=sums)
    return case.proof(*_as_planned(case), (), EvidenceLevel.MEASURED, context, sums)


# -- what a log shows ----------------------------------------------------------------------


def _evidence(log: LoadLog) -> tuple[str, ...]:
    """The lines that a verdict rests on, as sentences."""
    used = ", ".join(f"{device.name} ({device.description})" for device in log.devices)
    found = [f"devices used: {used or 'none'}"]
    for kind in (BufferKind.MODEL, BufferKind.KV, BufferKind.COMPUTE):
        parts = [
            f"{buffer.device} {_mib(buffer.hundredths)}"
            for buffer in log.buffers
            if buffer.kind is kind and not buffer.mapped
        ]
        if parts:
            found.append(f"{kind} MiB: {', '.join(parts)}")
    if log.graph_splits is not None:
        found.append(f"graph splits: {log.graph_splits}")
    if log.claim is not None:
        found.append(f"its own claim, which proves nothing: {log.claim[0]}/{log.claim[1]} layers")
    return tuple(found)


def _beyond(case: _Case) -> tuple[str, ...]:
    """Scratch memory beyond its bound: no contradiction, but the next one may not fit."""
    return tuple(
        f"{device.name} takes {_mib(logged)} MiB of scratch, at most"
        f" {_mib(need.compute_bytes * 100 // MIB)} were planned"
        for device, need in case.devices
        if need.exact
        and (logged := case.log.hundredths(device.name, BufferKind.COMPUTE))
        > need.compute_bytes * 100 // MIB + _ROUNDING_HUNDREDTHS
    )


def _log_layers(case: _Case) -> int | None:
    """Layers on a GPU as the log lists them, or as it claims where that differs from the plan."""
    if case.log.layers:
        names = {device.name for device in case.log.devices}
        return sum(device in names for _, device in case.log.layers)
    claimed = case.log.claim[0] if case.log.claim is not None else None
    return claimed if claimed != case.planned.layers else None


def _as_planned(case: _Case) -> tuple[OffloadVerdict, int, str]:
    """Verdict, layers and a word on them, where everything is as planned.

    A plan may leave the KV cache on the host (`-nkvo`): that is no full offload.
    """
    planned = case.planned
    if not planned.on_gpu:
        return OffloadVerdict.CPU, 0, ""
    if planned.layers < planned.of:
        return OffloadVerdict.PARTIAL, planned.layers, ""
    if case.log.host_hundredths(BufferKind.KV):
        return OffloadVerdict.PARTIAL, planned.layers, "KV cache on the CPU"
    return OffloadVerdict.FULL, planned.layers, ""


def _plan(case: _Case) -> str:
    where = "on a GPU" if case.planned.on_gpu else "all on the CPU"
    return f"planned {case.planned.layers}/{case.planned.of} {where}"


def _of(held: Held, uuid: str) -> int | None:
    """MiB there; a GPU that none of the unit's processes uses holds 0 of it."""
    return held.get(uuid, 0)


def _mib(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"
