"""Stepping through the bytes of a GGUF header without believing a word of them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import cache
from typing import NoReturn

from agent.model.errors import ExitCode, LabctlError

MOST_HEADER_BYTES = 64 << 20
MOST_ELEMENTS = 1 << 22
"""Of one array of numbers, and of all lists of strings together."""

Scalar = int | float | bool | str
Read = Callable[[int, int], bytes]
"""`read(offset, size)` gives the bytes there; fewer only where the file ends."""

_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_FLOATS = {6: "<f", 12: "<d"}
_BOOL = 7
FIXED_TYPES = {
    kind: struct.Struct(code) for kind, code in (_INTEGERS | _FLOATS | {7: "<B"}).items()
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_WINDOW_BYTES = 1 << 20
_RUN = 256
_MOST_NAME_BYTES = 1024
_KEPT_STRING_BYTES = 4096
_KEPT_TOGETHER = 1 << 16


class DamagedGguf(LabctlError):
    """A file is not a GGUF file that can be trusted; the message names file and byte offset."""

    exit_code = ExitCode.REFUSED


@cache
def _short_run() -> re.Pattern[bytes]:
    """`_RUN` strings of up to 63 bytes: one match is three times as fast as a loop over them."""
    one = b"|".join(
        re.escape(bytes([length])) + rb"\x00{7}" + b".{%d}" % length for length in range(64)
    )
    return re.compile(b"(?s:%b){%d}+" % (one, _RUN))


class Cursor:
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
        fixed = FIXED_TYPES.get(kind)
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
