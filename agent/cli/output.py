"""stdout is data, stderr is narration. Colour only on a terminal, and never as the only sign."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum

_STYLES = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2"}


def wants_colour(stream: object) -> bool:
    """Whether `stream` is a terminal and nobody asked for plain text."""
    isatty = getattr(stream, "isatty", None)
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return bool(isatty and isatty() and not plain)


def paint(text: str, style: str, *, colour: bool) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour and text else text


def say(line: str = "") -> None:
    """One line of data."""
    sys.stdout.write(f"{line}\n")


def tell(line: str = "") -> None:
    """One line of narration."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def say_json(value: object, *, compact: bool = False) -> None:
    """A JSON value, with dataclasses as objects and enums as their values."""
    text = json.dumps(plain(value), indent=None if compact else 2, ensure_ascii=False)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def plain(value: object) -> object:
    """Only what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned by spaces; the last one may be long."""
    cells = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    return [
        "  ".join(
            cell if i == len(row) - 1 else cell.ljust(widths[i]) for i, cell in enumerate(row)
        ).rstrip()
        for row in cells
    ]
