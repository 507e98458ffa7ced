"""The judging of NVML's refusals, without NVML."""

from __future__ import annotations

import pytest

from agent.gpu.troubles import explain, limits, shares_host_memory
from agent.model.finding import Severity
from agent.model.gpu import (
    Gpu,
    GpuFault,
    GpuProcess,
    GpuReading,
    GpuTroubleKind,
    MigMode,
    NvmlError,
    Surroundings,
)

PLAIN = Surroundings()


@pytest.mark.parametrize("error", list(NvmlError))
def test_every_refusal_that_stops_work_has_a_remedy(error: NvmlError) -> None:
    trouble = explain(GpuFault(error, "start NVML", "Words."), Surroundings(pci_gpus=1))
    assert trouble.remedy
    assert trouble.message


@pytest.mark.parametrize("error", [NvmlError.UNKNOWN, NvmlError.GPU_LOST])
def test_after_a_suspend(error: NvmlError) -> None:
    trouble = explain(GpuFault(error, "reach GPU 0", gpu="GPU 0"), Surroundings(suspended=True))
    assert (trouble.kind, trouble.gpu) == (GpuTroubleKind.AFTER_SUSPEND, "GPU 0")
    assert "nvidia_uvm" in trouble.remedy and "nvidia-resume.service" in trouble.remedy


def test_a_suspend_does_not_explain_a_mismatch() -> None:
    trouble = explain(
        GpuFault(NvmlError.VERSION_MISMATCH, "start NVML"), Surroundings(suspended=True)
    )
    assert trouble.kind is GpuTroubleKind.VERSION_MISMATCH


def test_wsl_that_answers_with_an_unknown_error() -> None:
    trouble = explain(GpuFault(NvmlError.UNKNOWN, "start NVML"), Surroundings(wsl=True))
    assert trouble.kind is GpuTroubleKind.WSL and "wsl --update" in trouble.remedy


def test_a_library_without_a_gpu_is_a_normal_host() -> None:
    for container in ("", "docker"):
        trouble = explain(
            GpuFault(NvmlError.DRIVER_NOT_LOADED, "start NVML"), Surroundings(container=container)
        )
        assert trouble.severity is None


def test_mig_devices_that_are_there_are_no_trouble() -> None:
    whole = Gpu(0, "GPU-a", mig=MigMode.ON)
    part = Gpu(0, "MIG-a", mig=MigMode.ON, mig_parent="GPU-a", free_mib=5)
    assert limits((whole, part), PLAIN) == ()
    assert [t.severity for t in limits((whole,), PLAIN)] == [Severity.ERROR]
    assert GpuReading(gpus=(whole, part)).usable == (part,)


def test_a_host_without_gpus_is_limited_by_nothing() -> None:
    assert limits((), Surroundings(wsl=True, container="docker")) == ()


@pytest.mark.parametrize(
    ("name", "shared"),
    [("NVIDIA GB10", True), ("Orin (nvgpu)", True), ("NVIDIA H200", False), ("RTX Thorium", False)],
)
def test_chips_without_memory_of_their_own(name: str, shared: bool) -> None:
    assert shares_host_memory(name) is shared


def test_memory_of_processes_adds_up_by_gpu_and_unknown_stays_unknown() -> None:
    reading = GpuReading(
        processes=(
            GpuProcess(1, "A", 100),
            GpuProcess(2, "A", 50),
            GpuProcess(2, "B", None),
            GpuProcess(1, "B", 7),
            GpuProcess(9, "A", 5000),
        )
    )
    assert reading.used_by(frozenset({1, 2})) == {"A": 150, "B": None}
    assert reading.used_by(frozenset({3})) == {}
