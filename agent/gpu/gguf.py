"""Reading the header of a GGUF file: its keys and tensor infos, never its tensors.

Layout (ggml's `docs/gguf.md`, little-endian, versions 2 and 3): magic, version, tensor count, key
count, the key-value pairs, the tensor infos, padding, the tensors. Nothing that the file claims is
believed before it is compared with the size of the file, and the work is bounded by it:
`MOST_HEADER_BYTES` at most are looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.gpu.ggml_types import ELEMENT_TYPES
from agent.gpu.gguf_cursor import FIXED_TYPES, MOST_ELEMENTS, Cursor, Read, Scalar
from agent.model.gguf import TensorFacts

MAGIC = b"GGUF"
MOST_TENSORS = 1 << 16
MOST_KEYS = 1 << 14
KEPT_ELEMENTS = 4096
"""A longer array is skipped: none that the memory formula needs has one entry a token."""
_STRING, _ARRAY = 8, 9

Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array of which only the length was read."""

    length: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of one file.

    Attributes:
        keys: scalars and short arrays of numbers; other arrays by their length only. A string of
            more than 4 KiB, such as a chat template, is empty.
        tensors: in the order of the file.
        data_offset: where the tensors start.
        digest: SHA-256 (hex) of everything above.
    """

    version: int
    keys: Mapping[str, Value | SkippedArray]
    tensors: tuple[TensorFacts, ...]
    data_offset: int
    digest: str


def read_header(read: Read, size_bytes: int, path: str) -> GgufHeader:
    """Read the header of the file at `path`, which has `size_bytes`.

    Raises `DamagedGguf` for anything that is not a whole, consistent header.
    """
    cursor = Cursor(read, size_bytes, path)
    version = _version(cursor)
    tensor_count = cursor.count("tensors", MOST_TENSORS, least_bytes=24)
    key_count = cursor.count("keys", MOST_KEYS, least_bytes=13)
    keys = _read_keys(cursor, key_count)
    infos = [_read_info(cursor) for _ in range(tensor_count)]
    alignment = _alignment(keys, cursor)
    data_offset = -(-cursor.at // alignment) * alignment
    tensors = _checked(infos, data_offset, alignment, cursor)
    digest = hashlib.sha256(repr((version, keys, infos)).encode("utf-8", "replace")).hexdigest()
    return GgufHeader(version, keys, tensors, data_offset, digest)


def _version(cursor: Cursor) -> int:
    magic = cursor.take(4)
    if magic != MAGIC:
        cursor.fail(f"it starts with {magic!r} instead of {MAGIC!r}", at=0)
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        cursor.fail("it is a big-endian file", at=4)
    if version not in (2, 3):
        cursor.fail(f"its version is {version}; 2 and 3 can be read", at=4)
    return version


def _read_keys(cursor: Cursor, count: int) -> dict[str, Value | SkippedArray]:
    keys: dict[str, Value | SkippedArray] = {}
    for _ in range(count):
        at = cursor.at
        name = cursor.name("a key")
        if name in keys:
            cursor.fail(f"the key {name!r} stands there twice", at=at)
        keys[name] = _read_value(cursor, cursor.u32(), name)
    return keys


def _read_value(cursor: Cursor, kind: int, name: str) -> Value | SkippedArray:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _read_array(cursor, name)
    return cursor.scalar(kind, name)


def _read_array(cursor: Cursor, name: str) -> Value | SkippedArray:
    at = cursor.at
    kind = cursor.u32()
    if kind == _ARRAY:  # llama.cpp reads none either
        cursor.fail(f"{name!r} is an array of arrays", at=at)
    if kind == _STRING:
        length = cursor.count(f"strings in {name!r}", cursor.still_stepped, least_bytes=8)
        cursor.still_stepped -= length
        cursor.skip_strings(length, name)
        return SkippedArray(length)
    fixed = FIXED_TYPES.get(kind)
    if fixed is None:
        cursor.fail(f"{name!r} is an array of the unknown type {kind}", at=at)
    length = cursor.count(f"elements in {name!r}", MOST_ELEMENTS, least_bytes=fixed.size)
    if length > min(KEPT_ELEMENTS, cursor.still_kept):
        cursor.skip(length * fixed.size)
        return SkippedArray(length)
    cursor.still_kept -= length
    return tuple(cursor.scalar(kind, name) for _ in range(length))


class _Info(NamedTuple):
    """One tensor info as the file has it; `at` is where it stands."""

    at: int
    facts: TensorFacts
    offset: int


def _read_info(cursor: Cursor) -> _Info:
    at = cursor.at
    name = cursor.name("a tensor")
    dimensions = cursor.u32()
    if not 1 <= dimensions <= 4:
        cursor.fail(f"the tensor {name!r} has {dimensions} dimensions", at=at)
    shape = tuple(cursor.u64() for _ in range(dimensions))
    if min(shape) == 0:
        cursor.fail(f"the tensor {name!r} has the shape {shape}", at=at)
    number = cursor.u32()
    element = ELEMENT_TYPES.get(number)
    if element is None:
        cursor.fail(f"the tensor {name!r} has the unknown type {number}", at=at)
    if shape[0] % element.block:
        cursor.fail(f"{name!r} has rows of {shape[0]} {element.name} elements", at=at)
    facts = TensorFacts(name, shape, element.name, element.block, element.block_bytes)
    return _Info(at, facts, cursor.u64())


def _alignment(keys: Mapping[str, Value | SkippedArray], cursor: Cursor) -> int:
    alignment = keys.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        cursor.fail(f"general.alignment is {alignment!r}")
    if alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment}, which is no power of two")
    return alignment


def _checked(
    infos: list[_Info], data_offset: int, alignment: int, cursor: Cursor
) -> tuple[TensorFacts, ...]:
    """Every tensor lies inside the file, is aligned, and overlaps no other."""
    names: set[str] = set()
    end = 0
    for at, facts, offset in sorted(infos, key=lambda info: info.offset):
        if facts.name in names:
            cursor.fail(f"the tensor {facts.name!r} stands there twice", at=at)
        names.add(facts.name)
        if offset % alignment:
            cursor.fail(f"{facts.name!r} lies at {offset}, not a multiple of {alignment}", at=at)
        if offset < end:
            cursor.fail(f"{facts.name!r} overlaps the tensor before it", at=at)
        end = offset + facts.size_bytes
        if data_offset + end > cursor.size_bytes:
            missing = data_offset + end - cursor.size_bytes
            cursor.fail(
                f"{facts.name!r} ends {missing} bytes after the file: it is cut short", at=at
            )
    return tuple(info.facts for info in infos)
