"""The start of one run of a unit, out of a real journal: not of the run before it."""

from __future__ import annotations

import subprocess
import time

from agent.host.load_log import first_lines

UNIT = "labctl-test-first-lines.service"


def _run(word: str) -> str:
    """Run a unit that says 300 lines and stays; gives its invocation."""
    script = f"i=0; while [ $i -lt 300 ]; do echo {word} $i; i=$((i+1)); done; exec sleep 300"
    command = ["systemd-run", "--user", "--quiet", f"--unit={UNIT}", "/bin/sh", "-c"]
    subprocess.run([*command, script.replace("$", "$$")], check=True, timeout=20)
    show = ["systemctl", "--user", "show", UNIT, "--property=InvocationID", "--value"]
    return subprocess.run(show, check=True, timeout=20, stdout=-1, text=True).stdout.strip()


def _wait(invocation: str, lines: int) -> tuple[str, ...]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        read = first_lines(invocation)
        if len(read) >= lines:
            return read
        time.sleep(0.1)
    return first_lines(invocation)


def _stop() -> None:
    subprocess.run(["systemctl", "--user", "stop", UNIT], check=False, timeout=20)
    reset = ["systemctl", "--user", "reset-failed", UNIT]
    subprocess.run(reset, check=False, timeout=20, stderr=subprocess.DEVNULL)


def test_the_lines_of_one_run_are_read_and_no_others() -> None:
    try:
        first = _run("one")
        assert len(_wait(first, 300)) >= 300
        _stop()
        second = _run("two")
        lines = [line for line in _wait(second, 300) if line[:4] in ("one ", "two ")]
    finally:
        _stop()
    assert first != second
    assert lines == [f"two {number}" for number in range(300)]
    began = time.perf_counter()
    assert len(first_lines(second, limit=10)) == 10
    assert time.perf_counter() - began < 1
