"""Reading the header of a GGUF file: its keys and tensor infos, never its tensors.

Layout (ggml's `docs/gguf.md`, little-endian, versions 2 and 3): magic, version, tensor count, key
count, the key-value pairs, the tensor infos, padding, the tensors. Nothing that the file claims is
believed before it is compared with the size of the file, and the work is bounded by it:
`MOST_HEADER_BYTES` at most are looked at.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, NoReturn

from agent.gpu.ggml_types import ELEMENT_TYPES
from agent.model.errors import LabctlError
from agent.model.gguf import TensorFacts

MAGIC = b"GGUF"
MOST_HEADER_BYTES = 64 << 20
MOST_TENSORS = 1 << 16
MOST_KEYS = 1 << 14
MOST_ELEMENTS = 1 << 22
KEPT_ELEMENTS = 4096
"""A longer array is skipped: none that the memory formula needs has one entry a token."""

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]
Read = Callable[[int, int], bytes]
"""`read(offset, size)` gives the bytes there; fewer only where the file ends."""


class DamagedGguf(LabctlError):
    """A file is not a GGUF file that can be trusted; the message names file and byte offset."""


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


_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_FLOATS = {6: "<f", 12: "<d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_FIXED = {kind: struct.Struct(code) for kind, code in (_INTEGERS | _FLOATS | {7: "<B"}).items()}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_WINDOW_BYTES = 1 << 20
_RUN = 256
_MOST_NAME_BYTES = 1024
_KEPT_STRING_BYTES = 4096
_KEPT_TOGETHER = 1 << 16


@cache
def _short_run() -> re.Pattern[bytes]:
    """`_RUN` strings of up to 63 bytes: one match is three times as fast as a loop over them."""
    one = b"|".join(
        re.escape(bytes([length])) + rb"\x00{7}" + b".{%d}" % length for length in range(64)
    )
    return re.compile(b"(?s:%b){%d}+" % (one, _RUN))


def read_header(read: Read, size_bytes: int, path: str) -> GgufHeader:
    """Read the header of the file at `path`, which has `size_bytes`.

    Raises `DamagedGguf` for anything that is not a whole, consistent header.
    """
    cursor = _Cursor(read, size_bytes, path)
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


def _version(cursor: _Cursor) -> int:
    magic = cursor.take(4)
    if magic != MAGIC:
        cursor.fail(f"it starts with {magic!r} instead of {MAGIC!r}", at=0)
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        cursor.fail("it is a big-endian file", at=4)
    if version not in (2, 3):
        cursor.fail(f"its version is {version}; 2 and 3 can be read", at=4)
    return version


def _read_keys(cursor: _Cursor, count: int) -> dict[str, Value | SkippedArray]:
    keys: dict[str, Value | SkippedArray] = {}
    for _ in range(count):
        at = cursor.at
        name = cursor.name("a key")
        if name in keys:
            cursor.fail(f"the key {name!r} stands there twice", at=at)
        keys[name] = _read_value(cursor, cursor.u32(), name)
    return keys


def _read_value(cursor: _Cursor, kind: int, name: str) -> Value | SkippedArray:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _read_array(cursor, name)
    return cursor.scalar(kind, name)


def _read_array(cursor: _Cursor, name: str) -> Value | SkippedArray:
    at = cursor.at
    kind = cursor.u32()
    if kind == _ARRAY:  # llama.cpp reads none either
        cursor.fail(f"{name!r} is an array of arrays", at=at)
    if kind == _STRING:
        length = cursor.count(f"strings in {name!r}", cursor.still_stepped, least_bytes=8)
        cursor.still_stepped -= length
        cursor.skip_strings(length, name)
        return SkippedArray(length)
    fixed = _FIXED.get(kind)
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


def _read_info(cursor: _Cursor) -> _Info:
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


def _alignment(keys: Mapping[str, Value | SkippedArray], cursor: _Cursor) -> int:
    alignment = keys.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        cursor.fail(f"general.alignment is {alignment!r}")
    if alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment}, which is no power of two")
    return alignment


def _checked(
    infos: list[_Info], data_offset: int, alignment: int, cursor: _Cursor
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


class _Cursor:
    """A place in the header; keeps one window of the file in memory.

    Every method raises `DamagedGguf` where the file ends or the header grows too long.
    """

    def __init__(self, read: Read, size_bytes: int, path: str) -> None:
        self.size_bytes = size_bytes
        self.path = path
        self.limit = min(size_bytes, MOST_HEADER_BYTES)
        self.still_kept = _KEPT_TOGETHER  # array elements, over all keys
        self.still_stepped = MOST_ELEMENTS  # strings, over all keys
        self._read = read
        self._window = b""
        self._start = 0
        self._next = 0

    @property
    def at(self) -> int:
        """Byte offset of what comes next."""
        return self._start + self._next

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Raise, naming the file and the byte offset."""
        raise DamagedGguf(
            f"{self.path} is not a usable GGUF file: {what} (byte {self.at if at is None else at})",
            hint="download or convert the model again, and compare its checksum",
        )

    def take(self, size: int) -> bytes:
        self._need(size)
        taken = self._window[self._next : self._next + size]
        self._next += size
        return taken

    def skip(self, size: int) -> None:
        self._inside(size)
        self._next += size
        if self._next > len(self._window):
            self._start, self._next, self._window = self.at, 0, b""

    def u32(self) -> int:
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A number of things of which each takes at least `least_bytes`."""
        at = self.at
        number = self.u64()
        if number > most or number * least_bytes > self.limit - self.at:
            self.fail(f"it claims {number} {what}, more than it can hold", at=at)
        return number

    def name(self, what: str) -> str:
        at = self.at
        length = self.u64()
        if not 0 < length <= _MOST_NAME_BYTES:
            self.fail(f"the name of {what} has {length} bytes", at=at)
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"the name of {what} is not UTF-8", at=at)

    def text(self) -> str:
        """A string value; what is not UTF-8 in it is replaced, since nothing depends on it."""
        length = self.u64()
        if length > _KEPT_STRING_BYTES:
            self.skip(length)
            return ""
        return self.take(length).decode("utf-8", "replace")

    def scalar(self, kind: int, name: str) -> Scalar:
        fixed = _FIXED.get(kind)
        if fixed is None:
            self.fail(f"{name!r} has the unknown type {kind}")
        value: Scalar = fixed.unpack(self.take(fixed.size))[0]
        if kind != _BOOL:
            return value
        if value not in (0, 1):
            self.fail(f"{name!r} is {value}, neither true nor false", at=self.at - 1)
        return value == 1

    def skip_strings(self, count: int, name: str) -> None:
        """Step over `count` strings; a vocabulary with its merges has 400,000."""
        unpack = _U64.unpack_from
        short_run = _short_run().match
        left = count
        while left:
            self._need(8)
            window, place, last = self._window, self._next, len(self._window) - 8
            while left >= _RUN and (run := short_run(window, place)) is not None:
                place = run.end()
                left -= _RUN
            for _ in range(min(left, _RUN)):  # long ones, the last ones, or the window's end
                if place > last:
                    break
                place += 8 + unpack(window, place)[0]
                left -= 1
            if self._start + place > self.limit:
                self.fail(f"a string in {name!r} ends after the file, or is too long")
            self.skip(place - self._next)

    def _inside(self, size: int) -> None:
        if size > self.limit - self.at:
            if self.limit < self.size_bytes:
                self.fail(f"its header takes more than {MOST_HEADER_BYTES >> 20} MiB")
            self.fail(f"it ends at byte {self.size_bytes}, inside the header: it is cut short")

    def _need(self, size: int) -> None:
        """Have `size` bytes from here in the window."""
        if self._next + size <= len(self._window):
            return
        self._inside(size)
        self._start, self._next = self.at, 0
        wanted = min(max(size, _WINDOW_BYTES), self.limit - self._start)
        self._window = self._read(self._start, wanted)
        if len(self._window) < size:
            self.fail(f"only {len(self._window)} of {size} bytes could be read")
