"""What the memory formula needs to know of a model, out of the headers of its files.

The defaults and the per-family rules are those of llama.cpp's `load_hparams` (build b10068).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NoReturn, TypeGuard

from agent.gpu.ggml_types import LABELS
from agent.gpu.gguf import GgufHeader, SkippedArray, Value
from agent.gpu.gguf_cursor import DamagedGguf, Scalar
from agent.model.gguf import LayerFacts, MlaFacts, ModelFacts, RecurrentFacts

MEASURED_FAMILIES = frozenset(
    ("llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma3", "deepseek2", "mamba")
)
"""Architectures that `tests/bench/offload_grid.py` compares with a real server."""

_MOST_BLOCKS = 4096
_MOST_COUNT = 1 << 40
_WINDOW_PERIODS = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "olmo2": 4,
}
"""Of so many blocks each last one attends to everything; other families have no windows unless
the file has a pattern of its own."""
_ALL_RECURRENT = frozenset(("mamba", "mamba2"))


def model_facts(headers: Sequence[GgufHeader], file_bytes: int, path: str) -> ModelFacts:
    """The facts of one model: `headers` of all its parts in order, `file_bytes` of all together.

    Raises `DamagedGguf` when a key is missing or makes no sense.
    """
    keys = _Keys(headers[0], path)
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        keys.fail("a tensor stands in two of its parts")
    blocks = keys.number("block_count", least=1, most=_MOST_BLOCKS)
    nextn = keys.number("nextn_predict_layers", 0, most=blocks - 1)
    mla = _mla(keys, any(name.endswith("attn_k_b.weight") for name in names))
    experts = keys.number("expert_count", 0)
    widest = max(keys.per_block("feed_forward_length", blocks, 0))
    return ModelFacts(
        architecture=keys.architecture,
        name=keys.text("general.name"),
        label=LABELS.get(keys.whole("general.file_type", -1), ""),
        file_bytes=file_bytes,
        files=len(headers),
        train_context=keys.number("context_length", 0),
        width=keys.number("embedding_length", least=1),
        layers=_layers(keys, blocks, nextn, mla),
        nextn=nextn,
        vocabulary=_vocabulary(headers[0], keys),
        experts=experts,
        experts_used=keys.number("expert_used_count", 0, most=max(experts, 0)),
        expert_feed_forward=keys.number("expert_feed_forward_length", widest) if experts else 0,
        tensors=tensors,
        recurrent=_recurrent(keys),
        mla=mla,
        digest=_digest(headers),
        unknown_family=keys.architecture not in MEASURED_FAMILIES,
    )


class _Keys:
    """Typed access to the keys of a file; a short name is below its architecture."""

    def __init__(self, header: GgufHeader, path: str) -> None:
        self._values = header.keys
        self._path = path
        self.architecture = self.text("general.architecture")
        if not self.architecture:
            self.fail("general.architecture is missing")

    def fail(self, what: str) -> NoReturn:
        raise DamagedGguf(
            f"{self._path} is not a usable GGUF model: {what}",
            hint="only language models can be planned; a vocabulary or an adapter is none",
        )

    def get(self, short: str) -> Value | SkippedArray | None:
        return self._values.get(f"{self.architecture}.{short}")

    def text(self, name: str) -> str:
        value = self._values.get(name, "")
        return value if isinstance(value, str) else ""

    def whole(self, name: str, default: int) -> int:
        """An integer by its full name, or `default` where it is none."""
        value = self._values.get(name)
        return value if _is_count(value) else default

    def number(
        self, short: str, default: int | None = None, *, least: int = 0, most: int = _MOST_COUNT
    ) -> int:
        value = self.get(short)
        if value is None and default is not None:
            return default
        if not _is_count(value) or not least <= value <= most:
            self.fail(f"{self.architecture}.{short} is {_shown(value)}")
        return value

    def per_block(self, short: str, blocks: int, default: int | None = None) -> tuple[int, ...]:
        """One number a block: an array, or one number for all."""
        value = self.get(short)
        if not isinstance(value, tuple):
            return (self.number(short, default),) * blocks
        counts = tuple(entry for entry in value if _is_count(entry) and entry <= _MOST_COUNT)
        if len(counts) != len(value) or len(counts) < blocks:
            self.fail(f"{self.architecture}.{short} is no list of {blocks} counts")
        return counts[:blocks]


def _is_count(value: Value | SkippedArray | None) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Value | SkippedArray | None) -> str:
    return "missing" if value is None else repr(value)[:60]


def _layers(keys: _Keys, blocks: int, nextn: int, mla: MlaFacts | None) -> tuple[LayerFacts, ...]:
    width = keys.number("embedding_length", least=1)
    heads = keys.per_block("attention.head_count", blocks, 0)
    kv_heads = _kv_heads(keys, blocks, heads)
    feed_forward = keys.per_block("feed_forward_length", blocks, 0)
    windows = _windows(keys, blocks)
    recurrent = _recurrent_blocks(keys, blocks, kv_heads)
    most_heads = max(heads)
    usual = width // most_heads if most_heads else 0
    key = keys.number("attention.key_length", usual)
    value = keys.number("attention.value_length", usual)
    windowed = (
        keys.number("attention.key_length_swa", key),
        keys.number("attention.value_length_swa", value),
    )
    own_cache = blocks - nextn - keys.number("attention.shared_kv_layers", 0, most=blocks)
    return tuple(
        LayerFacts(
            heads=heads[block],
            kv_heads=1 if mla is not None and mla.absorbed else kv_heads[block],
            key_length=windowed[0] if windows[block] else key,
            value_length=windowed[1] if windows[block] else value,
            feed_forward=feed_forward[block],
            window=windows[block],
            recurrent=recurrent[block],
            cached=not recurrent[block] and kv_heads[block] > 0 and block < own_cache,
        )
        for block in range(blocks)
    )


def _kv_heads(keys: _Keys, blocks: int, heads: tuple[int, ...]) -> tuple[int, ...]:
    if keys.get("attention.head_count_kv") is None:
        return heads
    return keys.per_block("attention.head_count_kv", blocks)


def _windows(keys: _Keys, blocks: int) -> tuple[int, ...]:
    """The window of each block, 0 for none."""
    window = keys.number("attention.sliding_window", 0)
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) >= blocks:
        return tuple(window if _is_set(entry) else 0 for entry in pattern[:blocks])
    period = _WINDOW_PERIODS.get(keys.architecture)
    if period is not None and _is_count(pattern):
        period = pattern
    if period is None or not window:
        return (0,) * blocks
    return tuple(
        window if period == 0 or block % period < period - 1 else 0 for block in range(blocks)
    )


def _is_set(entry: Scalar) -> bool:
    return not isinstance(entry, str) and entry != 0


def _recurrent(keys: _Keys) -> RecurrentFacts | None:
    inner = keys.number("ssm.inner_size", 0)
    if not inner:
        return None
    return RecurrentFacts(
        conv=keys.number("ssm.conv_kernel", 0),
        inner=inner,
        state=keys.number("ssm.state_size", 0),
        groups=keys.number("ssm.group_count", 0),
    )


def _recurrent_blocks(keys: _Keys, blocks: int, kv_heads: tuple[int, ...]) -> tuple[bool, ...]:
    """Which blocks keep a state: all of Mamba's, and in hybrids those without KV heads."""
    if not keys.number("ssm.inner_size", 0):
        return (False,) * blocks
    if keys.architecture in _ALL_RECURRENT:
        return (True,) * blocks
    interval = keys.number("full_attention_interval", 0)
    if interval:
        return tuple((block + 1) % interval != 0 for block in range(blocks))
    return tuple(count == 0 for count in kv_heads)


def _mla(keys: _Keys, absorbed: bool) -> MlaFacts | None:
    rank = keys.number("attention.kv_lora_rank", 0)
    if not rank:
        return None
    cached = rank + keys.number("rope.dimension_count", 0)
    return MlaFacts(
        lora_rank=rank,
        key_length=keys.number("attention.key_length", cached),
        head_key_length=keys.number("attention.key_length_mla", 0),
        head_value_length=keys.number("attention.value_length_mla", 0),
        absorbed=absorbed,
    )


def _vocabulary(header: GgufHeader, keys: _Keys) -> int:
    """Tokens: the list's length, or what the file says, or the rows of the embedding."""
    tokens = header.keys.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.length
    rows = [t.shape[1] for t in header.tensors if t.name == "token_embd.weight" and t.shape[1:]]
    return keys.number("vocab_size", rows[0] if rows else 0)


def _digest(headers: Sequence[GgufHeader]) -> str:
    return hashlib.sha256("".join(header.digest for header in headers).encode()).hexdigest()
