"""Bytes of the compute buffer: what is likely, and a bound that is not exceeded.

llama.cpp's allocator reuses memory by the order of the graph, which no closed formula follows to
the byte. `docs/memory-formula.md` derives the terms and tells how far off they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.gpu.memory_cache import layer_cache_bytes, micro_batch, stream_cells, windowed_cells
from agent.model.gguf import CPU, CacheType, LoadRequest, ModelFacts

_SLACK = 128 << 10
_COPIES = 4
"""Pipelining over several devices keeps so many copies of what the graph's parts take in."""
_PIPELINE_TENTHS = 26
"""Several devices at full offload need 1.8 to 2.5 times as much each: measured, not derived."""


def compute_bytes(
    model: ModelFacts, load: LoadRequest, assigned: tuple[int, ...], devices: int, device: int
) -> tuple[int, int]:
    """(likely, bound) of one of `devices`; (0, 0) of a device without layers."""
    if device not in assigned:
        return 0, 0
    sizes = _sizes(model, load)
    likely = sizes.likely
    bound = _partial_bound(model, load, sizes) if _is_partial(load, assigned) else sizes.bound
    if devices < 2:
        return likely, bound
    copies = (_COPIES - 1) * (sizes.mask + sizes.e) + _scan_copies(load, sizes, assigned, device)
    return likely + copies, max(
        bound * _PIPELINE_TENTHS // 10, bound + copies + sizes.mask // 4 + 2 * (sizes.e + sizes.q)
    )


def host_compute_bytes(
    model: ModelFacts, load: LoadRequest, assigned: tuple[int, ...], devices: int
) -> tuple[int, int]:
    """(likely, bound) of the host: inputs and masks, and the work of the layers that it keeps."""
    sizes = _sizes(model, load)
    likely = sizes.mask + 2 * sizes.e + (0 if load.traits.scans_mamba1 else 4 * sizes.inner)
    bound = likely + 2 * sizes.e + sizes.q + sizes.outputs + 4 * sizes.inner + _SLACK
    streamed_mla = _streamed_mla(model, load) * sizes.q
    bound += streamed_mla
    if devices > 1:
        scans = sum(_scan_copies(load, sizes, assigned, at) for at in set(assigned) - {CPU})
        likely += (_COPIES - 1) * sizes.mask + scans
        bound += (
            (_COPIES - 1) * (sizes.mask + sizes.e + sizes.outputs) + scans * 5 // 4 + 2 * sizes.q
        )
        bound += _COPIES * len(model.layers) * streamed_mla
    if CPU in assigned[:-1] or _keeps_weights(load) or not load.kv_offload:
        return max(sizes.likely, likely), max(_partial_bound(model, load, sizes), bound)
    return likely, bound


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The terms of the formula, in bytes; e, q and k are the activations' width, queries, keys."""

    mask: int
    inner: int
    scan: int
    e: int
    q: int
    k: int
    outputs: int
    likely: int
    bound: int


def _sizes(model: ModelFacts, load: LoadRequest) -> _Sizes:
    tokens = micro_batch(model, load)
    row = 4 * tokens
    heads = max(layer.heads for layer in model.layers)
    kv_heads = max(layer.kv_heads for layer in model.layers)
    key_length = max(layer.key_length for layer in model.layers)
    flash = load.flash_attention is not False
    e = row * model.width
    q = row * heads * key_length
    k = row * kv_heads * key_length
    outputs = 4 * model.vocabulary * load.slot_count
    dense = 2 * e + 3 * row * _feed_forward(model) + (q if _norms_queries(model) else 0)
    usual, most = _experts(model, row, e)
    cells = stream_cells(model, load)[1] if any(layer.cached for layer in model.layers) else 0
    mask = (1 if flash else 2) * 2 * tokens * (cells + _windowed(model, load))
    inner, scan = _recurrent(model, row)
    attention = 2 * e + 2 * k + (2 * q if flash else row * cells * heads)
    if model.mla is not None:
        attention += row * heads * model.mla.head_key_length
    common = mask + _cast(model, load)
    likely = common + max(usual or dense, attention, outputs, 6 * inner)
    plain = 0 if flash else 2 * q + _largest_cache(model, load) // (2 if model.mla is None else 1)
    bound = max(likely, common + dense, common + most)
    bound += e + q + 2 * k + plain + 2 * (inner + scan) + _SLACK
    return _Sizes(mask, inner, scan, e, q, k, outputs, likely, bound)


def _norms_queries(model: ModelFacts) -> bool:
    """Normalized queries leave a gap in the buffer that the feed-forward part cannot use."""
    return any(tensor.name == "blk.0.attn_q_norm.weight" for tensor in model.tensors)


def _experts(model: ModelFacts, row: int, e: int) -> tuple[int, int]:
    """(likely, bound) of the experts' part; zeros for a dense model.

    Each of the experts used has an output of the model's width; where their inner rows are as
    wide as those, the allocator reuses them.
    """
    if not model.experts:
        return 0, 0
    inner = row * model.expert_feed_forward * model.experts_used
    outputs = e * model.experts_used
    wide = 2 * outputs + inner + 2 * e
    return (inner + outputs // 2 if inner >= outputs else wide), wide + outputs // 2


def _cast(model: ModelFacts, load: LoadRequest) -> int:
    """Flash attention reads a cache of F32 through copies in F16."""
    types = (load.cache_type_k, load.cache_type_v)
    if load.flash_attention is False or CacheType.F32 not in types:
        return 0
    shares = 1 if model.mla is not None else 2  # MLA copies its rows twice: as keys, as values
    return _largest_cache(model, load) // shares + _SLACK


def _largest_cache(model: ModelFacts, load: LoadRequest) -> int:
    """Bytes of the block that caches most."""
    return max(layer_cache_bytes(model, load, layer) for layer in model.layers)


def _recurrent(model: ModelFacts, row: int) -> tuple[int, int]:
    """Bytes of a state block's inner activations, and of what a scan takes besides them."""
    if model.recurrent is None:
        return 0, 0
    return row * model.recurrent.inner, 2 * row * model.recurrent.state


def _feed_forward(model: ModelFacts) -> int:
    """Elements a token that the widest feed-forward part works on."""
    widest = max(layer.feed_forward for layer in model.layers)
    if not model.experts:
        return widest
    return max(widest, model.expert_feed_forward * max(model.experts_used, 1))


def _windowed(model: ModelFacts, load: LoadRequest) -> int:
    windows = [layer.window for layer in model.layers if layer.window]
    return windowed_cells(model, load, max(windows)) if windows else 0


def _keeps_weights(load: LoadRequest) -> bool:
    """Some weights of layers on devices stay on the host."""
    return load.cpu_moe > 0 or any(device == CPU for _, device in load.overrides)


def _is_partial(load: LoadRequest, assigned: tuple[int, ...]) -> bool:
    return CPU in assigned or _keeps_weights(load) or not load.kv_offload


def _scan_copies(load: LoadRequest, sizes: _Sizes, assigned: tuple[int, ...], device: int) -> int:
    """Where the host must scan, each block on a device hands its activations over and back."""
    if load.traits.scans_mamba1:
        return 0
    return _COPIES * assigned[:-1].count(device) * 3 * (sizes.inner + sizes.scan)


def _streamed_mla(model: ModelFacts, load: LoadRequest) -> bool:
    """Vulkan computes MLA over several caches partly on the host, block by block."""
    return model.mla is not None and stream_cells(model, load)[0] > 1


def _partial_bound(model: ModelFacts, load: LoadRequest, sizes: _Sizes) -> int:
    """Weights and caches of the host are copied to the device for large batches."""
    blocks = [tensor for tensor in model.tensors if tensor.layer is not None]
    largest = max((tensor.size_bytes for tensor in blocks), default=0)
    expert = max((t.size_bytes for t in blocks if "exps" in t.name), default=0)
    cache = _largest_cache(model, load)
    copied = 0
    if load.flash_attention is False:  # the values are transposed; MLA takes them out of the keys
        copied = (2 if model.mla is None else 3) * cache
    return max(
        sizes.bound + sizes.e + sizes.q + 2 * largest + copied,
        sizes.mask + 2 * expert + 3 * sizes.e,
        sizes.mask + 2 * sizes.e + 3 * sizes.q + 2 * cache,
    )
