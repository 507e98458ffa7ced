"""A real llama-server on a software Vulkan device, and the five logs that say the same.

Each of the five says `offloaded 5/5 layers to GPU`. The plan comes from the product's own reader,
formula, ledger and oracle; each server is started once and stopped when it has told its buffers.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.cli.model_facts import read_model
from agent.gpu.launch import launch_variables
from agent.gpu.ledger import Costs, open_listed_ledgers
from agent.gpu.log_lines import BufferKind, LoadLog, parse_load_log
from agent.gpu.placement import choose
from agent.gpu.proof import prove
from agent.gpu.together import place
from agent.gpu.trial import Wish, wish_for
from agent.host.oracle import Oracle
from agent.model.gguf import VULKAN, LoadRequest, ModelFacts
from agent.model.kinds import ServiceKind
from agent.model.placement import (
    EvidenceLevel,
    GpuLedger,
    OffloadVerdict,
    OracleFigures,
    Refusal,
    ServicePlacement,
)
from tests.host.tiny_gguf import write_tiny_model

CLAIM = "offloaded 5/5 layers to GPU"
DRIVERS = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
NO_DRIVER = {"VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"}
REQUEST = LoadRequest(context=512, slots=1, flash_attention=True, traits=VULKAN)
COSTS = Costs(assumed_mib=1, margin_mib=256)
WORDS = ["-c", "512", "-np", "1", "-fa", "on", "-t", "1"]


@dataclass(frozen=True)
class Bench:
    """A llama-server, a tiny model, and the software device."""

    program: str
    model: Path
    state: Path
    environment: Mapping[str, str]
    facts: ModelFacts
    ledgers: tuple[GpuLedger, ...]
    oracle: Oracle
    logs: dict[tuple[str, ...], list[str]] = field(default_factory=dict)

    def load(self, *words: str, **environment: str) -> LoadLog:
        """The log of one load with these words; stopped once it has told everything."""
        told = (*WORDS, "-fit", "off", "-lv", "4", *words)
        return parse_load_log(self._lines(told, environment))

    def load_by_variables(self, environment: Mapping[str, str]) -> LoadLog:
        """The same with none of the bench's own words for what is loaded and how it is told."""
        return parse_load_log(self._lines((), environment))

    def said(self, *words: str, **environment: str) -> str:
        told = (*WORDS, "-fit", "off", "-lv", "4", *words)
        return "\n".join(self._lines(told, environment))

    def _lines(self, words: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
        key = (*words, *(f"{name}={value}" for name, value in environment.items()))
        if key not in self.logs:
            args = [self.program, "-m", str(self.model), "--host", "127.0.0.1", "--port", "0"]
            args += ["--no-warmup", *words]
            self.logs[key] = _until_told(args, {**self.environment, **environment})
        return self.logs[key]

    def wish(self, layers: int | None = None) -> Wish:
        return wish_for("alpha", self.facts, REQUEST, layers=layers)

    def plan(self, layers: int | None = None) -> ServicePlacement:
        placed = choose(self.wish(layers), self.ledgers, COSTS)
        assert isinstance(placed, ServicePlacement), placed
        return placed


def _until_told(args: list[str], environment: Mapping[str, str]) -> list[str]:
    process = subprocess.Popen(
        args,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    descriptor, text, deadline = process.stdout.fileno(), "", time.monotonic() + 60
    try:
        while "graph splits" not in text and (left_s := deadline - time.monotonic()) > 0:
            if not select.select([descriptor], [], [], left_s)[0]:
                break
            data = os.read(descriptor, 65536)
            if not data:
                break
            text += data.decode(errors="replace")
    finally:
        process.kill()
        process.wait(timeout=10)
        process.stdout.close()
    assert "graph splits" in text, f"no whole load within 60 s:\n{text[-2000:]}"
    return text.splitlines()


@pytest.fixture(scope="module")
def bench(backends: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("offload")
    program = backends / "llamacpp-native" / "bin" / "llama-server"
    environment = {
        "LD_LIBRARY_PATH": str(program.resolve().parent),
        "VK_DRIVER_FILES": str(DRIVERS[0]) if DRIVERS else "",
        "GGML_VK_VISIBLE_DEVICES": "0",  # a device without a GPU is left out unless it is named
        "MESA_SHADER_CACHE_DIR": str(folder),
    }
    oracle = Oracle(str(folder))
    devices = oracle.devices(str(program), environment)
    if not devices:
        reason = "no software Vulkan device: apt-get install mesa-vulkan-drivers"
        if os.environ.get("LABCTL_REQUIRE_HOST") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    model = write_tiny_model(folder / "tiny.gguf")
    ledgers = open_listed_ledgers(devices, (), COSTS)
    facts = read_model(str(model))
    return Bench(str(program), model, folder, environment, facts, ledgers, oracle)


def test_the_normal_load_is_proved_full(bench: Bench) -> None:
    proof = prove(bench.plan(), bench.load("-ngl", "5"), None)
    assert CLAIM in bench.said("-ngl", "5")
    assert proof.verdict is OffloadVerdict.FULL and proof.words == "full 5/5"
    assert proof.level is EvidenceLevel.LOGGED
    assert not proof.contradictions
    assert any(
        sentence.startswith("devices used: Vulkan0 (llvmpipe") for sentence in proof.evidence
    )


def test_no_device_at_all_is_the_cpu(bench: Bench) -> None:
    proof = prove(bench.plan(), bench.load("-ngl", "5", **NO_DRIVER), None)
    assert CLAIM in bench.said("-ngl", "5", **NO_DRIVER)
    assert proof.words == "cpu (no device found)"
    assert proof.contradictions == (
        "planned 5/5 on a GPU, but the program finds no device but the CPU",
    )


def test_a_device_that_is_not_used_is_the_cpu(bench: Bench) -> None:
    words = ("-ngl", "5", "--device", "none")
    proof = prove(bench.plan(), bench.load(*words), None)
    assert CLAIM in bench.said(*words)
    assert proof.words == "cpu (no device used)"
    assert "Vulkan0 is there, and the load does not use it" in proof.contradictions[0]


def test_weights_sent_to_the_cpu_are_the_cpu(bench: Bench) -> None:
    words = ("-ngl", "5", "-ot", ".*=CPU")
    log = bench.load(*words)
    proof = prove(bench.plan(), log, None)
    assert CLAIM in bench.said(*words)
    assert proof.words == "cpu (weights on the CPU)"
    assert "Vulkan0 holds no weights" in proof.contradictions[0]
    assert log.graph_splits is not None and log.graph_splits > 20
    assert log.hundredths("Vulkan0", BufferKind.KV) > 0, "only the weights are on the CPU"


def test_a_kv_cache_on_the_cpu_is_partial(bench: Bench) -> None:
    words = ("-ngl", "5", "-nkvo")
    proof = prove(bench.plan(), bench.load(*words), None)
    assert CLAIM in bench.said(*words)
    assert proof.words == "partial (KV cache on the CPU)"
    assert proof.contradictions == ("Vulkan0 holds 0.00 MiB KV, 0.25 were planned",)


def test_the_five_cases_give_five_verdicts(bench: Bench) -> None:
    """With one and the same claim in every log."""
    plan = bench.plan()
    words = {
        prove(plan, bench.load("-ngl", "5", *more, **environment), None).words
        for more, environment in (
            ((), {}),
            ((), NO_DRIVER),
            (("--device", "none"), {}),
            (("-ot", ".*=CPU"), {}),
            (("-nkvo",), {}),
        )
    }
    assert len(words) == 5
    assert {bench.load(*key).claim for key in (("-ngl", "5"), ("-ngl", "5", "-nkvo"))} == {(5, 5)}


def test_a_planned_part_is_proved_as_that_part(bench: Bench) -> None:
    proof = prove(bench.plan(layers=3), bench.load("-ngl", "3"), None)
    assert proof.words == "partial 3/5" and not proof.contradictions


def test_fewer_layers_than_planned_contradict_the_plan(bench: Bench) -> None:
    proof = prove(bench.plan(), bench.load("-ngl", "3"), None)
    assert proof.words == "partial 3/5 (part of the weights on the CPU)"
    assert len(proof.contradictions) == 2


def test_what_the_driver_does_not_tell_is_never_a_pass(bench: Bench) -> None:
    plan, log = bench.plan(), bench.load("-ngl", "5")
    untold = prove(plan, log, {"Vulkan0": None})
    assert untold.words == "unverifiable (the driver does not tell)"
    assert not untold.contradictions
    measured = prove(plan, log, {"Vulkan0": 120})
    assert measured.words == "full 5/5" and measured.level is EvidenceLevel.MEASURED
    assert measured.context_mib == (("Vulkan0", 118),)  # 0.82 + 0.25 + 1.88 MiB of buffers
    absent = prove(plan, log, {})
    assert absent.verdict is OffloadVerdict.UNVERIFIABLE and absent.contradictions


def test_the_oracle_confirms_the_formula_and_is_remembered(bench: Bench) -> None:
    """A context that is large enough for whole MiB; asked once, then read."""
    request = replace(REQUEST, context=65536)
    wish = wish_for("alpha", bench.facts, request)
    asked: list[float] = []

    def ask(placed: ServicePlacement) -> OracleFigures:
        words = ["-m", str(bench.model), *WORDS, "-c", "65536", "-ngl", str(placed.layers)]
        figures = bench.oracle.ask(bench.program, words, bench.facts.digest, bench.environment)
        assert figures is not None
        asked.append(figures.took_s)
        return figures

    for _ in range(2):
        placed = place([wish], bench.ledgers, COSTS, ask).services[0]
        assert placed.layers == 5
        assert placed.oracle.startswith("the program agrees: Vulkan0: model 0, KV 32, compute")
    assert 0 < asked[0] < 10 and asked[1] == 0


def test_a_program_without_the_gpu_is_refused_before_it_starts(bench: Bench) -> None:
    environment = {**bench.environment, **NO_DRIVER}
    words = ["-m", str(bench.model), *WORDS, "-ngl", "5"]
    figures = bench.oracle.ask(bench.program, words, bench.facts.digest, environment)
    assert figures is not None and figures.devices == ()
    placement = place([bench.wish(layers=5)], bench.ledgers, COSTS, lambda _: figures)
    assert "its llama-server finds no GPU" in placement.refusals[0].message
    auto = place([bench.wish()], bench.ledgers, COSTS, lambda _: figures).services[0]
    assert auto.layers == 0 and auto.why == "0/5: its llama-server finds no GPU, all on the CPU"


def test_a_number_that_does_not_fit_is_refused(bench: Bench) -> None:
    tight = tuple(
        replace(ledger, lines=(replace(ledger.lines[0], mib=2),)) for ledger in bench.ledgers
    )
    refused = choose(bench.wish(layers=5), tight, COSTS)
    assert isinstance(refused, Refusal)
    assert "5/5 layers need" in refused.message and "2 are free" in refused.message


def test_the_variables_of_a_placement_make_it_so(bench: Bench) -> None:
    """As a unit gets them: nothing but variables, read by the real program."""
    placed = bench.plan(layers=3)
    variables = launch_variables(ServiceKind.LLAMACPP_NATIVE, placed, REQUEST)
    proof = prove(placed, bench.load_by_variables(variables), None)
    assert proof.words == "partial 3/5" and not proof.contradictions, proof
    nowhere = ServicePlacement("alpha", 0, 5)
    variables = launch_variables(ServiceKind.LLAMACPP_NATIVE, nowhere, REQUEST)
    on_cpu = prove(nowhere, bench.load_by_variables(variables), None)
    assert on_cpu.words == "cpu" and not on_cpu.contradictions, on_cpu


def test_two_gpus_share_what_one_cannot_hold(bench: Bench) -> None:
    """One software device twice; the splits of the plan are the words of the load."""
    twice = {"GGML_VK_VISIBLE_DEVICES": "0,0"}
    devices = bench.oracle.devices(bench.program, {**bench.environment, **twice})
    assert [device.name for device in devices] == ["Vulkan0", "Vulkan1"]
    tight = [replace(device, free_mib=288) for device in devices]
    ledgers = open_listed_ledgers(tight, (), COSTS)
    request = replace(REQUEST, context=65536, micro_batch=8)
    words = ("-c", "65536", "-ub", "8", "-ngl", "5")

    def ask(plan: ServicePlacement) -> OracleFigures | None:
        args = ["-m", str(bench.model), *WORDS, *words, *split_words(plan)]
        environment = {**bench.environment, **twice}
        return bench.oracle.ask(bench.program, args, bench.facts.digest, environment)

    placed = place([wish_for("alpha", bench.facts, request)], ledgers, COSTS, ask).services[0]
    assert (placed.layers, placed.gpus) == (5, ("Vulkan0", "Vulkan1")), placed
    assert placed.oracle.startswith("the program agrees"), placed.oracle
    proof = prove(placed, bench.load(*words, *split_words(placed), **twice), None)
    assert proof.words == "full 5/5", proof


def split_words(placed: ServicePlacement) -> tuple[str, ...]:
    """The words that pin a load to its devices, in the order of the plan."""
    splits = ",".join(f"{weight:.0f}" for weight in placed.splits)
    return ("--device", ",".join(placed.gpus), *(("-ts", splits) if splits else ()))
