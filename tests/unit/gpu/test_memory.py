"""The memory formula on models made on the spot: the rules one by one, and what always holds.

That the figures are those of a real server is tested in `tests/integration/test_memory_formula.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.model_facts import read_model
from agent.gpu.memory import assign, predict
from agent.model.errors import Refused
from agent.model.gguf import CPU, CUDA, VULKAN, CacheType, DeviceTraits, LoadRequest, ModelFacts
from tests.host.synthetic_gguf import RECIPES, write_model

RECIPE = {recipe.name: recipe for recipe in RECIPES}
BASE = LoadRequest(context=2048, micro_batch=256, flash_attention=True, slots=1)


class Models(dict[str, ModelFacts]):
    """The facts of every recipe, by its name."""

    def __repr__(self) -> str:  # hypothesis prints its arguments
        return "models"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder: Path = tmp_path_factory.mktemp("models")
    return Models(
        (recipe.name, read_model(str(write_model(folder / f"{recipe.name}.gguf", recipe))))
        for recipe in RECIPES
    )


# --- placement ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (0, (CPU,) * 7),
        (1, (CPU,) * 6 + (0,)),
        (3, (CPU,) * 4 + (0,) * 3),
        (6, (CPU,) + (0,) * 6),
        (7, (0,) * 7),
        (999, (0,) * 7),
        (-1, (0,) * 7),
        (None, (0,) * 7),
    ],
)
def test_the_output_layer_goes_first_and_block_0_last(
    models: Models, layers: int | None, expected: tuple[int, ...]
) -> None:
    assert assign(models["llama-f32"], replace(BASE, layers=layers), 1) == expected


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ((1.0, 1.0), (0, 0, 0, 0, 1, 1, 1)),
        ((3.0, 1.0), (0, 0, 0, 0, 0, 0, 1)),
        ((0.0, 1.0), (1, 1, 1, 1, 1, 1, 1)),
        ((2.0, 1.0, 4.0), (0, 0, 1, 2, 2, 2, 2)),
    ],
)
def test_layers_are_shared_out_by_the_splits(
    models: Models, splits: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert assign(models["llama-f32"], replace(BASE, splits=splits), len(splits)) == expected


def test_free_memory_stands_in_for_splits(models: Models) -> None:
    by_splits = assign(models["llama-q8"], replace(BASE, splits=(3.0, 1.0)), 2)
    free = replace(BASE, free_bytes=(24 << 30, 8 << 30))
    assert assign(models["llama-q8"], free, 2) == by_splits


@pytest.mark.parametrize("splits", [(1.0,), (0.0, 0.0), (-1.0, 2.0), (1.0, float("nan"))])
def test_splits_that_make_no_sense_are_refused(models: Models, splits: tuple[float, ...]) -> None:
    with pytest.raises(Refused, match="splits"):
        predict(models["llama-f32"], replace(BASE, splits=splits), 2)


# --- weights ------------------------------------------------------------------------------------


def test_every_weight_is_somewhere_and_the_embedding_stays(models: Models) -> None:
    model = models["llama-f32"]
    unpadded = replace(BASE, traits=DeviceTraits(alignment=1))
    budget = predict(model, unpadded)
    embedding = 2048 * 256 * 4
    assert budget.host.model_bytes == embedding
    assert budget.devices[0].model_bytes == sum(t.size_bytes for t in model.tensors) - embedding


def test_tied_embeddings_are_doubled_on_the_output_device(models: Models) -> None:
    model = models["llama-tied"]
    embedding = 12288 * 256 * 2
    one = predict(model, replace(BASE, layers=1, traits=DeviceTraits(alignment=1)))
    assert one.devices[0].model_bytes == embedding + 256 * 4  # with the output norm
    none = predict(model, replace(BASE, layers=0))
    assert none.devices[0].total_bytes == 0
    assert none.host.model_bytes == sum(t.size_bytes for t in model.tensors)


def test_rope_factors_are_copied_to_every_device(models: Models) -> None:
    model = models["llama-q4k"]
    unpadded = replace(BASE, traits=DeviceTraits(alignment=1), splits=(1.0, 1.0))
    budget = predict(model, unpadded, 2)
    total = budget.host.model_bytes + sum(d.model_bytes for d in budget.devices)
    assert total == sum(t.size_bytes for t in model.tensors) + 32 * 4


def test_cuda_pads_tensors_and_odd_quantized_rows(models: Models) -> None:
    model = models["qwen2"]  # q8_0 rows of 320 and 960: 192 and 64 short of a multiple of 512
    plain = predict(model, replace(BASE, traits=DeviceTraits(alignment=1))).devices[0].model_bytes
    padded = predict(model, replace(BASE, traits=CUDA)).devices[0].model_bytes
    on_device = [t for t in model.tensors if t.block > 1]  # the tied embedding counts on it, too
    short = sum((-t.shape[0] % 512) // 32 * 34 for t in on_device)
    assert plain + short <= padded <= plain + short + 128 * len(model.tensors)


def test_overrides_keep_weights_on_the_host(models: Models) -> None:
    model = models["llama-f32"]
    kept = predict(model, replace(BASE, overrides=((r"blk\.[01]\.ffn_(up|down)", CPU),)))
    usual = predict(model, BASE)
    moved = usual.devices[0].model_bytes - kept.devices[0].model_bytes
    assert moved == 4 * 256 * 512 * 4
    assert kept.host.model_bytes == usual.host.model_bytes + moved
    assert kept.devices[0].kv_bytes == usual.devices[0].kv_bytes


def test_everything_overridden_leaves_no_weight(models: Models) -> None:
    budget = predict(models["llama-f32"], replace(BASE, overrides=((".*", CPU),)))
    assert budget.devices[0].model_bytes == 0
    assert budget.devices[0].layers == 7


@pytest.mark.parametrize("overrides", [(("(", CPU),), (("ffn", 5),)])
def test_wrong_overrides_are_refused(
    models: Models, overrides: tuple[tuple[str, int], ...]
) -> None:
    with pytest.raises(Refused, match="override"):
        predict(models["llama-f32"], replace(BASE, overrides=overrides))


def test_cpu_moe_keeps_the_first_experts(models: Models) -> None:
    model = models["qwen3moe"]
    experts = sum(t.size_bytes for t in model.tensors if "exps" in t.name)
    unpadded = replace(BASE, traits=DeviceTraits(alignment=1))
    usual, two, all_of_them = (
        predict(model, replace(unpadded, cpu_moe=number)).devices[0].model_bytes
        for number in (0, 2, 6)
    )
    assert usual - two == experts // 3
    assert usual - all_of_them == experts


# --- cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        ({}, 2048),
        ({"context": 2049}, 2304),
        ({"context": 1}, 256),
        ({"context": 0}, 8192),  # what it was trained for
        ({"slots": None}, 2048),
        ({"slots": 3}, 3 * 768),
        ({"slots": 3, "unified": True}, 2048),
        ({"slots": None, "unified": False}, 4 * 512),
    ],
)
def test_cells(models: Models, change: dict[str, int | bool | None], cells: int) -> None:
    load = replace(BASE, **change)  # type: ignore[arg-type]
    row = 2 * (4 * 32) * 2
    assert predict(models["llama-f32"], load).devices[0].kv_bytes == 6 * cells * row


@pytest.mark.parametrize(
    ("kind", "bytes_per_32"),
    [("f32", 128), ("bf16", 64), ("q8_0", 34), ("q5_1", 24), ("q5_0", 22), ("q4_0", 18)],
)
def test_cache_types(models: Models, kind: str, bytes_per_32: int) -> None:
    load = replace(BASE, cache_type_k=CacheType(kind))
    expected = 6 * 2048 * (4 * bytes_per_32 + 4 * 64)
    assert predict(models["llama-f32"], load).devices[0].kv_bytes == expected


def test_windowed_blocks_keep_fewer_cells(models: Models) -> None:
    model = models["gemma3"]
    assert [layer.window for layer in model.layers] == [512] * 5 + [0] + [512] * 5 + [0] + [512]
    row = 2 * 128 * 2
    long = replace(BASE, context=8192)
    kv = predict(model, long).devices[0].kv_bytes
    assert kv == row * (2 * 8192 + 11 * 768)
    assert predict(model, replace(long, swa_full=True)).devices[0].kv_bytes == row * 13 * 8192


def test_mla_caches_one_compressed_row(models: Models) -> None:
    assert predict(models["deepseek2"], BASE).devices[0].kv_bytes == 5 * 2048 * 160 * 2


def test_mamba_keeps_a_state_a_slot_whatever_the_context(models: Models) -> None:
    state = 6 * 4 * (3 * 512 + 16 * 512)
    for context in (256, 8192):
        budget = predict(models["mamba"], replace(BASE, context=context, slots=3))
        assert budget.devices[0].kv_bytes == 3 * state


def test_the_cache_can_stay_on_the_host(models: Models) -> None:
    budget = predict(models["llama-f32"], replace(BASE, kv_offload=False))
    assert budget.devices[0].kv_bytes == 0
    assert budget.host.kv_bytes == predict(models["llama-f32"], BASE).devices[0].kv_bytes


@pytest.mark.parametrize("load", [replace(BASE, slots=0), replace(BASE, context=-5)])
def test_no_context_is_refused(models: Models, load: LoadRequest) -> None:
    with pytest.raises(Refused, match="cannot be planned"):
        predict(models["llama-f32"], load)


# --- compute ------------------------------------------------------------------------------------


def test_compute_of_a_measured_load(models: Models) -> None:
    """2 MiB of mask and activations at ctx 2048, ub 256, as the log of a real server says."""
    device = predict(models["llama-f32"], replace(BASE, traits=VULKAN)).devices[0]
    assert device.compute_bytes <= device.compute_bound_bytes
    mask = 2 * 256 * 2048
    e, feed_forward = 4 * 256 * 256, 4 * 256 * 512
    assert device.compute_bytes == mask + 2 * e + 3 * feed_forward


def test_doubts_are_said(models: Models) -> None:
    assert predict(models["llama-f32"], BASE).caveats == ()
    doubtful = replace(BASE, flash_attention=None, cache_type_v=CacheType.Q5_1, splits=(1.0, 1.0))
    odd = replace(models["llama-f32"], unknown_family=True, architecture="novel", nextn=1)
    said = " ".join(predict(odd, doubtful, 2).caveats)
    for word in ("auto", "q5_1", "novel", "several GPUs", "next-token"):
        assert word in said


loads = st.builds(
    LoadRequest,
    layers=st.none() | st.integers(-1, 20),
    context=st.integers(1, 40_000),
    slots=st.none() | st.integers(1, 9),
    unified=st.none() | st.booleans(),
    cache_type_k=st.sampled_from(CacheType),
    cache_type_v=st.sampled_from(CacheType),
    batch=st.integers(1, 4096),
    micro_batch=st.integers(1, 2048),
    flash_attention=st.none() | st.booleans(),
    cpu_moe=st.integers(0, 9),
    swa_full=st.booleans(),
    kv_offload=st.booleans(),
    traits=st.sampled_from([CUDA, VULKAN]),
)


@given(st.sampled_from(sorted(RECIPE)), loads, st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_what_always_holds(models: Models, name: str, load: LoadRequest, devices: int) -> None:
    """Nothing is lost, the likely compute is within its bound, and one layer more never frees."""
    model = models[name]
    budget = predict(model, load, devices)
    assert len(budget.assigned) == budget.of == model.most_layers
    assert budget.layers == sum(device.layers for device in budget.devices)
    assert budget.host.layers + budget.layers == budget.of
    for device in (*budget.devices, budget.host):
        assert 0 <= device.compute_bytes <= device.compute_bound_bytes
        assert device.model_bytes >= 0
    nothing = predict(model, replace(load, layers=0), devices)
    everywhere = budget.host.kv_bytes + sum(device.kv_bytes for device in budget.devices)
    assert everywhere == nothing.host.kv_bytes
    if devices == 1 and load.layers is not None and 0 <= load.layers < budget.of:
        more = predict(model, replace(load, layers=load.layers + 1), devices).devices[0]
        assert more.model_bytes + more.kv_bytes >= (
            budget.devices[0].model_bytes + budget.devices[0].kv_bytes
        )
