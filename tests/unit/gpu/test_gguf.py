"""The header reader: what it reads, what it refuses and where, and that it cannot be blown up."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.gpu.facts import model_facts
from agent.gpu.gguf import GgufHeader, SkippedArray, read_header
from agent.gpu.gguf_cursor import MOST_ELEMENTS, MOST_HEADER_BYTES, DamagedGguf
from tests.unit.gpu.gguf_bytes import (
    ARRAY,
    INFOS,
    LLAMA,
    U64,
    boolean,
    header,
    info,
    numbers,
    small_llama,
    string,
    strings,
    text,
    u32,
)


def read_bytes(raw: bytes, size: int | None = None) -> GgufHeader:
    """The header of a file in memory that claims to have `size` bytes."""
    return read_header(
        lambda at, wanted: raw[at : at + wanted], len(raw) if size is None else size, "m.gguf"
    )


def refusal(raw: bytes, size: int | None = None) -> str:
    with pytest.raises(DamagedGguf) as caught:
        read_bytes(raw, size)
    assert caught.value.hint
    return caught.value.message


# --- what it reads ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_reads_keys_and_tensor_infos(version: int) -> None:
    raw = header(LLAMA, INFOS, version=version)
    found = read_bytes(raw, len(raw) + 300_000)
    assert found.version == version
    assert found.keys["general.name"] == "small"
    assert found.keys["llama.block_count"] == 2
    assert found.keys["llama.attention.head_count_kv"] == (4, 2)
    assert found.keys["llama.some_switch"] is True
    assert found.keys["tokenizer.ggml.tokens"] == SkippedArray(50)
    assert [tensor.name for tensor in found.tensors] == [
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "output.weight",
    ]
    assert [tensor.size_bytes for tensor in found.tensors] == [7200, 262144, 13600]
    assert found.data_offset == len(raw)


def test_the_digest_follows_the_header() -> None:
    same = read_bytes(small_llama()).digest
    assert read_bytes(small_llama() + b"more").digest == same
    other = header((*LLAMA, u32("llama.expert_count", 1)), INFOS) + bytes(300_000)
    assert read_bytes(other).digest != same


def test_facts_of_a_small_model() -> None:
    raw = small_llama()
    facts = model_facts([read_bytes(raw)], len(raw), "m.gguf")
    assert (facts.architecture, facts.name, facts.label) == ("llama", "small", "Q4_K_M")
    assert (facts.block_count, facts.most_layers, facts.vocabulary) == (2, 3, 50)
    assert [layer.kv_heads for layer in facts.layers] == [4, 2]
    assert facts.layers[0].key_length == 32
    assert not facts.tied
    assert facts.tensors[1].layer == 0
    assert facts.tensors[0].layer is None


def test_a_long_array_of_numbers_is_only_counted() -> None:
    raw = header([numbers("scores", range(5000)), u32("after", 7)], [])
    keys = read_bytes(raw).keys
    assert keys == {"scores": SkippedArray(5000), "after": 7}


def test_strings_longer_than_the_window_are_stepped_over() -> None:
    raw = header([strings("words", ["x" * 3_000_000, "y", "z" * 1_048_570]), u32("after", 7)], [])
    assert read_bytes(raw).keys == {"words": SkippedArray(3), "after": 7}


def test_an_overlong_text_is_dropped() -> None:
    assert read_bytes(header([string("chat", "x" * 5000)], [])).keys == {"chat": ""}


# --- what it refuses ----------------------------------------------------------------------------


def _huge(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + bytes(1000)


def _array(key: str, kind: int, count: int) -> bytes:
    return text(key) + struct.pack("<IIQ", ARRAY, kind, count)


def _one_tensor(raw: bytes) -> bytes:
    return header([], [raw]) + bytes(64)


REFUSED = {
    "empty": (b"", "it ends at byte 0"),
    "another format": (b"PK\3\4" + bytes(60), "starts with b'PK\\x03\\x04'"),
    "an HTML page": (b"<!DOCTYPE html>" + bytes(60), "(byte 0)"),
    "version 1": (b"GGUF" + struct.pack("<I", 1) + bytes(60), "its version is 1"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
    "2^60 tensors": (_huge(1 << 60, 0), "claims 1152921504606846976 tensors"),
    "2^63 keys": (_huge(0, 1 << 63), "claims 9223372036854775808 keys"),
    "more than fit": (_huge(0, 900), "claims 900 keys"),
    "a 2^63 name": (_huge(0, 1)[:24] + struct.pack("<Q", 1 << 63) + bytes(99), "(byte 24)"),
    "no name": (header([text("") + struct.pack("<II", 4, 1)], []), "0 bytes"),
    "a 2^63 string": (
        header([text("k") + struct.pack("<IQ", 8, 1 << 63)], []),
        "inside the header: it is cut short",
    ),
    "a 2^63 string in a list": (
        header([_array("k", 8, 1) + struct.pack("<Q", (1 << 63) - 1)], []),
        "a string in 'k' ends after the file",
    ),
    "2^62 numbers": (header([_array("k", 4, 1 << 62)], []), "elements in 'k'"),
    "an array of arrays": (header([_array("k", 9, 1)], []), "array of arrays"),
    "an array of nothing": (header([_array("k", 77, 1)], []), "unknown type 77"),
    "an unknown value": (header([text("k") + struct.pack("<IQ", 13, 1)], []), "unknown type 13"),
    "a third truth": (header([boolean("k", 2)], []), "neither true nor false"),
    "a key twice": (header([u32("k", 1), u32("k", 2)], []), "'k' stands there twice"),
    "a wrong name": (header([text(b"\xff\xfe") + struct.pack("<II", 4, 1)], []), "not UTF-8"),
    "alignment 0": (header([u32("general.alignment", 0)], []), "general.alignment is 0"),
    "alignment 48": (header([u32("general.alignment", 48)], []), "no power of two"),
    "5 dimensions": (_one_tensor(info("t", (1,) * 5, 0, 0)), "5 dimensions"),
    "no dimension": (_one_tensor(info("t", (), 0, 0)), "0 dimensions"),
    "an empty tensor": (_one_tensor(info("t", (4, 0), 0, 0)), "shape (4, 0)"),
    "an unknown type": (_one_tensor(info("t", (4,), 4, 0)), "unknown type 4"),
    "half a block": (_one_tensor(info("t", (33,), 8, 0)), "rows of 33 q8_0"),
    "a huge tensor": (_one_tensor(info("t", (1 << 62, 1 << 62), 0, 0)), "cut short"),
    "a far tensor": (_one_tensor(info("t", (4,), 0, 1 << 62)), "cut short"),
    "a crooked tensor": (_one_tensor(info("t", (4,), 0, 5)), "not a multiple of 32"),
    "an overlap": (
        header([], [info("a", (64,), 0, 0), info("b", (4,), 0, 64)]) + bytes(999),
        "'b' overlaps",
    ),
    "a tensor twice": (
        header([], [info("a", (8,), 0, 0), info("a", (8,), 0, 32)]) + bytes(99),
        "'a' stands there twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    raw, words = REFUSED[case]
    message = refusal(raw)
    assert words in message
    assert message.startswith("m.gguf is not a usable GGUF file: ")
    assert "(byte " in message


@pytest.mark.parametrize("cut", range(0, 600, 7))
def test_a_file_cut_anywhere_in_its_header_is_refused(cut: int) -> None:
    assert "(byte " in refusal(small_llama()[:cut])


def test_a_download_that_stopped_names_what_is_missing() -> None:
    raw = small_llama()
    message = refusal(raw[:-1000])
    assert "'output.weight' ends 1000 bytes after the file: it is cut short" in message


def test_a_disk_that_gives_less_than_the_file_has() -> None:
    assert "could be read" in refusal(small_llama()[:100], size=300_000)


def test_a_header_that_never_ends_is_refused_early() -> None:
    claimed = MOST_ELEMENTS
    start = header([], [])[:16] + struct.pack("<Q", 2) + _array("k", 8, claimed)
    asked = 0

    def read(at: int, wanted: int) -> bytes:
        nonlocal asked
        asked += wanted
        return (start[at : at + wanted] + bytes(wanted))[:wanted]

    with pytest.raises(DamagedGguf):
        read_header(read, 1 << 40, "m.gguf")
    assert asked <= 2 * MOST_HEADER_BYTES


def test_numbers_are_kept_up_to_a_limit() -> None:
    raw = header([_array(f"k{n}", 0, 4096) + bytes(4096) for n in range(200)], [])
    kept = [value for value in read_bytes(raw).keys.values() if isinstance(value, tuple)]
    assert sum(map(len, kept)) == 1 << 16


# --- wrong keys ---------------------------------------------------------------------------------

WRONG_KEYS = {
    "no architecture": ([u32("x", 1)], "general.architecture is missing"),
    "no blocks": ([string("general.architecture", "llama")], "llama.block_count is missing"),
    "no number of blocks": (
        [string("general.architecture", "llama"), string("llama.block_count", "two")],
        "llama.block_count is 'two'",
    ),
    "too many blocks": (
        [string("general.architecture", "llama"), u32("llama.block_count", 1 << 31)],
        "llama.block_count is 2147483648",
    ),
    "too few heads": (
        [
            string("general.architecture", "llama"),
            u32("llama.block_count", 3),
            u32("llama.embedding_length", 8),
            numbers("llama.attention.head_count", [1, 2]),
        ],
        "no list of 3 counts",
    ),
    "heads below 0": (
        [
            string("general.architecture", "llama"),
            u32("llama.block_count", 2),
            u32("llama.embedding_length", 8),
            numbers("llama.attention.head_count", [1, -2]),
        ],
        "no list of 2 counts",
    ),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_facts_refuse(case: str) -> None:
    keys, words = WRONG_KEYS[case]
    with pytest.raises(DamagedGguf, match="is not a usable GGUF model") as caught:
        model_facts([read_bytes(header(keys, []))], 100, "m.gguf")
    assert words in caught.value.message


# --- fuzz ---------------------------------------------------------------------------------------

_HEAD = header(LLAMA, INFOS)
_EVIL = st.sampled_from(
    [0, 1, 255, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 60, 1 << 63, (1 << 64) - 1]
)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """The header of a good file after a few changes."""
    raw = bytearray(_HEAD)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(raw) - 8, 0)))
        change = draw(st.sampled_from(["flip", "number", "cut", "insert", "drop", "repeat"]))
        if change == "flip" and raw:
            raw[at] ^= draw(st.integers(1, 255))
        elif change == "number":
            raw[at : at + 8] = struct.pack("<Q", draw(_EVIL))
        elif change == "cut":
            del raw[at:]
        elif change == "insert":
            raw[at:at] = draw(st.binary(max_size=40))
        elif change == "drop":
            del raw[at : at + draw(st.integers(1, 40))]
        else:
            raw[at:at] = raw[at : at + draw(st.integers(1, 200))]
    return bytes(raw)


def _facts_or_refusal(raw: bytes, size: int) -> str:
    """What came of it; any other exception fails the test."""
    try:
        facts = model_facts([read_bytes(raw, size)], size, "m.gguf")
    except DamagedGguf as refused:
        return refused.message
    assert facts.block_count > 0
    return facts.architecture


@given(mutations(), st.sampled_from([0, 300_000, 1 << 40]))
@settings(max_examples=1500, deadline=None)
def test_a_mutated_file_is_read_or_refused(raw: bytes, more: int) -> None:
    assert _facts_or_refusal(raw, len(raw) + more)


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_noise_behind_the_magic_is_read_or_refused(noise: bytes) -> None:
    raw = b"GGUF" + struct.pack("<I", 3) + noise
    assert _facts_or_refusal(raw, 1 << 40)


@pytest.mark.parametrize(("kind", "width"), [(0, 1), (2, 2), (12, 8)])
def test_the_worst_header_takes_bounded_memory(kind: int, width: int) -> None:
    """64 MiB of short arrays, which would be 1 GB as Python objects."""
    count = min(MOST_HEADER_BYTES // (4096 * width + 100), 8000)
    raw = header([_array(f"k{n}", kind, 4096) + bytes(4096 * width) for n in range(count)], [])
    tracemalloc.start()
    read_bytes(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_the_longest_lists_take_bounded_time() -> None:
    raw = header([_array(f"k{n}", 8, 1 << 20) + bytes(8 << 20) for n in range(4)], [])
    started = time.process_time()
    read_bytes(raw)
    assert time.process_time() - started < 5  # measured: 0.4 s
    raw = header([_array(f"k{n}", 8, 1 << 20) + bytes(8 << 20) for n in range(5)], [])
    assert "claims 1048576 strings in 'k4'" in refusal(raw)


def test_u64_counts_are_read_as_such() -> None:
    raw = header([text("k") + struct.pack("<IQ", U64, 1 << 63)], [])
    assert read_bytes(raw).keys["k"] == 1 << 63
