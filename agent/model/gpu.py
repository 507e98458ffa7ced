"""What NVML tells of the host's GPUs. A reading that failed is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.model.finding import Severity


class GpuTroubleKind(StrEnum):
    """What keeps NVML, or one GPU, from being relied on."""

    NO_DRIVER = "no driver"
    VERSION_MISMATCH = "version mismatch"
    GPU_LOST = "gpu lost"
    RESET_REQUIRED = "reset required"
    NO_PERMISSION = "no permission"
    NOT_SUPPORTED = "not supported"
    WSL = "wsl"
    CONTAINER = "container"
    MIG = "mig"
    UNIFIED_MEMORY = "unified memory"
    AFTER_SUSPEND = "after suspend"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class GpuTrouble:
    """One thing that is wrong, or limits what can be measured, and what to do about it.

    Attributes:
        severity: ERROR: the GPU cannot be used; WARNING: it can, but a figure is missing or
            unreliable; None: a normal host, only told when asked.
        gpu: UUID, or `GPU <index>` while that is unknown; empty for the whole host.
    """

    kind: GpuTroubleKind
    message: str
    remedy: str = ""
    severity: Severity | None = Severity.ERROR
    gpu: str = ""


class MigMode(StrEnum):
    """Whether a GPU is cut into MIG devices."""

    OFF = "off"
    ON = "on"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device that a service can be pinned to: a whole GPU, or one MIG device.

    Attributes:
        index: NVML's, which a reboot may change; a MIG device has that of its GPU.
        uuid: what `CUDA_VISIBLE_DEVICES` is to get.
        pci: bus id, e.g. `00000000:01:00.0`; empty when unknown.
        free_mib: rounded down; what to plan from. Unreliable with unified memory.
        used_mib: whether it includes what the driver reserves differs between versions.
        utilisation: percent, 0 to 100.
        temperature_c: degrees Celsius.
        mig: None when it could not be read.
        mig_parent: UUID of the GPU that a MIG device is a part of; empty for a whole GPU.
        unified_memory: it shares the host's memory.
    """

    index: int
    uuid: str
    pci: str = ""
    name: str = ""
    total_mib: int | None = None
    free_mib: int | None = None
    used_mib: int | None = None
    utilisation: int | None = None
    temperature_c: int | None = None
    mig: MigMode | None = None
    mig_parent: str = ""
    unified_memory: bool = False

    @property
    def cut_into_mig(self) -> bool:
        """Whether only its MIG devices can be used, which are listed beside it."""
        return self.mig is MigMode.ON and not self.mig_parent


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One process that holds memory on one GPU.

    Attributes:
        pid: may be of another PID namespace inside containers.
        used_mib: rounded down; None where the driver does not tell (WSL, WDDM, containers).
    """

    pid: int
    uuid: str
    used_mib: int | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """All of one look at NVML.

    Attributes:
        driver: its version; empty when unknown.
        processes: of the GPUs whose list could be read.
        unlisted: UUIDs of GPUs whose process list could not be read.
        trouble: what keeps the whole of NVML from being read.
        troubles: of single GPUs and of the surroundings, most severe first.
    """

    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    unlisted: tuple[str, ...] = ()
    trouble: GpuTrouble | None = None
    troubles: tuple[GpuTrouble, ...] = ()

    @property
    def usable(self) -> tuple[Gpu, ...]:
        """The devices that a service can be pinned to and whose free memory is known."""
        return tuple(g for g in self.gpus if not g.cut_into_mig and g.free_mib is not None)

    def gpu(self, uuid: str) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)

    def used_by(self, pids: frozenset[int]) -> Mapping[str, int | None]:
        """MiB by GPU UUID that these processes hold together.

        None where the driver does not tell it for one of them. A GPU that none of them uses is
        missing, as is one of `unlisted`: ask that before taking a missing entry for 0.
        """
        held: dict[str, int | None] = {}
        for process in self.processes:
            if process.pid not in pids:
                continue
            before = held.get(process.uuid, 0)
            unknown = before is None or process.used_mib is None
            held[process.uuid] = None if unknown else (before or 0) + (process.used_mib or 0)
        return held


class NvmlError(StrEnum):
    """What NVML answered instead of a value."""

    LIBRARY_NOT_FOUND = "library not found"
    DRIVER_NOT_LOADED = "driver not loaded"
    VERSION_MISMATCH = "driver/library version mismatch"
    NO_PERMISSION = "no permission"
    GPU_LOST = "GPU is lost"
    RESET_REQUIRED = "GPU requires a reset"
    NOT_SUPPORTED = "not supported"
    UNKNOWN = "unknown error"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the host is, as far as it explains NVML's answers.

    Attributes:
        wsl: the Windows Subsystem for Linux.
        container: what runs it (`docker`, `podman`, ...); empty outside of one.
        module: version of the loaded NVIDIA kernel module; empty when none is loaded.
        pci_gpus: NVIDIA display devices on the PCI bus; None when that cannot be read.
        suspended: whether the host has slept since it booted.
    """

    wsl: bool = False
    container: str = ""
    module: str = ""
    pci_gpus: int | None = 0
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class GpuFault:
    """One call that NVML refused.

    Attributes:
        doing: what was asked for, e.g. `start NVML`, `read the memory of GPU 0`.
        words: NVML's own text.
        gpu: as in `GpuTrouble`; empty when the whole of NVML failed.
    """

    error: NvmlError
    doing: str
    words: str = ""
    gpu: str = ""
