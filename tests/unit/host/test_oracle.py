"""Asking a program for its figures: a real table, programs that misbehave, and the cache."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agent.host.oracle import Oracle, parse_devices, parse_row
from agent.model.placement import ListedDevice, OracleDevice

TABLE = """\
0.00.067 I common_memory_breakdown_print: | memory breakdown [MiB]  | total   free    self   model \
  context   compute    unaccounted |
0.00.068 I common_memory_breakdown_print: |   - Vulkan0 (llvmpipe (LLVM 15.0.6, 256 bits)) |  2048 \
= 2048 + (  90 =     3 +      16 +      71) +          -2 |
0.00.068 I common_memory_breakdown_print: |   - CUDA1 (RTX 3090)   | 24576 = 23000 + \
(18124 = 15000 +    3000 +     124) +         400 |
0.00.068 I common_memory_breakdown_print: |   - Host               |                    3 =     0 \
+       1 +       2                |
"""
VULKAN0, CUDA1 = OracleDevice("Vulkan0", 3, 16, 71), OracleDevice("CUDA1", 15000, 3000, 124)
HOST = OracleDevice("Host", 0, 1, 2)


def program(folder: Path, script: str, table: str = TABLE) -> str:
    (folder / "table").write_text(table)
    path = folder / "llama-server"
    told = script.format(table=folder / "table")
    path.write_text(f"#!/bin/sh\necho run >>{folder}/runs\n{told}\n")
    path.chmod(0o755)
    return str(path)


def runs(folder: Path) -> int:
    return (folder / "runs").read_text().count("run") if (folder / "runs").exists() else 0


def test_every_row_of_the_table_is_read() -> None:
    rows = [row for line in TABLE.splitlines() if (row := parse_row(line))]
    assert rows == [VULKAN0, CUDA1, HOST]
    assert parse_row(TABLE.splitlines()[1].replace("common_memory_breakdown_print", "chat")) is None


def test_the_devices_are_read() -> None:
    row = "  Vulkan0: llvmpipe (LLVM 15.0.6, 256 bits) (2048 MiB, 2040 MiB free)"
    text = f"Available devices:\n{row}\n"
    assert parse_devices(text) == (
        ListedDevice("Vulkan0", "llvmpipe (LLVM 15.0.6, 256 bits)", 2048, 2040),
    )
    assert parse_devices("Available devices:\n") == ()


def test_the_program_is_killed_once_it_has_told(tmp_path: Path) -> None:
    asks = program(tmp_path, "cat {table}; echo $$ >" + f"{tmp_path}/pid; exec sleep 60")
    began = time.monotonic()
    figures = Oracle(str(tmp_path)).ask(asks, ["-ngl", "5"], "header")
    assert figures is not None and time.monotonic() - began < 5
    assert figures.devices == (VULKAN0, CUDA1) and figures.host == HOST
    pid_file = tmp_path / "pid"
    if pid_file.exists() and pid_file.read_text().strip():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


def test_the_answer_is_remembered(tmp_path: Path) -> None:
    asks = program(tmp_path, "cat {table}")
    first = Oracle(str(tmp_path)).ask(asks, ["-ngl", "5"], "header")
    again = Oracle(str(tmp_path)).ask(asks, ["-ngl", "5"], "header")
    assert first is not None and again is not None
    assert (again.devices, again.host, again.cached) == (first.devices, first.host, True)
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("change", ["header", "words", "environment", "program"])
def test_another_question_is_asked_anew(tmp_path: Path, change: str) -> None:
    asks, oracle = program(tmp_path, "cat {table}"), Oracle(str(tmp_path))
    oracle.ask(asks, ["-ngl", "5"], "header")
    if change == "program":
        os.utime(asks, (1, 1))
    environment = {"CUDA_VISIBLE_DEVICES": "GPU-1"} if change == "environment" else {}
    words = ["-ngl", "4" if change == "words" else "5"]
    oracle.ask(asks, words, "other" if change == "header" else "header", environment)
    assert runs(tmp_path) == 2


@pytest.mark.parametrize(
    "script",
    ["exit 1", "echo error: invalid argument; exit 1", "exec sleep 60", "yes | head -c 1M"],
)
def test_a_program_that_says_nothing_is_none(tmp_path: Path, script: str) -> None:
    began = time.monotonic()
    assert Oracle(str(tmp_path), timeout_s=0.5).ask(program(tmp_path, script), [], "h") is None
    assert time.monotonic() - began < 5
    assert not (tmp_path / "oracle.json").exists(), "a silence is not an answer"


def test_a_table_cut_short_is_none(tmp_path: Path) -> None:
    asks = program(tmp_path, "cat {table}", "\n".join(TABLE.splitlines()[:2]) + "\n")
    assert Oracle(str(tmp_path)).ask(asks, [], "h") is None


def test_an_absent_program_is_none(tmp_path: Path) -> None:
    oracle = Oracle(str(tmp_path))
    assert oracle.ask(str(tmp_path / "absent"), [], "h") is None
    assert oracle.devices(str(tmp_path / "absent")) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "answers": {"k": [["CUDA0", "x", 1, 2]]}}',
        '{"format": 1, "answers": {"k": 3}}',
        '{"format": 99, "answers": {}}',
    ],
)
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "oracle.json").write_text(text)
    asks = program(tmp_path, "cat {table}")
    assert Oracle(str(tmp_path)).ask(asks, [], "h") is not None
    again = Oracle(str(tmp_path)).ask(asks, [], "h")
    assert again is not None and again.cached


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    asks = program(tmp_path, "cat {table}")
    assert Oracle(str(tmp_path / "absent")).ask(asks, [], "h") is not None


def test_the_cache_does_not_grow_for_ever(tmp_path: Path) -> None:
    asks, oracle = program(tmp_path, "cat {table}"), Oracle(str(tmp_path))
    oracle.ask(asks, [], "first")
    stored = json.loads((tmp_path / "oracle.json").read_text())
    rows = next(iter(stored["answers"].values()))
    stored["answers"] = {f"old{number}": rows for number in range(400)}
    (tmp_path / "oracle.json").write_text(json.dumps(stored))
    oracle.ask(asks, [], "second")
    kept = json.loads((tmp_path / "oracle.json").read_text())["answers"]
    assert len(kept) == 256 and "old399" in kept and "old0" not in kept
