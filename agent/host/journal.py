"""What a user unit wrote to the journal."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping

_LINE_LIMIT = 2000
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_RUN_FIELDS = ("_SYSTEMD_INVOCATION_ID", "USER_INVOCATION_ID")


class UserJournal:
    """Reads the journal through `journalctl`; every call is bounded by `timeout_s`."""

    def __init__(self, program: str = "journalctl", timeout_s: float = 5.0) -> None:
        self._program = program
        self._timeout_s = timeout_s

    def tail(self, unit: str, lines: int, invocation: str = "") -> tuple[str, ...]:
        """The last lines of a unit, oldest first, without control characters.

        With `invocation` those of that run: its own output and what systemd says of it. A journal
        that cannot be read is one line in brackets that says so.
        """
        command = [self._program, "--quiet", "--no-pager", "-o", "json", "-n", str(4 * lines)]
        try:
            done = subprocess.run(
                [*command, *matches(unit)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return (f"[the journal does not answer within {self._timeout_s:g} s]",)
        except OSError as error:
            return (f"[the journal cannot be read: {error}]",)
        if done.returncode != 0:
            words = plain(done.stderr.decode(errors="replace").strip())
            return (f"[the journal cannot be read: {words}]",)
        return _said(done.stdout, invocation)[-lines:]


def matches(unit: str) -> list[str]:
    """The journal matches of a user unit.

    Explicit, because `--user` finds nothing where journald keeps one journal for all users, as it
    does with volatile storage. The third one finds what a process wrote that died so early that
    journald could not see its control group (systemd issue 2913).
    """
    uid, name = os.getuid(), unit.removesuffix(".service")
    alternatives = (f"_SYSTEMD_USER_UNIT={unit}", f"USER_UNIT={unit}", f"SYSLOG_IDENTIFIER={name}")
    words: list[str] = []
    for alternative in alternatives:
        words += ["+", alternative, f"_UID={uid}"]
    return words[1:]


def follow_command(unit: str, lines: int, follow: bool) -> list[str]:
    """The command that shows a unit's journal to a person."""
    command = ["journalctl", "--quiet", "-n", str(lines), "-o", "short-iso"]
    return [*command, "-f" if follow else "--no-pager", *matches(unit)]


def plain(line: str) -> str:
    """One line without control characters: a log must not steer the terminal."""
    text = _COLOURS.sub("", line).expandtabs()
    return "".join(c for c in text if c.isprintable())[:_LINE_LIMIT]


def _said(output: bytes, invocation: str) -> tuple[str, ...]:
    """The messages in journalctl's JSON lines that are of one run, or of no known run."""
    texts: list[str] = []
    for line in output.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        runs = {entry.get(field) for field in _RUN_FIELDS} - {None}
        if not invocation or not runs or invocation in runs:
            texts += [plain(text) for text in _message(entry).splitlines()]
    return tuple(texts)


def _message(entry: Mapping[str, object]) -> str:
    """The message; journalctl writes one that is not UTF-8 as a list of bytes."""
    message = entry.get("MESSAGE")
    if isinstance(message, list):
        return bytes(b for b in message if isinstance(b, int)).decode(errors="replace")
    return message if isinstance(message, str) else ""
