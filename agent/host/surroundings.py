"""What kind of host this is, as far as it explains NVML's answers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agent.model.gpu import Surroundings

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")  # VGA and 3D controllers
# The two clocks are read one after the other: less than this is no suspend.
_SLEPT_S = 1.0


def suspended_s() -> float:
    """Seconds in suspend since boot: one clock counts them, the other does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def surroundings(root: Path, slept_s: float) -> Surroundings:
    """What the host is: from /proc, /sys and /run. What is unreadable is not so."""
    version = _file(root / "proc/version").lower()
    return Surroundings(
        wsl="microsoft" in version or "wsl" in version,
        container=_container(root),
        module=_module(_file(root / "proc/driver/nvidia/version")),
        pci_gpus=_pci_gpus(root / "sys/bus/pci/devices"),
        suspended=slept_s > _SLEPT_S,
    )


def _container(root: Path) -> str:
    """What runs the container that this is; empty outside of one."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return _file(root / "run/systemd/container").strip()


def _module(text: str) -> str:
    """`NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu ...` → its version."""
    for word in text.partition("\n")[0].split():
        if word.replace(".", "").isdecimal() and "." in word:
            return word
    return "of unknown version" if text.strip() else ""


def _pci_gpus(folder: Path) -> int | None:
    try:
        devices = [folder / name for name in os.listdir(folder)]
    except OSError:
        return None
    return sum(
        _file(device / "vendor").strip() == _NVIDIA_VENDOR
        and _file(device / "class").startswith(_DISPLAY_CLASSES)
        for device in devices
    )


def _file(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
