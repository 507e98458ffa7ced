"""secrets.env, read as systemd reads an `EnvironmentFile=`.

Source of the grammar: `parse_env_file_internal` in systemd's src/basic/env-file.c (252).
Nothing here ever puts a value into a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = " \t\r"
# Inside double quotes only these lose their backslash (SHELL_NEED_ESCAPE).
_ESCAPABLE = '"\\`$'


class Secret(NamedTuple):
    """One assignment. Its repr is not for people: it holds the value."""

    name: str
    value: str
    line: int
    column: int


class BadLine(NamedTuple):
    """A place that systemd would skip or read otherwise than it looks. Never holds a value."""

    line: int
    column: int
    message: str
    hint: str


class SecretsFile(NamedTuple):
    """Assignments in order, and what is wrong."""

    secrets: tuple[Secret, ...]
    bad: tuple[BadLine, ...]


def secret_values(text: str) -> dict[str, str]:
    """Variable → value, as systemd would set them; of two equal names the last counts."""
    return {secret.name: secret.value for secret in parse_secrets(text).secrets}


def parse_secrets(text: str) -> SecretsFile:
    """Text of secrets.env → its assignments, and every line that is none."""
    scan = _Scan(text)
    while scan.more:
        _statement(scan)
    return SecretsFile(tuple(scan.secrets), tuple(scan.bad))


@dataclass(slots=True)
class _Scan:
    """A place in the text."""

    text: str
    index: int = 0
    line: int = 1
    line_start: int = 0
    secrets: list[Secret] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)

    @property
    def more(self) -> bool:
        return self.index < len(self.text)

    @property
    def column(self) -> int:
        return self.index - self.line_start + 1

    def next(self) -> str:
        char = self.text[self.index]
        self.index += 1
        if char == "\n":
            self.line += 1
            self.line_start = self.index
        return char

    def complain(self, line: int, column: int, message: str, hint: str) -> None:
        self.bad.append(BadLine(line, column, message, hint))


def _statement(scan: _Scan) -> None:
    """One comment, one assignment, or one line that is neither."""
    while scan.more and scan.text[scan.index] in " \t\r\n":
        scan.next()
    if not scan.more:
        return
    if scan.text[scan.index] in "#;":
        _comment(scan)
        return
    line, column = scan.line, scan.column
    end = scan.text.find("\n", scan.index)
    end = len(scan.text) if end < 0 else end
    # systemd takes the first character into the name whatever it is, even a `=`.
    equals = scan.text.find("=", scan.index + 1, end)
    if equals < 0:
        scan.index = end
        scan.complain(line, column, "this line is no `NAME=value`", "comment it out with `#`")
        return
    name = scan.text[scan.index : equals].rstrip(_BLANK)
    scan.index = equals + 1
    value = _value(scan)
    if NAME.fullmatch(name):
        scan.secrets.append(Secret(name, value, line, column))
        if "\n" in value:
            message = f"the value of `{name}` goes over more than one line"
            scan.complain(line, column, message, "close its quote on the same line")
    elif name.startswith("export ") and NAME.fullmatch(name[7:].strip()):
        hint = "this is no shell script: remove `export`"
        scan.complain(line, column, "systemd skips a line that begins with `export`", hint)
    else:
        # The name is not shown: a value pasted alone, such as a base64 key, may hold a `=`.
        hint = "letters, digits and `_`, not starting with a digit"
        scan.complain(line, column, "what stands before `=` is no variable name", hint)


def _comment(scan: _Scan) -> None:
    line, column = scan.line, scan.column
    while scan.more:
        char = scan.next()
        if char == "\n":
            return
        if char == "\\" and scan.more and scan.next() == "\n":
            message = "the comment ends in a backslash, so systemd skips the next line too"
            scan.complain(line, column, message, "remove the backslash")


def _value(scan: _Scan) -> str:
    """The value that begins here: unquoted text and quoted parts, up to the line's end."""
    parts: list[str] = []
    kept = 0
    bare = False
    while scan.more:
        char = scan.next()
        if char == "\n":
            break
        if not bare and char in "'\"":
            parts.append(_quoted(scan, char))
            kept = len(parts)
            continue
        if not bare and char in _BLANK:
            continue
        # From here on quotes are plain characters, and only trailing blanks are dropped.
        bare = True
        escaped = char == "\\"
        if escaped:
            char = scan.next() if scan.more else "\n"
        if not (escaped and char == "\n"):
            parts.append(char)
        if escaped or char not in _BLANK:
            kept = len(parts)
    return "".join(parts[:kept])


def _quoted(scan: _Scan, quote: str) -> str:
    line, column = scan.line, scan.column - 1
    parts: list[str] = []
    while scan.more:
        char = scan.next()
        if char == quote:
            return "".join(parts)
        if char == "\\" and quote == '"':
            escaped = scan.next() if scan.more else "\n"
            if escaped != "\n":
                parts.append(escaped if escaped in _ESCAPABLE else "\\" + escaped)
        else:
            parts.append(char)
    scan.complain(line, column, "a quote is opened and never closed", "close it")
    return "".join(parts)
