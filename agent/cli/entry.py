"""The console script: start quickly, hand over to the verbs, leave at once."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line of this process.

    A verb lives for a moment and makes its garbage while it imports: the cycle collector would
    look through it a dozen times, for a quarter of the time that `labctl check` takes. Taking the
    interpreter down afterwards costs another 40 ms and has nothing to do: every file and lock is
    closed by its own block, and the kernel closes the rest.
    """
    gc.disable()
    code = _run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader has gone; there is nobody left to tell
            continue
    os._exit(code)


def _run(arguments: list[str]) -> int:
    """`labctl status`, typed every minute on a bad night, does not wait for the parser of all
    the other verbs: its two spellings are known here."""
    if arguments in (["status"], ["status", "--json"]):
        from agent.cli.boundary import explained

        def status() -> int:
            from agent.cli.look import show_status

            return show_status(as_json="--json" in arguments)

        return explained(status)
    from agent.cli.main import run

    return run(arguments)
