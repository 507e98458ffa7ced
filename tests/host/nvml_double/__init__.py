"""A double of NVML at the ABI: a small C library that real pynvml loads, and its state file.

`build(folder)` compiles it; `NvmlState(...).write(path)` says what it answers, also while a program
that loaded it runs. A program finds it through `environment(folder, path)`, set before it starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_double.c")
LIBRARY = "libnvidia-ml.so.1"
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")


@dataclass(slots=True)
class ProcessState:
    """A process that holds memory of a device; `used_mib` None is what the driver does not tell."""

    pid: int
    used_mib: int | None = None


@dataclass(slots=True)
class DeviceState:
    """A GPU or a MIG device. What is None is answered with `not supported`; sizes are MiB.

    Attributes:
        error: NVML code that every function of this device answers with.
        errors: NVML codes by function name.
        mig_mode: 1 is on.
    """

    uuid: str
    name: str = "NVIDIA GeForce RTX 4090"
    pci: str | None = "00000000:01:00.0"
    total: int | None = 24564
    free: int | None = 24000
    reserved: int | None = 400
    temperature: int | None = 41
    utilisation: int | None = 7
    mig_mode: int | None = None
    error: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    compute: list[ProcessState] = field(default_factory=list)
    graphics: list[ProcessState] = field(default_factory=list)
    mig: list[DeviceState] = field(default_factory=list)

    def lines(self, prefix: str) -> Iterator[str]:
        for key in ("uuid", "name", "pci", "total", "free", "reserved", "temperature"):
            yield from _line(f"{prefix}.{key}", getattr(self, key))
        yield from _line(f"{prefix}.utilisation", self.utilisation)
        yield from _line(f"{prefix}.mig_mode", self.mig_mode)
        yield f"{prefix}.error={self.error}"
        yield from (f"{prefix}.error.{name}={code}" for name, code in self.errors.items())
        for kind, processes in (("compute", self.compute), ("graphics", self.graphics)):
            yield f"{prefix}.{kind}={len(processes)}"
            for index, process in enumerate(processes):
                yield f"{prefix}.{kind}.{index}.pid={process.pid}"
                yield from _line(f"{prefix}.{kind}.{index}.used", process.used_mib)
        for index, part in enumerate(self.mig):
            yield from part.lines(f"{prefix}.mig.{index}")


@dataclass(slots=True)
class NvmlState:
    """Everything that the double answers. `xids` are (GPU index, code) pairs, in order."""

    driver: str | None = "570.86.15"
    gpus: list[DeviceState] = field(default_factory=list)
    errors: Mapping[str, int] = field(default_factory=dict)
    xids: list[tuple[int, int]] = field(default_factory=list)

    def write(self, path: Path) -> Path:
        """Replace the state file at once: a call sees the old state or the new one."""
        lines = [*_line("driver", self.driver), f"gpus={len(self.gpus)}"]
        lines += [f"error.{name}={code}" for name, code in self.errors.items()]
        for index, gpu in enumerate(self.gpus):
            lines += gpu.lines(f"gpu.{index}")
        lines.append(f"xids={len(self.xids)}")
        for index, (gpu_index, code) in enumerate(self.xids):
            lines += [f"xid.{index}.gpu={gpu_index}", f"xid.{index}.code={code}"]
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text("\n".join(lines) + "\n", encoding="ascii")
        fresh.replace(path)
        return path


def build(folder: Path) -> Path:
    """Compile the library into `folder` and return the folder. RuntimeError without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc and libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, *FLAGS, "-o", str(folder / LIBRARY), str(SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if built.returncode:
        raise RuntimeError(f"the NVML double does not compile:\n{built.stderr}")
    return folder


def without_nvml(folder: Path) -> Path:
    """A folder that hides the host's own NVML: the loader stops at a library that is no library."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LIBRARY).touch()
    return folder


def environment(folder: Path, state: Path) -> dict[str, str]:
    """The whole environment of a program that is to meet the double."""
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "LABCTL_NVML_STATE": str(state)}


def _line(key: str, value: object) -> Iterator[str]:
    if value is not None:
        yield f"{key}={value}"
