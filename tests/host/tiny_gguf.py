"""A random Llama model of about 1 MB that real llama.cpp servers load and complete with.

`python tiny_gguf.py OUT [--name NAME] [--seed N]` writes it in well under a second. The weights are
noise, so the text means nothing, but the file is a true GGUF: 4 layers of width 64, a byte-level
SentencePiece vocabulary, and a few dozen words. Only words can win the sampling: bytes and
control tokens have output rows of zeros, so that an answer is always valid UTF-8 and a chat
parser never fails on it.
"""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import gguf
import numpy as np

LAYERS = 4
WIDTH = 64
HEADS = 4
KV_HEADS = 2
FEED_FORWARD = 192
CONTEXT = 2048
WORDS = (
    "a deploy is proved or the last good state comes back by itself and the message says why "
    "one rename switches all of it unit model gateway layer chain plan record probe lab host"
)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def write_tiny_model(out: Path, name: str = "tiny", seed: int = 0) -> Path:
    """Write the model to `out` and return it. The same name and seed give the same bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(out), "llama")
    words = list(dict.fromkeys(WORDS.split()))
    _describe(writer, name, words)
    for tensor, values in _tensors(np.random.default_rng(seed), 259 + len(words)):
        writer.add_tensor(tensor, values)
    with redirect_stdout(io.StringIO()):  # the writer may report to stdout, which is data here
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()
    return out


def _describe(writer: gguf.GGUFWriter, name: str, words: list[str]) -> None:
    writer.add_name(name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256
    writer.add_token_list(tokens + [f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in words])
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * len(words))
    writer.add_token_scores([0.0] * len(tokens) + [-float(rank) for rank in range(len(words))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")


def _tensors(random: np.random.Generator, vocabulary: int) -> list[tuple[str, Array]]:
    """Every tensor's name and values; a matrix has the shape (outputs, inputs)."""

    def noise(*shape: int, scale: float = 0.1) -> Array:
        values: Array = random.normal(0.0, scale, shape).astype(np.float32)
        return values

    ones: Array = np.ones(WIDTH, dtype=np.float32)
    kv_width = WIDTH // HEADS * KV_HEADS
    output = noise(vocabulary, WIDTH, scale=1.0)
    output[:259] = 0.0
    tensors = [("token_embd.weight", noise(vocabulary, WIDTH, scale=1.0))]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors += [
            (block + "attn_norm.weight", ones),
            (block + "attn_q.weight", noise(WIDTH, WIDTH)),
            (block + "attn_k.weight", noise(kv_width, WIDTH)),
            (block + "attn_v.weight", noise(kv_width, WIDTH)),
            (block + "attn_output.weight", noise(WIDTH, WIDTH)),
            (block + "ffn_norm.weight", ones),
            (block + "ffn_gate.weight", noise(FEED_FORWARD, WIDTH)),
            (block + "ffn_up.weight", noise(FEED_FORWARD, WIDTH)),
            (block + "ffn_down.weight", noise(WIDTH, FEED_FORWARD)),
        ]
    return [*tensors, ("output_norm.weight", ones), ("output.weight", output)]


def main(arguments: list[str]) -> int:
    """The command line; 0 when the file is written."""
    parser = argparse.ArgumentParser(description="Write a tiny random Llama GGUF.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="tiny", help="general.name of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    options = parser.parse_args(arguments)
    write_tiny_model(options.out, options.name, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
