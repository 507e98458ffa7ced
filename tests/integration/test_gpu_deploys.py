"""Placement and its proof inside `labctl deploy`: real llama-servers on a software Vulkan device.

The first start on the device compiles its shaders, which takes 15 s and, on a busy machine, a
minute; the next host gets what the one before compiled. The double of NVML knows the software
device by the name that its driver gives it, so that the ledger is NVML's and the load is real.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.host.light_host import LightHost
from tests.host.nvml_double import LIBRARY, DeviceState, NvmlState, ProcessState, build
from tests.integration.two_servers import (
    LAB,
    STATE,
    assert_whole,
    deployed,
    outcome,
    pids,
    write_lab,
    write_models,
)

DRIVERS = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
SHADERS = ".cache/mesa"
SERVER = "/home/lab/.local/share/labctl/backends/llamacpp-native/bin/llama-server"
# Asked what it would take, it says what the device would; started, it stays away from it.
LIAR = f"""\
#!/bin/sh
case "$*" in *"-fit on"*|*--list-devices*) exec {SERVER} "$@";; esac
exec {SERVER} "$@" --device none
"""
# Hides an NVML that this machine may have.
NO_NVML = {"LD_LIBRARY_PATH": "/home/lab/hidden"}
CARD = "GPU-11111111-2222-3333-4444-555555555555"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"
NO_PERMISSION = 4


def on_vulkan(layers: str | int = "all") -> str:
    """What makes a service of `two_servers` run on the software device."""
    variables = {
        "GGML_VK_VISIBLE_DEVICES": "0",  # a device without a GPU is left out unless it is named
        "VK_DRIVER_FILES": str(DRIVERS[0]),
        "MESA_SHADER_CACHE_DIR": f"/home/lab/{SHADERS}",
    }
    listed = ", ".join(f"{name}: '{value}'" for name, value in variables.items())
    return f", gpu_layers: {layers}, environment: {{{listed}}}"


def write(host: LightHost, *, alpha: str = "", beta: str = "") -> None:
    """The lab of two servers, with time to compile shaders."""
    write_lab(host, alpha_more=alpha, beta_more=beta)
    text = host.read(f"{LAB}/lab.yaml")
    host.write(f"{LAB}/lab.yaml", text.replace("start_timeout: 60s", "start_timeout: 150s"))


def gpu(host: LightHost, env: Mapping[str, str]) -> dict[str, Any]:
    """Service → its row of `labctl gpu --json`."""
    done = host.labctl("gpu", "--json", env=env, check=True)
    return {row["service"]: row for row in json.loads(done.stdout)["services"]}


def offload(host: LightHost, env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Service → (health, words) of the offload samples of `labctl verify --json`."""
    done = host.labctl("verify", "--json", env=env)
    samples = json.loads(done.stdout)["samples"]
    return {s["subject"]: (s["health"], s["detail"]) for s in samples if s["probe"] == "offload"}


def generations(host: LightHost) -> list[str]:
    folder = host.home / STATE / "generations"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def shaders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shaders")


@pytest.fixture
def lab(host: LightHost, shaders: Path) -> Iterator[LightHost]:
    """Two servers that nobody deployed, on a host where software Vulkan can run."""
    if not DRIVERS:
        reason = "no software Vulkan device: apt-get install mesa-vulkan-drivers"
        if os.environ.get("LABCTL_REQUIRE_HOST") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    write_models(host)
    host.write(f"hidden/{LIBRARY}", "")
    host.write(f"{SHADERS}/.keep", "")
    for file in (path for path in shaders.rglob("*") if path.is_file()):
        host.copy(file, f"{SHADERS}/{file.relative_to(shaders)}")
    yield host
    shutil.copytree(host.home / SHADERS, shaders, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml")) / LIBRARY


@pytest.fixture
def double(lab: LightHost, library: Path) -> dict[str, str]:
    """The variables that make labctl, and nothing else inside, meet the double."""
    lab.copy(library, f"nvml/{LIBRARY}")
    return {
        "LD_LIBRARY_PATH": "/home/lab/nvml",
        "LABCTL_NVML_STATE": "/home/lab/nvml/state",
    }


def show(host: LightHost, gpu: DeviceState) -> None:
    """From now on the double answers with this one GPU."""
    NvmlState(gpus=[gpu]).write(host.home / "nvml" / "state")


def card(free: int, **more: Any) -> DeviceState:
    """The software device, as a card of 8 GiB that NVML knows."""
    return DeviceState(CARD, name="llvmpipe", total=8192, free=free, **more)


def test_a_plan_is_proved_and_a_start_against_it_is_rolled_back(lab: LightHost) -> None:
    write(lab, alpha=on_vulkan())
    done = outcome(lab.labctl("deploy", "--json", env=NO_NVML, check=True).stdout)
    assert done["outcome"] == "committed"
    proved = {"alpha": ("healthy", "full 5/5"), "beta": ("healthy", "cpu")}
    assert offload(lab, NO_NVML) == proved
    rows = gpu(lab, NO_NVML)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "alpha": "full 5/5",
        "beta": "cpu",
    }
    planned = rows["alpha"]["planned"]
    assert (planned["layers"], planned["of"], planned["gpus"]) == (5, 5, ["Vulkan0"])
    assert planned["why"].startswith("5/5 on Vulkan0: ")
    assert rows["alpha"]["proven"]["contradictions"] == []
    # What is free now is another number; the placement that serves is kept.
    before = pids(lab)
    again = outcome(lab.labctl("deploy", "--json", env=NO_NVML, check=True).stdout)
    assert (again["outcome"], again["changed"]) == ("nothing to do", False)

    lab.write("bin/llama-server", LIAR, mode=0o755)
    write(lab, alpha=f"{on_vulkan()}, program: ~/bin/llama-server")
    failed = lab.labctl("deploy", env=NO_NVML)
    assert failed.returncode == 10, failed.stdout + failed.stderr
    assert failed.stdout.splitlines()[0] == (
        "failed: alpha: planned 5/5 on a GPU, but Vulkan0 is there, and the load does not use it"
        " (`--device none`?)"
    )
    assert "generation 2 failed; generation 1 is restored and proved" in failed.stdout
    assert_whole(lab, 1)
    assert offload(lab, NO_NVML) == proved
    assert {name: row["verdict"] for name, row in gpu(lab, NO_NVML).items()} == {
        "alpha": "full 5/5",
        "beta": "cpu",
    }
    after = pids(lab)
    assert after["beta"] == before["beta"] and after["alpha"] != before["alpha"]
    shown = json.loads(lab.labctl("generations", "show", "2", "--json", check=True).stdout)
    assert shown["standing"] == "bad"


def test_the_ledger_of_nvml_decides_what_starts(lab: LightHost, double: dict[str, str]) -> None:
    """Two that do not fit together are refused; with room the same lab is deployed and measured."""
    write(lab, alpha=on_vulkan(), beta=on_vulkan())
    show(lab, card(free=1200))
    for verb in ("plan", "deploy"):
        refused = lab.labctl(verb, env=double)
        assert refused.returncode == 78, refused.stdout + refused.stderr
        lines = refused.stderr.splitlines()
        assert lines[0].startswith("does not fit: beta does not fit beside alpha (alpha ")
        (arithmetic,) = (line for line in lines if "measured free" in line)
        assert arithmetic.startswith("    GPU 0 llvmpipe: +1200 MiB measured free (NVML), ")
        assert "MiB planned (alpha)" in arithmetic and "-256 MiB margin" in arithmetic
        assert "nothing was touched" in refused.stderr
    assert generations(lab) == []
    active = lab.run("systemctl", "--user", "is-active", "alpha.service", check=False)
    assert active.stdout.strip() == "inactive"

    # Room for both. Whose memory it is, this driver does not tell: seen, and no pass.
    write(lab, alpha=on_vulkan(), beta=", gpu_layers: 0")
    show(lab, card(free=6000, errors={PROCESSES: NO_PERMISSION}))
    done = outcome(lab.labctl("deploy", "--json", env=double, check=True).stdout)
    assert done["outcome"] == "committed", done
    health, words = offload(lab, double)["alpha"]
    assert health == "healthy" and words.startswith("unverifiable"), words
    assert 'LLAMA_ARG_DEVICE="Vulkan0"' in deployed(lab, "env/alpha.env").read_text()

    # What alpha holds is given back when it stops, so that the same plan still fits.
    pid = pids(lab)["alpha"]
    show(lab, card(free=300, compute=[ProcessState(pid, 900)]))
    assert offload(lab, double)["alpha"] == ("healthy", "full 5/5")
    again = outcome(lab.labctl("deploy", "--json", env=double, check=True).stdout)
    assert again["outcome"] == "nothing to do"
    told = lab.labctl("gpu", env=double, check=True).stdout
    assert [line.split() for line in told.splitlines() if "alpha.service" in line] == [
        ["0", "900", "MiB", str(pid), "alpha", "(alpha.service)"]
    ]
    # The driver shows less than the log says: against the plan, and verify says so.
    show(lab, card(free=6000, compute=[ProcessState(pid, 0)]))
    health, words = offload(lab, double)["alpha"]
    assert health == "unhealthy", words
    assert lab.labctl("verify", env=double).returncode == 3


def test_a_server_that_sees_no_gpu_is_not_sent_to_one(
    lab: LightHost, double: dict[str, str]
) -> None:
    """The host has a card, the llama-server was built without it."""
    show(lab, card(free=6000))
    write(lab, alpha=", gpu_layers: 5")
    refused = lab.labctl("deploy", env=double)
    assert refused.returncode == 78, refused.stdout + refused.stderr
    assert "alpha" in refused.stderr and "its llama-server finds no GPU" in refused.stderr
    assert "it would run on the CPU and say otherwise" in refused.stderr
    assert generations(lab) == []

    write(lab, alpha=", gpu_layers: auto")
    lab.labctl("deploy", env=double, check=True)
    row = gpu(lab, double)["alpha"]
    assert row["planned"]["layers"] == 0 and row["verdict"] == "cpu"
    assert row["planned"]["why"] == "0/5: its llama-server finds no GPU, all on the CPU"
    assert_whole(lab, 1)


def test_a_host_without_a_gpu_is_a_normal_host(lab: LightHost) -> None:
    write(lab)
    assert lab.labctl("plan", env=NO_NVML, check=True).stderr == ""
    done = outcome(lab.labctl("deploy", "--json", env=NO_NVML, check=True).stdout)
    assert done["outcome"] == "committed"
    environment = deployed(lab, "env/alpha.env").read_text()
    assert 'LLAMA_ARG_DEVICE="none"' in environment
    assert 'LLAMA_ARG_N_GPU_LAYERS="0"' in environment
    assert offload(lab, NO_NVML) == {"alpha": ("healthy", "cpu"), "beta": ("healthy", "cpu")}
    told = lab.labctl("gpu", env=NO_NVML)
    assert told.returncode == 0
    assert "no NVIDIA GPU and no driver: models run on the CPU" in told.stdout
    rows = [line.split(None, 3) for line in told.stdout.splitlines() if "5" in line]
    assert rows == [
        [name, "0/5", "cpu", "0/5: no GPU, all on the CPU"] for name in ("alpha", "beta")
    ]
    again = outcome(lab.labctl("deploy", "--json", env=NO_NVML, check=True).stdout)
    assert again["outcome"] == "nothing to do"
