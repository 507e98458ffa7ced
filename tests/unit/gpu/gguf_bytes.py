"""GGUF headers made byte by byte, so that tests can make wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

U32, I32, FLOAT, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def u32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", U32, value)


def string(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", STRING) + text(value)


def boolean(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<IB", BOOL, value)


def strings(key: str, values: Sequence[str | bytes]) -> bytes:
    head = struct.pack("<IIQ", ARRAY, STRING, len(values))
    return text(key) + head + b"".join(map(text, values))


def numbers(key: str, values: Sequence[int]) -> bytes:
    head = struct.pack("<IIQ", ARRAY, I32, len(values))
    return text(key) + head + struct.pack(f"<{len(values)}i", *values)


def info(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def header(
    keys: Iterable[bytes], infos: Iterable[bytes], *, version: int = 3, alignment: int = 32
) -> bytes:
    """A whole header, padded to where the tensors start."""
    keys, infos = list(keys), list(infos)
    raw = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(keys))
    raw += b"".join(keys) + b"".join(infos)
    return raw + bytes(-len(raw) % alignment)


LLAMA = (
    string("general.architecture", "llama"),
    string("general.name", "small"),
    u32("general.file_type", 15),
    u32("llama.block_count", 2),
    u32("llama.embedding_length", 256),
    u32("llama.attention.head_count", 8),
    numbers("llama.attention.head_count_kv", [4, 2]),
    u32("llama.feed_forward_length", 512),
    u32("llama.context_length", 4096),
    boolean("llama.some_switch", 1),
    strings("tokenizer.ggml.tokens", [f"token{number}" for number in range(50)]),
)
INFOS = (
    info("token_embd.weight", (256, 50), 12, 0),
    info("blk.0.attn_q.weight", (256, 256), 0, 7200),
    info("output.weight", (256, 50), 8, 269344),
)
DATA_BYTES = 269344 + 256 * 50 // 32 * 34


def small_llama() -> bytes:
    """A whole file."""
    return header(LLAMA, INFOS) + bytes(DATA_BYTES)
