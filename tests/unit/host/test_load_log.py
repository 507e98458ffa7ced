"""Reading the start of a run, from a program that speaks as journalctl does."""

from __future__ import annotations

import time
from pathlib import Path

from agent.gpu.log_lines import parse_load_log
from agent.host.load_log import first_lines

RUN = "0123456789abcdef0123456789abcdef"
LOGS = Path(__file__).parents[2] / "data" / "offload"


def program(folder: Path, script: str) -> str:
    path = folder / "journalctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_load_of_one_run_is_read(tmp_path: Path) -> None:
    asks = program(tmp_path, f'echo "$@" >{tmp_path}/asked; cat {LOGS}/normal.log')
    lines = first_lines(RUN, program=asks)
    assert parse_load_log(lines).told
    assert f"_SYSTEMD_INVOCATION_ID={RUN}" in (tmp_path / "asked").read_text()


def test_an_endless_log_is_not_read_to_its_end(tmp_path: Path) -> None:
    began = time.monotonic()
    lines = first_lines(RUN, limit=50, program=program(tmp_path, "exec yes line"))
    assert lines == ("line",) * 50 and time.monotonic() - began < 4


def test_a_journal_that_does_not_answer_is_left(tmp_path: Path) -> None:
    began = time.monotonic()
    asks = program(tmp_path, "echo one; exec sleep 30")
    assert first_lines(RUN, program=asks, timeout_s=0.3) == ("one",)
    assert time.monotonic() - began < 5


def test_what_is_no_run_is_not_asked_for(tmp_path: Path) -> None:
    asks = program(tmp_path, f"touch {tmp_path}/asked; echo one")
    assert first_lines("", program=asks) == ()
    assert first_lines("x _UID=0", program=asks) == ()
    assert not (tmp_path / "asked").exists()
    assert first_lines(RUN, program=str(tmp_path / "absent")) == ()


def test_a_log_does_not_steer_the_terminal(tmp_path: Path) -> None:
    asks = program(tmp_path, r"printf '\033[31mred\033[0m\n'")
    assert first_lines(RUN, program=asks) == ("red",)
