"""What llama.cpp says of its own load, at `-lv 4`. A parser: it takes lines and believes nothing.

The lines were read off llama-server 0.10068.0 (`571d0d5`); llama-cpp-python prints the same ones
without the prefix. `offloaded N/M layers to GPU` is printed from the arguments alone, whatever
happens, so it is kept as a claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

_LISTED = re.compile(r"common_param: +- (\S+) +: (.+) \((\d+) MiB, (\d+) MiB free\)")
_USED = re.compile(r"using device (\S+) \((.*)\) \(([^()]*)\) - (\d+) MiB free")
_CLAIM = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size = +(\d+)\.(\d\d) MiB")
_ASSIGNED = re.compile(r"layer +(\d+) assigned to device (\S+?),")
_SPLITS = re.compile(r"graph splits = (\d+)")
_LOADING = re.compile(r"llama_model_loader: loaded meta data with")
_FITTED = re.compile(r"fitting params to free memory took")
_READY = re.compile(r"model loaded$|all slots are idle|server is listening")


class BufferKind(StrEnum):
    MODEL = "model"
    KV = "KV"
    COMPUTE = "compute"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class LogDevice:
    """A device that the load uses. `pci` is empty where the driver does not tell it."""

    name: str
    description: str
    pci: str
    free_mib: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer line; hundredths of a MiB, as the log rounds."""

    device: str
    kind: BufferKind
    hundredths: int

    @property
    def on_host(self) -> bool:
        return is_host(self.device)

    @property
    def mapped(self) -> bool:
        """A span of the file, which overlaps what lies on a GPU: never add it up."""
        return self.device.endswith("_Mapped")


@dataclass(frozen=True, slots=True)
class LoadLog:
    """The last load in a log.

    Attributes:
        listed: every device that the program found, the CPU included; None without that list.
        devices: the devices that the load uses, in its order.
        claim: `offloaded N/M`, which it also says when nothing is offloaded.
        layers: layer → device; only at `-lv 5`.
        graph_splits: how often a batch changes device; 1 on one device, 2 on CPU and one GPU.
        ready: it said that it serves.
    """

    listed: tuple[str, ...] | None = None
    devices: tuple[LogDevice, ...] = ()
    claim: tuple[int, int] | None = None
    buffers: tuple[Buffer, ...] = ()
    layers: tuple[tuple[int, str], ...] = ()
    graph_splits: int | None = None
    ready: bool = False

    @property
    def told(self) -> bool:
        """Whether the buffer lines are there: at `-lv 3`, the default, none is."""
        kinds = {buffer.kind for buffer in self.buffers}
        return {BufferKind.MODEL, BufferKind.COMPUTE} <= kinds

    def hundredths(self, device: str, kind: BufferKind) -> int:
        """Hundredths of a MiB of one kind on one device; 0 when it has none."""
        of_kind = (b for b in self.buffers if b.device == device and b.kind is kind)
        return sum(buffer.hundredths for buffer in of_kind)

    def host_hundredths(self, kind: BufferKind) -> int:
        """The same for all of the host's buffers; file spans are left out."""
        of_kind = (b for b in self.buffers if b.on_host and b.kind is kind and not b.mapped)
        return sum(buffer.hundredths for buffer in of_kind)


def is_host(device: str) -> bool:
    """Whether a buffer of this name lies in the host's memory: `CPU_REPACK`, `CUDA_Host`, ..."""
    return device.startswith("CPU") or device.endswith("_Host")


def parse_load_log(lines: Iterable[str]) -> LoadLog:
    """The last load that the lines tell of; trials of `-fit on` before it do not count.

    A model loaded later beside it (a draft model) would take its place: only one is expected.
    """
    reader = _Reader()
    for line in lines:
        reader.read(line)
    return reader.log()


class _Reader:
    """Collects one load; a line that starts another one starts it anew."""

    def __init__(self) -> None:
        self._listed: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._devices: list[LogDevice] = []
        self._claim: tuple[int, int] | None = None
        self._summed: list[Buffer] = []
        self._latest: dict[tuple[str, BufferKind], Buffer] = {}
        self._layers: dict[int, str] = {}
        self._splits: int | None = None
        self._ready = False

    def read(self, line: str) -> None:
        if _LOADING.search(line) or _FITTED.search(line):
            # The devices of a load are named before or after its header, by the version.
            devices = self._devices if not self._summed else []
            self._begin()
            self._devices = devices
        elif found := _BUFFER.search(line):
            self._buffer(found)
        elif found := _USED.search(line):
            self._device(found)
        elif found := _LISTED.search(line):
            self._listed.append(found[1])
        elif found := _CLAIM.search(line):
            self._claim = int(found[1]), int(found[2])
        elif found := _ASSIGNED.search(line):
            self._layers[int(found[1])] = found[2]
        elif found := _SPLITS.search(line):
            self._splits = int(found[1])
        elif _READY.search(line):
            self._ready = True

    def _device(self, found: re.Match[str]) -> None:
        pci = "" if found[3] == "unknown id" else found[3]
        device = LogDevice(found[1], found[2], pci, int(found[4]))
        if all(known.name != device.name for known in self._devices):
            self._devices.append(device)

    def _buffer(self, found: re.Match[str]) -> None:
        kind = BufferKind.KV if found[2] == "RS" else BufferKind(found[2])
        buffer = Buffer(found[1], kind, int(found[3]) * 100 + int(found[4]))
        if kind in (BufferKind.COMPUTE, BufferKind.OUTPUT):
            self._latest[buffer.device, kind] = buffer  # reserved again: the last one stands
        else:
            self._summed.append(buffer)  # a file, or a cache, each

    def log(self) -> LoadLog:
        return LoadLog(
            listed=tuple(self._listed) if self._listed else None,
            devices=tuple(self._devices),
            claim=self._claim,
            buffers=(*self._summed, *self._latest.values()),
            layers=tuple(sorted(self._layers.items())),
            graph_splits=self._splits,
            ready=self._ready,
        )
