"""Which layers go where, the whole budget, and the proof of it afterwards.

Sizes are bytes where they are compared with a log, and whole MiB (rounded up) where people and
ledgers count. GPUs are named by their UUID, in the order that a service sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.model.placed import MIB as MIB
from agent.model.placed import DeviceNeed as DeviceNeed
from agent.model.placed import EvidenceLevel as EvidenceLevel
from agent.model.placed import OffloadProof as OffloadProof
from agent.model.placed import OffloadVerdict as OffloadVerdict
from agent.model.placed import ServicePlacement as ServicePlacement
from agent.model.placed import whole_mib as whole_mib


class LedgerKind(StrEnum):
    """Where a line of a ledger comes from."""

    MEASURED = "measured free"
    RELEASED = "released when it stops"
    PLANNED = "planned"
    CONTEXT = "context"
    MARGIN = "margin"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One entry: `mib` above 0 is there to take, below 0 is taken."""

    owner: str
    kind: LedgerKind
    mib: int

    def __str__(self) -> str:
        return f"{self.mib:+d} MiB {self.kind} ({self.owner})"


@dataclass(frozen=True, slots=True)
class GpuLedger:
    """All that is counted on one GPU, in the order it was counted."""

    uuid: str
    name: str
    lines: tuple[LedgerLine, ...] = ()

    @property
    def left_mib(self) -> int:
        """What is still free; below 0 when more is promised than there is."""
        return sum(line.mib for line in self.lines)

    @property
    def arithmetic(self) -> str:
        """The whole sum on one line."""
        return f"{self.name}: {', '.join(map(str, self.lines))} = {self.left_mib} MiB"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A service that does not fit, and why.

    Attributes:
        services: the one that does not fit first, then those that hold what it lacks.
        message: one sentence with the figures.
        arithmetic: one line a GPU: the whole budget.
    """

    services: tuple[str, ...]
    message: str
    arithmetic: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Every service's placement and the ledgers they leave; refusals mean nothing may start."""

    services: tuple[ServicePlacement, ...] = ()
    ledgers: tuple[GpuLedger, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def service(self, name: str) -> ServicePlacement | None:
        return next((placed for placed in self.services if placed.service == name), None)


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """One device as the backend itself lists it, e.g. `Vulkan0`."""

    name: str
    description: str
    total_mib: int
    free_mib: int


@dataclass(frozen=True, slots=True)
class OracleDevice:
    """One row of the backend's own memory breakdown, floored MiB. The host is named `Host`."""

    name: str
    model_mib: int
    kv_mib: int
    compute_mib: int


@dataclass(frozen=True, slots=True)
class OracleFigures:
    """What the backend itself expects to take, device by device.

    Attributes:
        devices: without the host, in the backend's order.
        cached: read from the cache instead of asked.
        took_s: seconds that asking took; 0 when cached.
    """

    devices: tuple[OracleDevice, ...]
    host: OracleDevice | None = None
    cached: bool = False
    took_s: float = 0.0
