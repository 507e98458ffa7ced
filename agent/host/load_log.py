"""The first lines that one run of a unit wrote: where llama.cpp tells of its load."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from contextlib import suppress

from agent.host.journal import plain

FIRST_LINES = 2000
_READ_SIZE = 65536
_INVOCATION = re.compile(r"[0-9a-f]{32}")


def first_lines(
    invocation: str,
    *,
    limit: int = FIRST_LINES,
    program: str = "journalctl",
    timeout_s: float = 5.0,
) -> tuple[str, ...]:
    """The first `limit` lines of a run, oldest first; empty where the journal has none of it.

    A journal that rotated the start of a run away gives lines without the load, which proves
    nothing; so does one that does not answer in time. The end of a long log is never read.
    """
    if not _INVOCATION.fullmatch(invocation):
        return ()
    command = [program, "--quiet", "--no-pager", "-o", "cat", f"_UID={os.getuid()}"]
    try:
        process = subprocess.Popen(
            [*command, f"_SYSTEMD_INVOCATION_ID={invocation}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return ()
    try:
        text = _head(process, limit, time.monotonic() + timeout_s)
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=timeout_s)
        if process.stdout is not None:
            process.stdout.close()
    return tuple(plain(line) for line in text.splitlines()[:limit])


def _head(process: subprocess.Popen[bytes], limit: int, deadline: float) -> str:
    assert process.stdout is not None
    descriptor, pieces, lines = process.stdout.fileno(), [], 0
    while lines < limit and (left_s := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left_s)[0]:
            break
        data = os.read(descriptor, _READ_SIZE)
        if not data:
            break
        pieces.append(data)
        lines += data.count(b"\n")
    return b"".join(pieces).decode(errors="replace")
