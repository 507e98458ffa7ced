"""What a generation remembers of a placement, and the proof of it. See `agent.model.placement`.

Apart from the ledgers, for verbs that only look at what was deployed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20


def whole_mib(size_bytes: int) -> int:
    """MiB, rounded up: a ledger never takes less than is needed."""
    return -(-size_bytes // MIB)


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """What one service takes on one device.

    Attributes:
        uuid: of the GPU; empty for the host's memory.
        compute_bytes: an upper bound.
        context_mib: what the driver takes for the process; 0 on the host only.
        exact: model and KV are known to the byte; False: whole MiB, from the oracle.
    """

    uuid: str
    model_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    context_mib: int = 0
    exact: bool = True

    @property
    def total_mib(self) -> int:
        return whole_mib(self.model_bytes + self.kv_bytes + self.compute_bytes) + self.context_mib

    @property
    def by_kind(self) -> tuple[tuple[str, int], ...]:
        """(what, MiB) pairs, for a budget that people read."""
        return (
            ("model", whole_mib(self.model_bytes)),
            ("KV", whole_mib(self.kv_bytes)),
            ("compute", whole_mib(self.compute_bytes)),
            ("context", self.context_mib),
        )


@dataclass(frozen=True, slots=True)
class ServicePlacement:
    """What one service runs with.

    Attributes:
        layers: what `-ngl` gets; 0 is all on the CPU.
        of: how many it could be: the block count and the output layer.
        gpus: UUIDs in the order that the process is to see them; empty on the CPU.
        splits: one weight a GPU, for `-ts`; empty for one GPU or none.
        needs: one a GPU, in the order of `gpus`.
        host: what it takes of the host's memory.
        why: one sentence, e.g. `30/33: the next layer needs 214 MiB, 96 are free`.
        oracle: one sentence when the backend's own figures were asked; empty when not.
        basis: digest of what was asked for; a placement is kept only while it is the same.
    """

    service: str
    layers: int
    of: int
    gpus: tuple[str, ...] = ()
    splits: tuple[float, ...] = ()
    needs: tuple[DeviceNeed, ...] = ()
    host: DeviceNeed = field(default_factory=lambda: DeviceNeed(""))
    why: str = ""
    oracle: str = ""
    basis: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.layers > 0 and bool(self.gpus)

    @property
    def needed_mib(self) -> Mapping[str, int]:
        """MiB by GPU UUID, the context included."""
        return {need.uuid: need.total_mib for need in self.needs}


class OffloadVerdict(StrEnum):
    """Where a model really runs."""

    FULL = "full"
    PARTIAL = "partial"
    CPU = "cpu"
    UNVERIFIABLE = "unverifiable"


class EvidenceLevel(StrEnum):
    """How much a verdict rests on."""

    MEASURED = "the driver's per-process memory and the log"
    LOGGED = "the log's device list and buffer lines"
    CLAIMED = "the backend's own claim"
    NONE = "nothing"


@dataclass(frozen=True, slots=True)
class OffloadProof:
    """Where the layers of a running service really are.

    Attributes:
        assigned: layers whose weights are on a GPU; None when unknown.
        evidence: one sentence each, also for what was looked for and not found.
        because: a few words on a verdict that is not what was planned.
        contradictions: what is against the plan; a deploy with any has failed.
        context_mib: by GPU UUID, the memory the driver took beyond the buffers: to be learned.
    """

    service: str
    verdict: OffloadVerdict
    assigned: int | None
    of: int | None
    level: EvidenceLevel
    evidence: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    context_mib: tuple[tuple[str, int], ...] = ()
    because: str = ""

    @property
    def words(self) -> str:
        """As people read it: `full 33/33`, `partial 12/33`, `cpu (no device used)`, ..."""
        counted = self.verdict in (OffloadVerdict.FULL, OffloadVerdict.PARTIAL)
        count = f" {self.assigned}/{self.of}" if counted and self.assigned is not None else ""
        return f"{self.verdict}{count}" + (f" ({self.because})" if self.because else "")
