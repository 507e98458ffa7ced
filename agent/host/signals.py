"""Ctrl-C and SIGTERM, delivered only where the work can be undone cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from agent.model.errors import ExitCode, Interrupted

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class HostSignals:
    """Remembers signals; raises `Interrupted` inside `interruptible` blocks alone.

    One interruption is delivered once: the unwinding that follows it runs to its end.
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._open = False
        self._delivered = False

    def install(self) -> None:
        """Take over both signals for this process."""
        for number in _NAMES:
            signal.signal(number, self._arrived)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        self._open = True
        try:
            self._deliver()
            yield
        finally:
            self._open = False

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._pending = number
        if self._open:
            self._deliver()

    def _deliver(self) -> None:
        if self._pending is None or self._delivered:
            return
        number = signal.Signals(self._pending)
        self._delivered = True
        raise Interrupted(f"interrupted by {_NAMES[number]}", exit_code=_CODES[number])
