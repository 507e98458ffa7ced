"""Verdicts from kept logs of a real llama-server, and what the driver adds to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gpu.log_lines import BufferKind, LoadLog, parse_load_log
from agent.gpu.ollama_proof import OllamaModel, prove_ollama
from agent.gpu.proof import held_by, prove
from agent.model.gpu import Gpu, GpuProcess, GpuReading, GpuTrouble, GpuTroubleKind
from agent.model.placement import (
    MIB,
    DeviceNeed,
    EvidenceLevel,
    OffloadVerdict,
    ServicePlacement,
)

LOGS = Path(__file__).parents[2] / "data" / "offload"
NEED = DeviceNeed("GPU-1", round(0.82 * MIB), MIB // 4, 2 * MIB, 300)
PLAN = ServicePlacement("alpha", 5, 5, ("GPU-1",), needs=(NEED,))
ON_CPU = ServicePlacement("alpha", 0, 5)


def log(name: str) -> LoadLog:
    return parse_load_log((LOGS / f"{name}.log").read_text().splitlines())


# -- reading a log -------------------------------------------------------------------------


def test_a_log_is_read_whole() -> None:
    read = log("normal")
    assert read.listed == ("Vulkan0", "CPU")
    assert [(device.name, device.pci) for device in read.devices] == [("Vulkan0", "")]
    assert read.claim == (5, 5) and read.graph_splits == 2 and read.ready and read.told
    assert read.hundredths("Vulkan0", BufferKind.MODEL) == 82
    assert read.hundredths("Vulkan0", BufferKind.KV) == 25
    assert read.hundredths("Vulkan0", BufferKind.COMPUTE) == 188


def test_a_file_span_is_not_added_up() -> None:
    assert log("override-cpu").host_hundredths(BufferKind.MODEL) == 0


def test_the_trials_of_a_fit_do_not_count() -> None:
    """`-fit on -lv 5` prints every buffer line twice, the first time with other figures."""
    read = log("fit-trials")
    assert read.hundredths("Vulkan0", BufferKind.MODEL) == 45
    assert read.hundredths("Vulkan0", BufferKind.KV) == 12
    assert read.hundredths("Vulkan_Host", BufferKind.MODEL) == 0
    assert [device.name for device in read.devices] == ["Vulkan0"]
    assert [name for _, name in read.layers] == ["CPU", "CPU", "Vulkan0", "Vulkan0", "Vulkan0"]


def test_only_the_last_load_counts() -> None:
    twice = [*(LOGS / "normal.log").read_text().splitlines()]
    twice += (LOGS / "device-none.log").read_text().splitlines()
    assert parse_load_log(twice).hundredths("Vulkan0", BufferKind.MODEL) == 0
    assert prove(PLAN, parse_load_log(twice), None).verdict is OffloadVerdict.CPU


def test_sliding_windows_and_recurrent_states_are_kv() -> None:
    lines = (
        "llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =     2.50 MiB",
        "llama_memory_recurrent:      CUDA0 RS buffer size =     1.25 MiB",
        "sched_reserve:      CUDA0 compute buffer size =   300.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =   304.75 MiB",
        "llama_prepare_model_devices: using device CUDA0 (NVIDIA GeForce RTX 3090)"
        " (0000:01:00.0) - 23306 MiB free",
    )
    read = parse_load_log(lines)
    assert read.hundredths("CUDA0", BufferKind.KV) == 1375
    assert read.hundredths("CUDA0", BufferKind.COMPUTE) == 30475
    assert read.devices[0].pci == "0000:01:00.0"


@given(st.lists(st.text(max_size=120), max_size=30))
def test_any_text_is_a_log(lines: list[str]) -> None:
    read = parse_load_log(lines)
    assert prove(PLAN, read, None).verdict in (OffloadVerdict.UNVERIFIABLE, OffloadVerdict.CPU)


# -- the five cases, all with the claim 5/5 ------------------------------------------------

CASES = [
    ("normal", "full 5/5"),
    ("no-device", "cpu (no device found)"),
    ("device-none", "cpu (no device used)"),
    ("override-cpu", "cpu (weights on the CPU)"),
    ("no-kv-offload", "partial (KV cache on the CPU)"),
]


@pytest.mark.parametrize(("name", "words"), CASES)
def test_the_five_are_told_apart(name: str, words: str) -> None:
    read = log(name)
    proof = prove(PLAN, read, None)
    assert read.claim == (5, 5)
    assert proof.words == words
    assert bool(proof.contradictions) == (name != "normal")
    assert "its own claim, which proves nothing: 5/5 layers" in proof.evidence


def test_graph_splits_are_evidence() -> None:
    splits = {name: log(name).graph_splits for name, _ in CASES}
    assert splits == {
        "normal": 2,
        "no-device": 1,
        "device-none": 1,
        "override-cpu": 35,
        "no-kv-offload": 10,
    }


def test_the_quiet_log_proves_nothing() -> None:
    proof = prove(PLAN, log("quiet"), {"GPU-1": 900})
    assert proof.words == "unverifiable (no buffer lines in the log)"
    assert proof.level is EvidenceLevel.NONE and not proof.contradictions


def test_the_driver_can_contradict_even_a_quiet_log() -> None:
    proof = prove(PLAN, log("quiet"), {})
    assert proof.words == "cpu (holds no GPU memory)"
    assert proof.contradictions == ("planned 5/5 on a GPU, the driver shows no memory of it",)


# -- the plan ------------------------------------------------------------------------------


def test_a_part_as_planned() -> None:
    need = replace(NEED, model_bytes=round(0.45 * MIB), kv_bytes=MIB // 8, compute_bytes=3 * MIB)
    proof = prove(replace(PLAN, layers=3, needs=(need,)), log("partial"), None)
    assert proof.words == "partial 3/5" and not proof.contradictions


def test_a_part_where_all_was_planned() -> None:
    proof = prove(PLAN, log("partial"), None)
    assert proof.words == "partial 3/5 (part of the weights on the CPU)"
    assert proof.contradictions == (
        "Vulkan0 holds 0.45 MiB model, 0.82 were planned",
        "Vulkan0 holds 0.12 MiB KV, 0.25 were planned",
    )


@pytest.mark.parametrize("name", ["no-device", "device-none"])
def test_a_plan_on_the_cpu_is_kept_on_the_cpu(name: str) -> None:
    proof = prove(ON_CPU, log(name), {})
    assert proof.words == "cpu" and not proof.contradictions


def test_a_plan_on_the_cpu_that_takes_a_gpu_is_contradicted() -> None:
    proof = prove(ON_CPU, log("normal"), None)
    assert proof.contradictions == ("planned 0/5 all on the CPU, but weights are on Vulkan0",)


def test_a_planned_kv_cache_on_the_host_is_no_full_offload() -> None:
    proof = prove(replace(PLAN, needs=(replace(NEED, kv_bytes=0),)), log("no-kv-offload"), None)
    assert proof.words == "partial 5/5 (KV cache on the CPU)" and not proof.contradictions


def test_two_devices_where_one_was_planned() -> None:
    proof = prove(PLAN, log("two-devices"), None)
    assert "2 devices are used, 1 were planned" in proof.contradictions


def test_two_devices_as_planned() -> None:
    first = replace(NEED, model_bytes=round(0.75 * MIB), compute_bytes=4 * MIB)
    second = DeviceNeed("GPU-2", round(0.07 * MIB), 0, 4 * MIB, 300)
    plan = replace(PLAN, gpus=("GPU-1", "GPU-2"), splits=(3.0, 1.0), needs=(first, second))
    proof = prove(plan, log("two-devices"), {"GPU-1": 305, "GPU-2": 300})
    assert proof.words == "full 5/5" and proof.context_mib == (("GPU-1", 301), ("GPU-2", 300))


def test_another_gpu_than_planned_is_found_by_its_address() -> None:
    text = (LOGS / "normal.log").read_text().replace("(unknown id)", "(0000:0a:00.0)")
    read = parse_load_log(text.splitlines())
    assert prove(PLAN, read, None, {"GPU-1": "00000000:0A:00.0"}).words == "full 5/5"
    wrong = prove(PLAN, read, None, {"GPU-1": "00000000:01:00.0"})
    assert wrong.words == "partial (on another GPU)"
    assert wrong.contradictions == ("Vulkan0 is at 0000:0a:00.0, GPU-1 is at 00000000:01:00.0",)


def test_figures_of_the_oracle_are_rounded() -> None:
    rounded = replace(NEED, model_bytes=MIB, kv_bytes=MIB, exact=False)
    assert prove(replace(PLAN, needs=(rounded,)), log("normal"), None).words == "full 5/5"


def test_scratch_beyond_its_bound_is_said_and_no_contradiction() -> None:
    tight = replace(PLAN, needs=(replace(NEED, compute_bytes=MIB),))
    proof = prove(tight, log("normal"), None)
    assert proof.evidence[-1] == "Vulkan0 takes 1.88 MiB of scratch, at most 1.00 were planned"
    assert not proof.contradictions


# -- the driver ----------------------------------------------------------------------------


def test_the_driver_confirms_and_tells_the_context() -> None:
    proof = prove(PLAN, log("normal"), {"GPU-1": 303})
    assert proof.words == "full 5/5" and proof.level is EvidenceLevel.MEASURED
    assert proof.context_mib == (("GPU-1", 301),)
    assert "the driver shows 303 MiB on GPU-1 for 2.95 MiB of buffers" in proof.evidence


def test_a_driver_that_does_not_tell_is_never_a_pass() -> None:
    proof = prove(PLAN, log("normal"), {"GPU-1": None})
    assert proof.words == "unverifiable (the driver does not tell)"
    assert not proof.contradictions and not proof.context_mib


def test_less_memory_than_the_log_says_is_a_contradiction() -> None:
    proof = prove(PLAN, log("normal"), {"GPU-1": 0})
    assert proof.words == "unverifiable (holds less than its log says)"
    assert len(proof.contradictions) == 1


def reading(*processes: GpuProcess, trouble: GpuTroubleKind | None = None) -> GpuReading:
    troubles = (GpuTrouble(trouble, ""),) if trouble else ()
    gpu = Gpu(0, "GPU-1", free_mib=1000)
    return GpuReading(gpus=(gpu,), processes=processes, troubles=troubles)


def test_what_a_unit_holds() -> None:
    ours, other = GpuProcess(7, "GPU-1", 303), GpuProcess(8, "GPU-1", 9000)
    pids = frozenset({7})
    assert held_by(reading(ours, other), pids, ["GPU-1"]) == {"GPU-1": 303}
    assert held_by(reading(other), pids, ["GPU-1"]) == {}
    assert held_by(reading(GpuProcess(7, "GPU-1")), pids, ["GPU-1"]) == {"GPU-1": None}


@pytest.mark.parametrize("kind", [GpuTroubleKind.WSL, GpuTroubleKind.CONTAINER])
def test_a_hidden_process_is_not_an_absent_one(kind: GpuTroubleKind) -> None:
    assert held_by(reading(trouble=kind), frozenset({7}), ["GPU-1"]) == {"GPU-1": None}


def test_a_gpu_that_is_gone_is_unknown() -> None:
    lost = GpuReading(trouble=GpuTrouble(GpuTroubleKind.GPU_LOST, "lost"))
    assert held_by(lost, frozenset({7}), ["GPU-1"]) == {"GPU-1": None}
    unlisted = replace(reading(), unlisted=("GPU-1",))
    assert held_by(unlisted, frozenset({7}), ["GPU-1"]) == {"GPU-1": None}


def test_a_host_without_a_driver_leaves_the_log() -> None:
    none = GpuReading(trouble=GpuTrouble(GpuTroubleKind.NO_DRIVER, "none"))
    assert held_by(none, frozenset({7}), ["GPU-1"]) is None


# -- Ollama --------------------------------------------------------------------------------

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("vram", "held", "words", "contradicted"),
    [
        (4 * GIB, {"GPU-1": 4500}, "full", False),
        (2 * GIB, {"GPU-1": 2500}, "partial", False),
        (0, {}, "cpu", False),
        (0, None, "cpu", False),
        (4 * GIB, {}, "cpu (claims more than it holds)", True),
        (4 * GIB, {"GPU-1": 500}, "unverifiable (claims more than it holds)", True),
        (4 * GIB, {"GPU-1": None}, "unverifiable (the driver does not tell)", False),
        (4 * GIB, None, "unverifiable (the driver does not tell)", False),
    ],
)
def test_the_claim_of_ollama_is_checked(
    vram: int, held: dict[str, int | None] | None, words: str, contradicted: bool
) -> None:
    proof = prove_ollama("ollama", [OllamaModel("m", 4 * GIB, vram)], held)
    assert proof is not None
    assert proof.words == words and bool(proof.contradictions) == contradicted


def test_ollama_without_a_model_claims_nothing() -> None:
    assert prove_ollama("ollama", [], {}) is None
