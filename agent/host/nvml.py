"""NVML, through pynvml (the distribution nvidia-ml-py). The only module that imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeVar

from agent.host.surroundings import surroundings, suspended_s
from agent.model.gpu import (
    Gpu,
    GpuFault,
    GpuProcess,
    GpuReading,
    GpuTrouble,
    MigMode,
    NvmlError,
    Surroundings,
)

Value = TypeVar("Value")
MIB = 1 << 20
_CODES = {
    3: NvmlError.NOT_SUPPORTED,
    4: NvmlError.NO_PERMISSION,
    9: NvmlError.DRIVER_NOT_LOADED,
    12: NvmlError.LIBRARY_NOT_FOUND,
    13: NvmlError.NOT_SUPPORTED,  # the function is not in this driver's library
    15: NvmlError.GPU_LOST,
    16: NvmlError.RESET_REQUIRED,
    17: NvmlError.NO_PERMISSION,  # "the operating system has blocked the request"
    18: NvmlError.VERSION_MISMATCH,
}
# Not worth a trouble where a single figure of a working GPU is asked for.
_NORMAL = frozenset({NvmlError.NOT_SUPPORTED})


class Interpreter(Protocol):
    """The part that judges: `agent.gpu.troubles`."""

    def explain(self, fault: GpuFault, around: Surroundings) -> GpuTrouble: ...

    def limits(self, gpus: tuple[Gpu, ...], around: Surroundings) -> tuple[GpuTrouble, ...]: ...

    def shares_host_memory(self, name: str) -> bool: ...


class NvmlGpus:
    """One look at a time; NVML is started and shut down at each, so that a driver can come back."""

    def __init__(
        self,
        interpreter: Interpreter,
        root: str = "/",
        slept_s: Callable[[], float] | None = None,
    ) -> None:
        """`root` is the folder that holds `proc`, `sys`, `run` and `.dockerenv`.

        `slept_s` gives the seconds that the host has been suspended since it booted.
        """
        self._interpreter = interpreter
        self._root = Path(root)
        self._slept_s = slept_s or suspended_s

    def read(self) -> GpuReading:
        """Every GPU and MIG device, and their processes. Never raises for what NVML answers."""
        import pynvml

        around = surroundings(self._root, self._slept_s())
        try:
            pynvml.nvmlInitWithFlags(0)
        except pynvml.NVMLError as error:
            fault = GpuFault(_code(error), "start NVML", str(error))
            return GpuReading(trouble=self._interpreter.explain(fault, around))
        try:
            return _Look(pynvml, self._interpreter, around).reading()
        finally:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


@dataclass(slots=True)
class _Look:
    """One reading in the making."""

    nvml: ModuleType
    interpreter: Interpreter
    around: Surroundings
    troubles: list[GpuTrouble] = field(default_factory=list)
    processes: list[GpuProcess] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    def reading(self) -> GpuReading:
        driver = self.ask("read the driver's version", "", self.nvml.nvmlSystemGetDriverVersion)
        count = self.ask("count the GPUs", "", self.nvml.nvmlDeviceGetCount)
        gpus = tuple(gpu for index in range(count or 0) for gpu in self._devices(index))
        self.troubles += self.interpreter.limits(gpus, self.around)
        whole = next((t for t in self.troubles if count is None and not t.gpu), None)
        return GpuReading(
            driver=driver or "",
            gpus=gpus,
            processes=tuple(self.processes),
            unlisted=tuple(self.unlisted),
            trouble=whole,
            troubles=tuple(
                sorted((t for t in self.troubles if t is not whole), key=lambda t: _rank(t))
            ),
        )

    def ask(
        self, doing: str, gpu: str, call: Callable[[], Value], *, normal: bool = False
    ) -> Value | None:
        """A value, or None after the refusal has become a trouble.

        `normal`: that the device does not offer it is none.
        """
        try:
            return call()
        except self.nvml.NVMLError as error:
            code = _code(error)
            if not (normal and code in _NORMAL):
                trouble = self.interpreter.explain(
                    GpuFault(code, doing, str(error), gpu), self.around
                )
                # A lost GPU refuses everything: say it once.
                if not any((t.kind, t.gpu) == (trouble.kind, gpu) for t in self.troubles):
                    self.troubles.append(trouble)
            return None

    def _devices(self, index: int) -> Iterator[Gpu]:
        """The GPU of an index, then its MIG devices; none when it cannot even be identified."""
        nvml, label = self.nvml, f"GPU {index}"
        handle = self.ask(f"reach {label}", label, lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return
        uuid = self.ask(f"identify {label}", label, lambda: nvml.nvmlDeviceGetUUID(handle))
        if uuid is None:
            return
        modes = self.ask(
            f"read the MIG mode of {label}",
            uuid,
            lambda: nvml.nvmlDeviceGetMigMode(handle),
            normal=True,
        )
        lost = any(t.gpu == uuid for t in self.troubles)
        mig = _mig_mode(modes, known=not lost)
        pci = self.ask(
            f"locate {label}", uuid, lambda: _text(nvml.nvmlDeviceGetPciInfo(handle).busId)
        )
        gpu = self._device(handle, index, uuid, pci or "", mig)
        yield gpu
        if gpu.cut_into_mig:
            for part, part_uuid in self._parts(handle, label):
                yield self._device(part, index, part_uuid, gpu.pci, MigMode.ON, parent=uuid)
        else:
            self._list_processes(handle, uuid, label)

    def _device(
        self, handle: object, index: int, uuid: str, pci: str, mig: MigMode | None, parent: str = ""
    ) -> Gpu:
        nvml = self.nvml
        label = f"MIG device {uuid}" if parent else f"GPU {index}"
        name = self.ask(f"name {label}", uuid, lambda: nvml.nvmlDeviceGetName(handle), normal=True)
        shared = self.interpreter.shares_host_memory(name or "")
        memory = self.ask(
            f"read the memory of {label}", uuid, lambda: self._memory(handle), normal=shared
        )
        total, free, used = memory or (None, None, None)
        utilisation = self.ask(
            f"read the utilisation of {label}",
            uuid,
            lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            normal=True,
        )
        temperature = self.ask(
            f"read the temperature of {label}",
            uuid,
            lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            normal=True,
        )
        if parent:
            self._list_processes(handle, uuid, label)
        return Gpu(
            index=index,
            uuid=uuid,
            pci=pci,
            name=name or "",
            total_mib=total,
            free_mib=free,
            used_mib=used,
            utilisation=utilisation,
            temperature_c=temperature,
            mig=mig,
            mig_parent=parent,
            unified_memory=shared,
        )

    def _memory(self, handle: object) -> tuple[int, int, int]:
        """Total, free and used MiB; an old driver knows the first form only."""
        nvml = self.nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        except nvml.NVMLError as error:
            if error.value not in (
                nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
            ):
                raise
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return memory.total // MIB, memory.free // MIB, memory.used // MIB

    def _parts(self, handle: object, label: str) -> Iterator[tuple[object, str]]:
        """The MIG devices of a GPU: handle and UUID. Gaps between their indexes are normal."""
        nvml = self.nvml
        room = self.ask(
            f"count the MIG devices of {label}",
            label,
            lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle),
        )
        for index in range(room or 0):
            try:
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_NOT_FOUND:
                    continue
                fault = GpuFault(_code(error), f"reach a MIG device of {label}", str(error), label)
                self.troubles.append(self.interpreter.explain(fault, self.around))
                return
            doing = f"identify a MIG device of {label}"
            uuid = self.ask(doing, label, partial(nvml.nvmlDeviceGetUUID, part))
            if uuid is not None:
                yield part, uuid

    def _list_processes(self, handle: object, uuid: str, label: str) -> None:
        """Compute and graphics processes (llama.cpp on Vulkan is one); each PID once."""
        nvml = self.nvml
        compute = self.ask(
            f"list the processes of {label}",
            uuid,
            lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle),
            normal=True,
        )
        if compute is None:
            self.unlisted.append(uuid)
            return
        graphics = self.ask(
            f"list the graphics processes of {label}",
            uuid,
            lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
            normal=True,
        )
        # Both lists give a process's whole memory: one that is in both counts once.
        held: dict[int, int | None] = {}
        for process in (*(graphics or ()), *compute):
            used = process.usedGpuMemory
            held[process.pid] = None if used is None else used // MIB
        self.processes += [GpuProcess(pid, uuid, used) for pid, used in sorted(held.items())]


def _mig_mode(modes: list[int] | None, *, known: bool) -> MigMode | None:
    if modes is None:
        return MigMode.UNSUPPORTED if known else None
    return MigMode.ON if modes[0] == 1 else MigMode.OFF


def _code(error: Exception) -> NvmlError:
    return _CODES.get(getattr(error, "value", -1), NvmlError.UNKNOWN)


def _rank(trouble: GpuTrouble) -> int:
    return trouble.severity.rank if trouble.severity is not None else 99


def _text(value: bytes | str) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value
