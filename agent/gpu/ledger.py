"""One ledger a GPU: what is free, what stopping units give back, what each service takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.model.gpu import GpuReading
from agent.model.placement import (
    GpuLedger,
    LedgerKind,
    LedgerLine,
    ListedDevice,
    ServicePlacement,
)

# CUDA takes 107 to 555 MiB a process, by card: until it is learned, the most is assumed.
ASSUMED_CONTEXT_MIB = 555
MARGIN_MIB = 256


@dataclass(frozen=True, slots=True)
class Costs:
    """What is taken beyond a model's own buffers.

    Attributes:
        learned: by GPU UUID, MiB that the driver took for a process of ours there.
        assumed_mib: where nothing is learned yet; never 0.
        margin_mib: left alone on every GPU, for the desktop and for what changes meanwhile.
    """

    learned: Mapping[str, int] = field(default_factory=dict)
    assumed_mib: int = ASSUMED_CONTEXT_MIB
    margin_mib: int = MARGIN_MIB

    def __post_init__(self) -> None:
        if self.assumed_mib <= 0 or self.margin_mib < 0:
            raise ValueError("a context is never free, and a margin is not below 0")

    def context_mib(self, uuid: str) -> int:
        return self.learned.get(uuid) or self.assumed_mib

    def origin(self, uuid: str) -> str:
        return "learned" if self.learned.get(uuid) else "assumed"


@dataclass(frozen=True, slots=True)
class Holding:
    """What a running unit of ours holds and gives back when it stops: MiB by GPU UUID."""

    owner: str
    mib: Mapping[str, int]


def open_ledgers(
    reading: GpuReading, holdings: Iterable[Holding], costs: Costs
) -> tuple[GpuLedger, ...]:
    """The ledgers of the GPUs that NVML can read, before any service is placed."""
    held = tuple(holdings)
    return tuple(
        _opened(gpu.uuid, f"GPU {gpu.index} {gpu.name}".rstrip(), gpu.free_mib, "NVML", held, costs)
        for gpu in reading.usable
        if gpu.free_mib is not None
    )


def open_listed_ledgers(
    devices: Iterable[ListedDevice], holdings: Iterable[Holding], costs: Costs
) -> tuple[GpuLedger, ...]:
    """The same for devices that only the backend knows (`--list-devices`): AMD, Intel, Vulkan.

    The device's name stands for the UUID.
    """
    held = tuple(holdings)
    return tuple(
        _opened(device.name, device.name, device.free_mib, "the backend", held, costs)
        for device in devices
    )


def take(ledger: GpuLedger, placed: ServicePlacement, costs: Costs) -> GpuLedger:
    """The ledger after a service has its place; unchanged where it needs nothing of this GPU."""
    need = next((need for need in placed.needs if need.uuid == ledger.uuid), None)
    if need is None:
        return ledger
    buffers = need.total_mib - need.context_mib
    lines = [LedgerLine(placed.service, LedgerKind.PLANNED, -buffers)]
    if need.context_mib:
        owner = f"{placed.service}, {costs.origin(need.uuid)}"
        lines.append(LedgerLine(owner, LedgerKind.CONTEXT, -need.context_mib))
    return replace(ledger, lines=(*ledger.lines, *lines))


def waiting_for(placed: ServicePlacement, reading: GpuReading) -> tuple[str, ...]:
    """What is not free yet for a service that is about to start; empty means start it.

    A driver gives memory back a moment after the process that held it is gone: a rival of an
    exclusive group, or the service's own last run. An unknown figure is nothing to wait for.
    """
    gpus = {gpu.uuid: gpu for gpu in reading.gpus if gpu.free_mib is not None}
    pairs = [(need, gpus[need.uuid]) for need in placed.needs if need.uuid in gpus]
    return tuple(
        f"{gpu.free_mib} of {need.total_mib} MiB are free on GPU {gpu.index}"
        for need, gpu in pairs
        if (gpu.free_mib or 0) < need.total_mib
    )


def planned_by(ledgers: Sequence[GpuLedger]) -> tuple[str, ...]:
    """The services that have taken something, in the order they took it."""
    owners = (
        line.owner for ledger in ledgers for line in ledger.lines if line.kind is LedgerKind.PLANNED
    )
    return tuple(dict.fromkeys(owners))


def _opened(
    uuid: str, name: str, free_mib: int, source: str, held: Sequence[Holding], costs: Costs
) -> GpuLedger:
    lines = [LedgerLine(source, LedgerKind.MEASURED, free_mib)]
    lines += [
        LedgerLine(holding.owner, LedgerKind.RELEASED, holding.mib[uuid])
        for holding in held
        if holding.mib.get(uuid)
    ]
    lines.append(LedgerLine("kept free", LedgerKind.MARGIN, -costs.margin_mib))
    return GpuLedger(uuid, name, tuple(lines))
