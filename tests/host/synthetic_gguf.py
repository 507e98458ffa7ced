"""Models of every measured family that hold nothing but zeros: right in every size, and loadable.

`write_model(out, recipe)` takes a few milliseconds. Unlike `tiny_gguf`, nothing sensible can be
generated: these files are for what a server reports while it loads.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

Shape = tuple[int, ...]
"""Innermost dimension first, as ggml writes it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model. `kind` is the type of all matrices, by ggml's name; norms are always F32."""

    name: str
    architecture: str
    kind: str = "F32"
    layers: int = 6
    width: int = 256
    heads: int = 8
    kv_heads: int = 4
    head_length: int = 32
    feed_forward: int = 512
    vocabulary: int = 2048
    context: int = 8192
    tied: bool = False
    window: int = 0
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 256
    rope_factors: bool = False


RECIPES = (
    Recipe("llama-f32", "llama"),
    Recipe("llama-q8", "llama", kind="Q8_0", layers=9, width=512, feed_forward=1536, heads=16),
    Recipe("llama-q4k", "llama", kind="Q4_K", layers=12, width=768, heads=12, kv_heads=4,
           head_length=64, feed_forward=2048, vocabulary=8192, rope_factors=True),
    Recipe("llama-tied", "llama", kind="F16", layers=4, tied=True, vocabulary=12288),
    Recipe("qwen2", "qwen2", kind="Q8_0", layers=8, width=320, heads=10, kv_heads=2,
           feed_forward=960, tied=True),
    Recipe("qwen3", "qwen3", kind="F16", layers=7, width=256, heads=8, kv_heads=2,
           head_length=64, feed_forward=768),
    Recipe("gemma3", "gemma3", kind="F16", layers=13, width=256, heads=4, kv_heads=1,
           head_length=128, feed_forward=1024, vocabulary=8192, tied=True, window=512),
    Recipe("qwen3moe", "qwen3moe", kind="Q8_0", layers=6, width=256, heads=8, kv_heads=2,
           head_length=64, experts=16, experts_used=4, expert_feed_forward=192),
    Recipe("deepseek2", "deepseek2", kind="F16", layers=5, width=256, heads=8, kv_heads=1,
           head_length=96, feed_forward=640, experts=8, experts_used=2, expert_feed_forward=128),
    Recipe("mamba", "mamba", kind="F32", layers=6, width=256),
)  # fmt: skip

WIDE_RECIPES = (
    Recipe("8b-like", "llama", kind="Q4_K", layers=3, width=4096, heads=32, kv_heads=8,
           head_length=128, feed_forward=14336, vocabulary=32000, context=32768),
    Recipe("qwen3-4b-like", "qwen3", kind="Q4_K", layers=3, width=2560, heads=32, kv_heads=8,
           head_length=128, feed_forward=9728, vocabulary=50000, context=32768, tied=True),
    Recipe("gemma3-4b-like", "gemma3", kind="Q4_K", layers=7, width=2560, heads=8, kv_heads=4,
           head_length=256, feed_forward=10240, vocabulary=50000, context=32768, tied=True,
           window=1024),
    Recipe("30b-a3b-like", "qwen3moe", kind="Q4_K", layers=2, width=2048, heads=32, kv_heads=4,
           head_length=128, experts=64, experts_used=8, expert_feed_forward=768,
           vocabulary=32000, context=32768),
)  # fmt: skip
"""A few layers each, as wide as those of models that people run; up to 600 MB."""

LORA_RANK, QUERY_RANK, ROPE = 128, 96, 32
_SSM = {"conv": 4, "inner": 512, "state": 16, "rank": 16}


def write_model(out: Path, recipe: Recipe, *, most_tensors: int = 0) -> Path:
    """Write `recipe` to `out` and return it; `most_tensors` above 0 splits it as llama.cpp does."""
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(out), recipe.architecture, split_max_tensors=most_tensors)
    _describe(writer, recipe)
    kind = gguf.GGMLQuantizationType[recipe.kind]
    for name, shape in tensors(recipe):
        matrix = len(shape) > 1 and "ssm_conv1d" not in name and "ssm_a" not in name
        _add_zeros(writer, name, shape, kind if matrix else gguf.GGMLQuantizationType.F32)
    with redirect_stdout(io.StringIO()):  # the writer may report to stdout, which is data here
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()
    return out


def _add_zeros(
    writer: gguf.GGUFWriter, name: str, shape: Shape, kind: gguf.GGMLQuantizationType
) -> None:
    outermost_first = tuple(reversed(shape))
    if kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, np.zeros(outermost_first, dtype=np.float32))
        return
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row = shape[0] // block * block_bytes
    zeros = np.zeros((*outermost_first[:-1], row), dtype=np.uint8)
    writer.add_tensor(name, zeros, raw_dtype=kind)


def _describe(writer: gguf.GGUFWriter, recipe: Recipe) -> None:
    mamba = recipe.architecture == "mamba"
    writer.add_name(recipe.name)
    writer.add_context_length(recipe.context)
    writer.add_embedding_length(recipe.width)
    writer.add_block_count(recipe.layers)
    writer.add_feed_forward_length(0 if mamba else recipe.feed_forward)
    writer.add_head_count(0 if mamba else recipe.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    if mamba:
        writer.add_ssm_conv_kernel(_SSM["conv"])
        writer.add_ssm_inner_size(_SSM["inner"])
        writer.add_ssm_state_size(_SSM["state"])
        writer.add_ssm_time_step_rank(_SSM["rank"])
    else:
        _describe_attention(writer, recipe)
    if recipe.window:
        writer.add_sliding_window(recipe.window)
    if recipe.experts:
        writer.add_expert_count(recipe.experts)
        writer.add_expert_used_count(recipe.experts_used)
        writer.add_expert_feed_forward_length(recipe.expert_feed_forward)
    _describe_tokens(writer, recipe.vocabulary)


def _describe_attention(writer: gguf.GGUFWriter, recipe: Recipe) -> None:
    writer.add_head_count_kv(recipe.kv_heads)
    if recipe.architecture != "deepseek2":
        writer.add_key_length(recipe.head_length)
        writer.add_value_length(recipe.head_length)
        writer.add_rope_dimension_count(recipe.head_length)
        return
    writer.add_q_lora_rank(QUERY_RANK)
    writer.add_kv_lora_rank(LORA_RANK)
    writer.add_key_length(LORA_RANK + ROPE)
    writer.add_value_length(LORA_RANK)
    writer.add_key_length_mla(recipe.head_length)
    writer.add_value_length_mla(recipe.head_length - ROPE)
    writer.add_rope_dimension_count(ROPE)
    writer.add_leading_dense_block_count(1)
    writer.add_expert_shared_count(1)
    writer.add_expert_weights_scale(1.0)


def _describe_tokens(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256
    words = vocabulary - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens + [f"\N{LOWER ONE EIGHTH BLOCK}w{word}" for word in range(words)])
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * words)
    writer.add_token_scores([0.0] * len(tokens) + [-float(rank) for rank in range(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def tensors(recipe: Recipe) -> Iterator[tuple[str, Shape]]:
    """Every tensor's name and shape."""
    yield "token_embd.weight", (recipe.width, recipe.vocabulary)
    yield "output_norm.weight", (recipe.width,)
    if not recipe.tied:
        yield "output.weight", (recipe.width, recipe.vocabulary)
    if recipe.rope_factors:
        yield "rope_freqs.weight", (recipe.head_length // 2,)
    for layer in range(recipe.layers):
        for name, shape in _block(recipe, layer):
            yield f"blk.{layer}.{name}", shape


def _block(recipe: Recipe, layer: int) -> Iterator[tuple[str, Shape]]:
    yield "attn_norm.weight", (recipe.width,)
    if recipe.architecture == "mamba":
        yield from _mamba(recipe)
        return
    yield from _mla(recipe) if recipe.architecture == "deepseek2" else _attention(recipe)
    yield "ffn_norm.weight", (recipe.width,)
    if recipe.experts and not (recipe.architecture == "deepseek2" and layer == 0):
        yield from _experts(recipe)
        return
    yield "ffn_gate.weight", (recipe.width, recipe.feed_forward)
    yield "ffn_up.weight", (recipe.width, recipe.feed_forward)
    yield "ffn_down.weight", (recipe.feed_forward, recipe.width)


def _attention(recipe: Recipe) -> Iterator[tuple[str, Shape]]:
    queries = recipe.heads * recipe.head_length
    keys = recipe.kv_heads * recipe.head_length
    yield "attn_q.weight", (recipe.width, queries)
    yield "attn_k.weight", (recipe.width, keys)
    yield "attn_v.weight", (recipe.width, keys)
    yield "attn_output.weight", (queries, recipe.width)
    if recipe.architecture == "qwen2":
        yield "attn_q.bias", (queries,)
        yield "attn_k.bias", (keys,)
        yield "attn_v.bias", (keys,)
    if recipe.architecture in ("qwen3", "qwen3moe", "gemma3"):
        yield "attn_q_norm.weight", (recipe.head_length,)
        yield "attn_k_norm.weight", (recipe.head_length,)
    if recipe.architecture == "gemma3":
        yield "post_attention_norm.weight", (recipe.width,)
        yield "post_ffw_norm.weight", (recipe.width,)


def _mla(recipe: Recipe) -> Iterator[tuple[str, Shape]]:
    plain = recipe.head_length - ROPE
    yield "attn_q_a.weight", (recipe.width, QUERY_RANK)
    yield "attn_q_a_norm.weight", (QUERY_RANK,)
    yield "attn_q_b.weight", (QUERY_RANK, recipe.heads * recipe.head_length)
    yield "attn_kv_a_mqa.weight", (recipe.width, LORA_RANK + ROPE)
    yield "attn_kv_a_norm.weight", (LORA_RANK,)
    yield "attn_k_b.weight", (plain, LORA_RANK, recipe.heads)
    yield "attn_v_b.weight", (LORA_RANK, plain, recipe.heads)
    yield "attn_output.weight", (recipe.heads * plain, recipe.width)


def _experts(recipe: Recipe) -> Iterator[tuple[str, Shape]]:
    width, inner = recipe.width, recipe.expert_feed_forward
    yield "ffn_gate_inp.weight", (width, recipe.experts)
    yield "ffn_gate_exps.weight", (width, inner, recipe.experts)
    yield "ffn_up_exps.weight", (width, inner, recipe.experts)
    yield "ffn_down_exps.weight", (inner, width, recipe.experts)
    if recipe.architecture == "deepseek2":
        yield "ffn_gate_shexp.weight", (width, inner)
        yield "ffn_up_shexp.weight", (width, inner)
        yield "ffn_down_shexp.weight", (inner, width)


def _mamba(recipe: Recipe) -> Iterator[tuple[str, Shape]]:
    inner, state, rank = _SSM["inner"], _SSM["state"], _SSM["rank"]
    yield "ssm_in.weight", (recipe.width, 2 * inner)
    yield "ssm_conv1d.weight", (_SSM["conv"], inner)
    yield "ssm_conv1d.bias", (inner,)
    yield "ssm_x.weight", (inner, rank + 2 * state)
    yield "ssm_dt.weight", (rank, inner)
    yield "ssm_dt.bias", (inner,)
    yield "ssm_a", (state, inner)
    yield "ssm_d", (inner,)
    yield "ssm_out.weight", (inner, recipe.width)
