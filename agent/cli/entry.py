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
    from agent.cli.main import run

    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader has gone; there is nobody left to tell
            continue
    os._exit(code)
