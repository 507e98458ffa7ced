"""Real pynvml against the NVML double: every trouble, and a host that changes while it is read.

The reading runs in a program of its own, since `LD_LIBRARY_PATH` counts from its start only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.model.finding import Severity
from tests.host.nvml_double import (
    DeviceState,
    NvmlState,
    ProcessState,
    build,
    environment,
    without_nvml,
)

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from agent.cli.output import say_json
from agent.gpu import troubles
from agent.host.nvml import NvmlGpus
from pathlib import Path
slept = Path(sys.argv[1], "slept")
gpus = NvmlGpus(troubles, sys.argv[1], lambda: float(slept.read_text()) if slept.exists() else 0.0)
for line in sys.stdin:
    say_json(gpus.read(), compact=True)
"""
A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"
MIG = "MIG-cccccccc-0000-0000-0000-000000000003"
LOST, RESET, PERMISSION, UNKNOWN, MISMATCH = 15, 16, 4, 999, 18


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@dataclass
class Agent:
    """A program that reads the GPUs each time it is asked, on a host described by `root`."""

    running: subprocess.Popen[str]
    state: Path
    root: Path

    def read(self, state: NvmlState | None = None) -> dict:  # type: ignore[type-arg]  # JSON
        if state is not None:
            state.write(self.state)
        assert self.running.stdin is not None and self.running.stdout is not None
        self.running.stdin.write("read\n")
        self.running.stdin.flush()
        answer = self.running.stdout.readline()
        assert answer, "the program ended"
        read = json.loads(answer)
        assert isinstance(read, dict)
        return read


def started(folder: Path, library: Path) -> Agent:
    root, state = folder / "root", folder / "nvml.state"
    (root / "proc").mkdir(parents=True)
    (root / "sys/bus/pci/devices").mkdir(parents=True)
    (root / "proc/version").write_text("Linux version 6.1.0-18-amd64 (debian)")
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        env=environment(library, state),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Agent(running, state, root)


@pytest.fixture
def agent(tmp_path: Path, library: Path) -> Iterator[Agent]:
    agent = started(tmp_path, library)
    yield agent
    agent.running.communicate(timeout=10)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Agent]:
    """An agent on a host without any NVML library."""
    agent = started(tmp_path, without_nvml(tmp_path / "empty"))
    yield agent
    agent.running.communicate(timeout=10)


def add_pci_gpu(root: Path) -> None:
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")


# --- a host that works --------------------------------------------------------------------------


def test_two_gpus_with_their_processes(agent: Agent) -> None:
    first = DeviceState(A, compute=[ProcessState(71, 900), ProcessState(72, None)])
    second = DeviceState(B, name="NVIDIA RTX A2000", pci="00000000:41:00.0", total=6138, free=5800)
    second.reserved = 238
    second.graphics = [ProcessState(71, 33)]
    read = agent.read(NvmlState(gpus=[first, second]))
    assert (read["driver"], read["trouble"], read["troubles"]) == ("570.86.15", None, [])
    assert [gpu["uuid"] for gpu in read["gpus"]] == [A, B]
    assert read["gpus"][1] == {
        "index": 1,
        "uuid": B,
        "pci": "00000000:41:00.0",
        "name": "NVIDIA RTX A2000",
        "total_mib": 6138,
        "free_mib": 5800,
        "used_mib": 100,
        "utilisation": 7,
        "temperature_c": 41,
        "mig": "unsupported",
        "mig_parent": "",
        "unified_memory": False,
    }
    assert [(p["pid"], p["uuid"], p["used_mib"]) for p in read["processes"]] == [
        (71, A, 900),
        (72, A, None),
        (71, B, 33),
    ]


def test_a_process_in_both_lists_counts_once(agent: Agent) -> None:
    gpu = DeviceState(A, compute=[ProcessState(5, 700)], graphics=[ProcessState(5, 700)])
    read = agent.read(NvmlState(gpus=[gpu]))
    assert [(p["pid"], p["used_mib"]) for p in read["processes"]] == [(5, 700)]


def test_free_memory_is_read_anew_each_time(agent: Agent) -> None:
    assert agent.read(NvmlState(gpus=[DeviceState(A, free=20000)]))["gpus"][0]["free_mib"] == 20000
    assert agent.read(NvmlState(gpus=[DeviceState(A, free=96)]))["gpus"][0]["free_mib"] == 96


def test_an_old_driver_without_the_second_memory_form(agent: Agent) -> None:
    gpu = DeviceState(A, free=20000, errors={"nvmlDeviceGetMemoryInfo_v2": 13})
    (read,) = agent.read(NvmlState(gpus=[gpu]))["gpus"]
    assert (read["free_mib"], read["used_mib"]) == (20000, 4564)


def test_a_figure_that_the_gpu_does_not_offer_is_unknown_and_no_trouble(agent: Agent) -> None:
    gpu = DeviceState(A, temperature=None, utilisation=None)
    read = agent.read(NvmlState(gpus=[gpu]))
    assert (read["gpus"][0]["temperature_c"], read["gpus"][0]["utilisation"]) == (None, None)
    assert read["troubles"] == []


def test_mig_devices_stand_beside_their_gpu(agent: Agent) -> None:
    part = DeviceState(MIG, "NVIDIA A100 MIG 3g.20gb", None, 20096, 19000, utilisation=None)
    part.compute = [ProcessState(9, 512)]
    whole = DeviceState(A, "NVIDIA A100", mig_mode=1, utilisation=None, mig=[part])
    read = agent.read(NvmlState(gpus=[whole]))
    assert [(g["uuid"], g["mig"], g["mig_parent"]) for g in read["gpus"]] == [
        (A, "on", ""),
        (MIG, "on", A),
    ]
    assert read["gpus"][1]["free_mib"] == 19000
    assert [(p["pid"], p["uuid"]) for p in read["processes"]] == [(9, MIG)]
    assert read["troubles"] == []


# --- troubles -----------------------------------------------------------------------------------


def test_no_library_is_a_normal_host(bare: Agent) -> None:
    read = bare.read()
    assert read["gpus"] == []
    assert (read["trouble"]["kind"], read["trouble"]["severity"]) == ("no driver", None)
    assert "CPU" in read["trouble"]["message"]


def test_a_gpu_without_a_driver_is_told(bare: Agent) -> None:
    add_pci_gpu(bare.root)
    trouble = bare.read()["trouble"]
    assert (trouble["kind"], trouble["severity"]) == ("no driver", Severity.WARNING)
    assert "install the NVIDIA driver" in trouble["remedy"]


def test_no_library_in_a_container_of_a_gpu_host(bare: Agent) -> None:
    add_pci_gpu(bare.root)
    (bare.root / ".dockerenv").touch()
    trouble = bare.read()["trouble"]
    assert trouble["kind"] == "container"
    assert "--gpus all" in trouble["remedy"]


def test_no_library_in_wsl(bare: Agent) -> None:
    (bare.root / "proc/version").write_text("Linux version 5.15.90.1-microsoft-standard-WSL2")
    trouble = bare.read()["trouble"]
    assert (trouble["kind"], trouble["severity"]) == ("wsl", None)
    assert "on Windows" in trouble["remedy"]


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (MISMATCH, "version mismatch", "reboot"),
        (LOST, "gpu lost", "dmesg"),
        (RESET, "reset required", "--gpu-reset"),
        (PERMISSION, "no permission", "/dev/nvidia"),
        (3, "not supported", "update the driver"),
        (UNKNOWN, "unknown", "nvidia-smi"),
    ],
)
def test_nvml_that_does_not_start(agent: Agent, code: int, kind: str, remedy: str) -> None:
    state = NvmlState(gpus=[DeviceState(A)], errors={"nvmlInitWithFlags": code})
    trouble = agent.read(state)["trouble"]
    assert (trouble["kind"], trouble["severity"]) == (kind, Severity.ERROR)
    assert remedy in trouble["remedy"]
    assert trouble["message"].startswith("cannot start NVML: ")
    # The same program reads on when the driver is back.
    assert agent.read(NvmlState(gpus=[DeviceState(A)]))["trouble"] is None


def test_a_mismatch_names_the_loaded_module(agent: Agent) -> None:
    version = agent.root / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  565.57.01  Thu Oct 10\n")
    trouble = agent.read(NvmlState(errors={"nvmlInitWithFlags": MISMATCH}))["trouble"]
    assert trouble["remedy"].endswith("the loaded module is 565.57.01")


def test_a_module_that_is_not_loaded(agent: Agent) -> None:
    add_pci_gpu(agent.root)
    trouble = agent.read(NvmlState(errors={"nvmlInitWithFlags": 9}))["trouble"]
    assert (trouble["kind"], trouble["severity"]) == ("no driver", Severity.WARNING)
    assert "modprobe nvidia" in trouble["remedy"]


def test_a_gpu_is_lost_while_the_agent_runs(agent: Agent) -> None:
    two = [DeviceState(A), DeviceState(B)]
    assert agent.read(NvmlState(gpus=two))["troubles"] == []
    two[1].error = LOST
    read = agent.read(NvmlState(gpus=two))
    assert [gpu["uuid"] for gpu in read["gpus"]] == [A]
    assert [(t["kind"], t["gpu"]) for t in read["troubles"]] == [("gpu lost", "GPU 1")]
    two[1].error = 0
    assert agent.read(NvmlState(gpus=two))["troubles"] == []


def test_a_gpu_that_is_lost_between_two_calls_is_said_once(agent: Agent) -> None:
    gone = ("MigMode", "PciInfo_v3", "Name", "MemoryInfo_v2", "UtilizationRates", "Temperature")
    errors = {f"nvmlDeviceGet{what}": LOST for what in gone}
    errors["nvmlDeviceGetComputeRunningProcesses_v3"] = LOST
    errors["nvmlDeviceGetGraphicsRunningProcesses_v3"] = LOST
    read = agent.read(NvmlState(gpus=[DeviceState(A, errors=errors)]))
    assert [(t["kind"], t["gpu"]) for t in read["troubles"]] == [("gpu lost", A)]
    (gpu,) = read["gpus"]
    assert (gpu["free_mib"], gpu["mig"], gpu["pci"]) == (None, None, "")
    assert read["unlisted"] == [A]


def test_permissions_are_taken_away_while_the_agent_runs(agent: Agent) -> None:
    agent.read(NvmlState(gpus=[DeviceState(A)]))
    gpu = DeviceState(A, errors={"nvmlDeviceGetComputeRunningProcesses_v3": PERMISSION})
    read = agent.read(NvmlState(gpus=[gpu]))
    assert read["unlisted"] == [A]
    assert read["gpus"][0]["free_mib"] == 24000
    assert [t["kind"] for t in read["troubles"]] == ["no permission"]


def test_a_gpu_that_needs_a_reset(agent: Agent) -> None:
    gpu = DeviceState(A, errors={"nvmlDeviceGetMemoryInfo_v2": RESET})
    read = agent.read(NvmlState(gpus=[gpu]))
    assert read["gpus"][0]["free_mib"] is None
    assert [t["kind"] for t in read["troubles"]] == ["reset required"]


def test_a_gpu_that_a_suspend_took(agent: Agent) -> None:
    gpu = DeviceState(A)
    assert agent.read(NvmlState(gpus=[gpu]))["troubles"] == []
    (agent.root / "slept").write_text("3600")
    assert agent.read()["troubles"] == []
    gpu.error = UNKNOWN
    (trouble,) = agent.read(NvmlState(gpus=[gpu]))["troubles"]
    assert trouble["kind"] == "after suspend"
    assert "modprobe nvidia_uvm" in trouble["remedy"]


def test_a_container_that_lost_its_devices(agent: Agent) -> None:
    (agent.root / "run").mkdir()
    (agent.root / "run/.containerenv").touch()
    trouble = agent.read(NvmlState(errors={"nvmlInitWithFlags": UNKNOWN}))["trouble"]
    assert trouble["kind"] == "container"
    assert "podman" in trouble["message"] and "daemon-reload" in trouble["remedy"]


def test_a_container_and_wsl_limit_what_is_measured(agent: Agent) -> None:
    (agent.root / ".dockerenv").touch()
    (agent.root / "proc/version").write_text("Linux version 5.15.90.1-microsoft-standard-WSL2")
    read = agent.read(NvmlState(gpus=[DeviceState(A, compute=[ProcessState(4)])]))
    assert {t["kind"]: t["severity"] for t in read["troubles"]} == {
        "wsl": Severity.NOTE,
        "container": Severity.NOTE,
    }
    assert [p["used_mib"] for p in read["processes"]] == [None]


def test_mig_without_a_device(agent: Agent) -> None:
    read = agent.read(NvmlState(gpus=[DeviceState(A, "NVIDIA A100", mig_mode=1)]))
    (trouble,) = read["troubles"]
    assert (trouble["kind"], trouble["severity"]) == ("mig", Severity.ERROR)
    assert "-cgi" in trouble["remedy"]


def test_mig_devices_that_may_not_be_seen(agent: Agent) -> None:
    errors = {"nvmlDeviceGetMigDeviceHandleByIndex": PERMISSION}
    gpu = DeviceState(A, "NVIDIA A100", mig_mode=1, errors=errors)
    read = agent.read(NvmlState(gpus=[gpu]))
    assert [t["kind"] for t in read["troubles"]] == ["no permission", "mig"]


def test_unified_memory(agent: Agent) -> None:
    gpu = DeviceState(A, "NVIDIA GB10", total=None, free=None)
    read = agent.read(NvmlState(gpus=[gpu]))
    (seen,), (trouble,) = read["gpus"], read["troubles"]
    assert seen["unified_memory"] and seen["free_mib"] is None
    assert (trouble["kind"], trouble["severity"]) == ("unified memory", Severity.WARNING)


def test_the_double_tells_new_xids_and_not_the_old(tmp_path: Path, library: Path) -> None:
    state = NvmlState(gpus=[DeviceState(A)], xids=[(0, 13)])
    path = state.write(tmp_path / "state")
    program = """
import sys, pynvml as p
p.nvmlInitWithFlags(0)
events = p.nvmlEventSetCreate()
p.nvmlDeviceRegisterEvents(p.nvmlDeviceGetHandleByIndex(0), p.nvmlEventTypeXidCriticalError, events)
print("ready", flush=True); sys.stdin.readline()
print(p.nvmlEventSetWait_v2(events, 2000).eventData, flush=True)
try: p.nvmlEventSetWait_v2(events, 20)
except p.NVMLError_Timeout: print("none", flush=True)
p.nvmlEventSetFree(events)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(library, path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    state.xids.append((0, 79))
    state.write(path)
    told, _ = running.communicate("go\n", timeout=10)
    assert told.split() == ["79", "none"]
