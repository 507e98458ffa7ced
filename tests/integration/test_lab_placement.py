"""A lab's services placed on a software device, with a real llama-server as the oracle."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.cli.placing import LabPlacement, place_lab
from agent.gpu.ledger import Costs
from agent.host.oracle import Oracle
from agent.model.errors import Refused
from agent.model.finding import Position, Severity
from agent.model.gpu import Gpu, GpuReading, GpuTrouble, GpuTroubleKind
from agent.model.kinds import ServiceKind
from agent.model.lab import Service
from tests.host.tiny_gguf import write_tiny_model

DRIVERS = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
NO_GPU = GpuReading(trouble=GpuTrouble(GpuTroubleKind.NO_DRIVER, "no driver", severity=None))
MISMATCH = GpuReading(
    trouble=GpuTrouble(
        GpuTroubleKind.VERSION_MISMATCH, "driver and library differ", "reboot", Severity.ERROR
    )
)
COSTS = Costs(assumed_mib=1)


@dataclass(frozen=True)
class Bench:
    program: str
    model: str
    oracle: Oracle
    environment: tuple[tuple[str, str], ...]

    def service(self, name: str, layers: int | str | None = None, **more: object) -> Service:
        plain = Service(
            name,
            Position("lab.yaml"),
            ServiceKind.LLAMACPP_NATIVE,
            8080,
            model_file=self.model,
            context=512,
            slots=1,
            gpu_layers=layers,
            environment=self.environment,
        )
        return replace(plain, **more)  # type: ignore[arg-type]

    def place(self, *services: Service, reading: GpuReading = NO_GPU) -> LabPlacement:
        programs = {service.name: self.program for service in services}
        return place_lab(services, programs, reading, self.oracle, costs=COSTS)


@pytest.fixture(scope="module")
def bench(backends: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("placing")
    program = backends / "llamacpp-native" / "bin" / "llama-server"
    environment = {
        "LD_LIBRARY_PATH": str(program.resolve().parent),
        "VK_DRIVER_FILES": str(DRIVERS[0]) if DRIVERS else "",
        "GGML_VK_VISIBLE_DEVICES": "0",
        "MESA_SHADER_CACHE_DIR": str(folder),
    }
    oracle = Oracle(str(folder))
    if not oracle.devices(str(program), environment):
        reason = "no software Vulkan device: apt-get install mesa-vulkan-drivers"
        if os.environ.get("LABCTL_REQUIRE_HOST") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    model = write_tiny_model(folder / "tiny.gguf")
    return Bench(str(program), str(model), oracle, tuple(environment.items()))


def test_a_lab_is_placed_and_confirmed(bench: Bench) -> None:
    found = bench.place(bench.service("alpha"), bench.service("beta", 3))
    assert not found.placement.refusals
    alpha, beta = found.placement.services
    assert (alpha.layers, beta.layers, alpha.gpus) == (5, 3, ("Vulkan0",))
    assert alpha.oracle.startswith("the program agrees: Vulkan0")
    assert found.variables["beta"]["LLAMA_ARG_N_GPU_LAYERS"] == "3"
    assert found.variables["beta"]["LLAMA_ARG_DEVICE"] == "Vulkan0"


def test_two_that_do_not_fit_together_are_refused_with_the_sum(bench: Bench) -> None:
    """Each alone fits 2 GiB; a cache of a million cells is 512 MiB."""
    large = {"context": 2 << 20, "args": ("-ub", "16")}
    alone = bench.place(bench.service("alpha", "all", **large))
    assert not alone.placement.refusals
    both = bench.place(
        bench.service("alpha", "all", **large), bench.service("beta", "all", **large)
    )
    (refusal,) = both.placement.refusals
    assert refusal.services == ("beta", "alpha")
    assert refusal.message.startswith("beta does not fit beside alpha (alpha 1")
    assert "measured free" in refusal.arithmetic[0] and "planned (alpha)" in refusal.arithmetic[0]


def test_a_program_without_a_gpu_goes_to_the_cpu(bench: Bench) -> None:
    nowhere = dict(bench.environment) | {"VK_DRIVER_FILES": "/nonexistent"}
    blind = replace(bench, environment=tuple(nowhere.items()))
    (found,) = blind.place(blind.service("alpha")).placement.services
    assert found.why == "0/5: no GPU, all on the CPU"
    card = GpuReading(gpus=(Gpu(0, "GPU-1", name="RTX", total_mib=24000, free_mib=20000),))
    (auto,) = blind.place(blind.service("alpha"), reading=card).placement.services
    assert auto.why == "0/5: its llama-server finds no GPU, all on the CPU"
    (refusal,) = blind.place(blind.service("alpha", 5), reading=card).placement.refusals
    assert "it would run on the CPU and say otherwise" in refusal.message


def test_a_gpu_that_cannot_be_read_is_not_a_missing_one(bench: Bench) -> None:
    found = bench.place(bench.service("alpha"), bench.service("beta", 3), reading=MISMATCH)
    assert "driver and library differ" in found.placement.services[0].why
    (refusal,) = found.placement.refusals
    assert refusal.services == ("beta",) and refusal.hint == "reboot"


def test_the_only_gpu_lost_is_not_a_missing_one(bench: Bench) -> None:
    trouble = GpuTrouble(GpuTroubleKind.GPU_LOST, "GPU 0 is lost", "power off")
    lost = GpuReading(troubles=(trouble,))
    found = bench.place(bench.service("alpha"), bench.service("beta", 3), reading=lost)
    assert found.placement.services[0].why.endswith("(GPU 0 is lost)")
    (refusal,) = found.placement.refusals
    assert refusal.services == ("beta",) and refusal.hint == "power off"


def test_who_places_itself_is_left_alone(bench: Bench) -> None:
    own = bench.service("alpha", args=("-ngl", "2"))
    off = bench.service("beta", enabled=False)
    assert bench.place(own, off).placement.services == ()


def test_vllm_takes_its_share(bench: Bench) -> None:
    vllm = Service(
        "vllm",
        Position("lab.yaml"),
        ServiceKind.VLLM,
        8001,
        args=("--gpu-memory-utilization", "0.5"),
    )
    card = GpuReading(gpus=(Gpu(0, "GPU-1", name="RTX", total_mib=24000, free_mib=20000),))
    (found,) = bench.place(vllm, reading=card).placement.services
    assert found.why == "takes 12000 MiB of GPU 0 RTX"
    assert bench.place(vllm).placement.services == ()
    with pytest.raises(Refused, match="'much', which is no share"):
        bench.place(replace(vllm, args=("--gpu-memory-utilization=much",)), reading=card)
