"""The memory formula: which layer goes where, and the bytes that every device then holds.

`predict` is pure. The rules are llama.cpp's (build b10068), measured by
`tests/bench/offload_grid.py`; `docs/memory-formula.md` states them with their errors.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from agent.gpu.memory_cache import cache_bytes
from agent.gpu.memory_compute import compute_bytes, host_compute_bytes
from agent.model.errors import Refused
from agent.model.gguf import (
    CPU,
    Budget,
    CacheType,
    DeviceBudget,
    DeviceTraits,
    LoadRequest,
    ModelFacts,
    TensorFacts,
)

_INPUT_TENSORS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")
_COPIED_TENSORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
_FLASH_TYPES = (CacheType.F32, CacheType.F16, CacheType.BF16, CacheType.Q8_0, CacheType.Q4_0)
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")


def predict(model: ModelFacts, load: LoadRequest, devices: int = 1) -> Budget:
    """What `load` of `model` takes on each of `devices` GPUs and on the host.

    Raises `Refused` when the request contradicts itself: another number of splits than devices, a
    regular expression that cannot be read, a context that is not known.
    """
    assigned = assign(model, load, devices)
    held = _model_bytes(model, load, assigned, devices)
    cached = cache_bytes(model, load, assigned, devices)
    active = sum(device != CPU for device in assigned)
    budgets = []
    for device in range(devices):
        layers = assigned.count(device)
        likely, bound = compute_bytes(model, load, assigned, devices, device)
        budgets.append(DeviceBudget(held[device], cached[device], likely, bound, layers))
    likely, bound = host_compute_bytes(model, load, assigned, devices)
    host = DeviceBudget(held[CPU], cached[CPU], likely, bound, assigned.count(CPU))
    return Budget(
        layers=active,
        of=model.most_layers,
        devices=tuple(budgets),
        host=host,
        assigned=assigned,
        caveats=_caveats(model, load, devices),
    )


def assign(model: ModelFacts, load: LoadRequest, devices: int) -> tuple[int, ...]:
    """The device of each block and, last, of the output layer.

    The last `layers` of the L + 1 layers are on devices, shared out by the splits; so one layer
    is the output layer alone, and L layers leave block 0 on the host.
    """
    most = model.most_layers
    asked = most if load.layers is None or load.layers < 0 else min(load.layers, most)
    if devices == 0 or asked == 0:
        return (CPU,) * most
    bounds = _cumulative(_splits(load, devices))
    start = most - asked
    return tuple(
        CPU
        if layer < start
        else min(bisect_right(bounds, _f32((layer - start) / asked)), devices - 1)
        for layer in range(most)
    )


def _splits(load: LoadRequest, devices: int) -> tuple[float, ...]:
    splits = load.splits or tuple(map(float, load.free_bytes)) or (1.0,) * devices
    if len(splits) != devices or min(splits) < 0 or not 0 < sum(splits) < float("inf"):
        raise Refused(
            f"{len(splits)} splits {splits} were given for {devices} GPUs",
            hint="give one weight a GPU, none below 0 and not all 0",
        )
    return splits


def _cumulative(splits: Sequence[float]) -> list[float]:
    """Upper bounds as llama.cpp has them, in single precision: a layer on a bound must match."""
    sums = list(accumulate(splits, lambda total, split: _f32(total + split)))
    return [_f32(bound / sums[-1]) for bound in sums]


def _f32(number: float) -> float:
    value: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return value


# --- weights ------------------------------------------------------------------------------------


def _model_bytes(
    model: ModelFacts, load: LoadRequest, assigned: tuple[int, ...], devices: int
) -> dict[int, int]:
    """Bytes of the weights by device; those of the host are unpadded."""
    held = dict.fromkeys((CPU, *range(devices)), 0)
    overrides = _overrides(load)
    for tensor in model.tensors:
        for planned in _places(tensor, model, assigned):
            device = _overridden(tensor.name, planned, overrides, load.cpu_moe)
            if _is_mamba1_matrix(tensor) and not load.traits.scans_mamba1:
                device = CPU
            if device not in held:
                raise Refused(f"an override sends {tensor.name} to GPU {device}, which is not used")
            held[device] += tensor.size_bytes if device == CPU else _padded(tensor, load.traits)
    return held


def _places(tensor: TensorFacts, model: ModelFacts, assigned: tuple[int, ...]) -> tuple[int, ...]:
    """The devices that get a copy of a tensor."""
    stem = tensor.name.partition(".")[0]
    if stem in _COPIED_TENSORS:  # one copy wherever there are blocks
        return tuple(dict.fromkeys(assigned[:-1]))
    if stem in _INPUT_TENSORS:
        tied = stem == "token_embd" and model.tied and assigned[-1] != CPU
        return (CPU, assigned[-1]) if tied else (CPU,)
    layer = tensor.layer
    if layer is None:
        return (assigned[-1],)
    return (assigned[layer],) if layer < len(assigned) - 1 else ()


def _is_mamba1_matrix(tensor: TensorFacts) -> bool:
    """The matrix A of a scan with a state a channel; Mamba-2 has one number a head."""
    return tensor.name.endswith(".ssm_a") and tensor.shape[0] > 1


def _padded(tensor: TensorFacts, traits: DeviceTraits) -> int:
    size = tensor.size_bytes
    short = -tensor.shape[0] % traits.row_multiple if tensor.block > 1 else 0
    size += -(-short // tensor.block) * tensor.block_bytes
    return -(-size // traits.alignment) * traits.alignment


def _overrides(load: LoadRequest) -> list[tuple[re.Pattern[str], int]]:
    compiled = []
    for pattern, device in load.overrides:
        try:
            compiled.append((re.compile(pattern), device))
        except re.error as error:
            raise Refused(f"the override {pattern!r} is no regular expression: {error}") from error
    return compiled


def _overridden(
    name: str, device: int, overrides: list[tuple[re.Pattern[str], int]], cpu_moe: int
) -> int:
    for pattern, target in overrides:
        if pattern.search(name):
            return target
    if cpu_moe and _EXPERTS.search(name):
        block = name.split(".")[1]
        if block.isdigit() and int(block) < cpu_moe:
            return CPU
    return device


def _caveats(model: ModelFacts, load: LoadRequest, devices: int) -> tuple[str, ...]:
    said = []
    if model.unknown_family:
        said.append(f"the family {model.architecture} was not measured: ask the oracle")
    if load.flash_attention is None:
        said.append("flash attention is auto and counted as on: without it compute takes more")
    if load.cache_type_k != load.cache_type_v or load.cache_type_k not in _FLASH_TYPES:
        said.append(
            f"cache types {load.cache_type_k} and {load.cache_type_v}: many builds have no flash "
            "attention for them on the GPU and compute it on the host"
        )
    if devices > 1:
        said.append("compute on several GPUs is bounded coarsely: ask the oracle")
    if model.nextn:
        said.append(f"{model.nextn} blocks for next-token prediction are counted as loaded")
    return tuple(said)
