"""Bytes of the KV cache and of recurrent states: exact."""

from __future__ import annotations

from agent.model.errors import Refused
from agent.model.gguf import CPU, CacheType, LayerFacts, LoadRequest, ModelFacts

CELL_MULTIPLE = 256


def pad(number: int, multiple: int = CELL_MULTIPLE) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def context_tokens(model: ModelFacts, load: LoadRequest) -> int:
    """The context of all slots together, padded as the cache is.

    Raises `Refused` where neither the request nor the file tells it.
    """
    asked = load.context or model.train_context
    if asked <= 0 or load.slot_count < 1:
        raise Refused(
            f"a context of {asked} tokens for {load.slot_count} slots cannot be planned",
            hint="give a context and a number of slots above 0",
        )
    if load.is_unified:
        return pad(asked)
    return pad(pad(asked) // load.slot_count) * load.slot_count


def stream_cells(model: ModelFacts, load: LoadRequest) -> tuple[int, int]:
    """How many caches there are, and the cells of each."""
    tokens = context_tokens(model, load)
    streams = 1 if load.is_unified else load.slot_count
    return streams, tokens // streams


def micro_batch(model: ModelFacts, load: LoadRequest) -> int:
    """Tokens that are computed at once."""
    return min(load.micro_batch, load.batch, context_tokens(model, load))


def windowed_cells(model: ModelFacts, load: LoadRequest, window: int) -> int:
    """Cells of each cache of a sliding-window block."""
    cells = stream_cells(model, load)[1]
    if load.swa_full:
        return cells
    sharing = load.slot_count if load.is_unified else 1
    return min(cells, pad(window * sharing + micro_batch(model, load)))


def cache_bytes(
    model: ModelFacts, load: LoadRequest, assigned: tuple[int, ...], devices: int
) -> dict[int, int]:
    """Bytes by device; everything is the host's where the cache is not offloaded."""
    held = dict.fromkeys((CPU, *range(devices)), 0)
    for block, layer in enumerate(model.layers):
        device = assigned[block] if load.kv_offload else CPU
        held[device] += layer_cache_bytes(model, load, layer)
    return held


def layer_cache_bytes(model: ModelFacts, load: LoadRequest, layer: LayerFacts) -> int:
    """Bytes that one block keeps for all slots."""
    size = 0
    if layer.recurrent and model.recurrent is not None:
        facts = model.recurrent
        row = (facts.conv - 1) * (facts.inner + 2 * facts.groups * facts.state)
        size += load.slot_count * 4 * (row + facts.state * facts.inner)
    if not layer.cached:
        return size
    streams, cells = stream_cells(model, load)
    if layer.window:
        cells = windowed_cells(model, load, layer.window)
    row = _row(load.cache_type_k, _key_elements(model, layer))
    row += _row(load.cache_type_v, _value_elements(model, layer))
    return size + streams * cells * row


def _key_elements(model: ModelFacts, layer: LayerFacts) -> int:
    if model.mla is not None and model.mla.absorbed:
        return model.mla.key_length
    return layer.kv_heads * layer.key_length


def _value_elements(model: ModelFacts, layer: LayerFacts) -> int:
    """MLA reads its values out of the key rows."""
    if model.mla is not None and model.mla.absorbed:
        return 0
    return layer.kv_heads * layer.value_length


def _row(kind: CacheType, elements: int) -> int:
    """Bytes of one row; a quantized row is whole blocks."""
    if kind.quantized and elements % 32:
        raise Refused(
            f"a cache of type {kind} needs rows of whole blocks of 32; the model has {elements}",
            hint="use f16 or bf16 for this model's cache",
        )
    return elements * kind.bytes_per_32 // 32
