"""The memory formula against a real llama-server on a software Vulkan device.

Six loads, about half a second each once the shaders are cached; the whole grid is
`tests/bench/offload_grid.py`.
"""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.model_facts import read_model
from agent.gpu.memory import predict
from agent.model.gguf import CPU, VULKAN, CacheType, LoadRequest
from tests.bench.offload_grid import arguments, compare, environment, measure
from tests.host.synthetic_gguf import RECIPES, write_model

BASE = LoadRequest(context=2048, micro_batch=256, flash_attention=True, slots=1, traits=VULKAN)
LOADS = {
    "llama-q4k": replace(BASE, slots=None, layers=7),
    "qwen2": replace(BASE, slots=3, cache_type_k=CacheType.Q8_0, cache_type_v=CacheType.Q8_0),
    "gemma3": replace(BASE, context=8192, splits=(3.0, 1.0)),
    "qwen3moe": replace(BASE, cpu_moe=2, overrides=((r"blk\.5\.attn_q", CPU),)),
    "deepseek2": replace(BASE, flash_attention=False, kv_offload=False),
    "mamba": replace(BASE, slots=2, unified=True),
}


@functools.cache
def vulkan_trouble(server: Path) -> str:
    """Why this machine has no Vulkan device for llama.cpp; empty when it has one."""
    listed = subprocess.run(
        [str(server), "--list-devices"],
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return "" if "Vulkan0" in listed.stdout + listed.stderr else listed.stdout + listed.stderr


@pytest.fixture(scope="module")
def server(backends: Path) -> Path:
    """A llama-server that sees at least Mesa's software device."""
    program = backends / "llamacpp-native/bin/llama-server"
    trouble = vulkan_trouble(program)
    if trouble:
        reason = f"no Vulkan driver (Debian: mesa-vulkan-drivers): {trouble}"
        if os.environ.get("LABCTL_REQUIRE_HOST") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


@pytest.mark.parametrize("name", LOADS)
def test_a_real_load_takes_what_was_predicted(name: str, server: Path, tmp_path: Path) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    path = write_model(tmp_path / f"{name}.gguf", recipe)
    load = LOADS[name]
    devices = max(1, len(load.splits))
    measured = measure(server, path, load, devices)
    outcome = compare(
        name, " ".join(arguments(load)), predict(read_model(str(path)), load, devices), measured
    )
    assert measured.model["Vulkan0"] > 0
    assert outcome.exact, outcome
    assert outcome.within, outcome
