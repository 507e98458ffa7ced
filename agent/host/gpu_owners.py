"""Who a process on a GPU is: its unit, by its control group, and its program."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.host.cgroup import unit_of


@dataclass(frozen=True, slots=True)
class ProcessOwner:
    """One process. `unit` and `program` are empty when it is gone, or not of this PID namespace."""

    pid: int
    unit: str = ""
    program: str = ""


def owners(pids: Iterable[int], proc: str = "/proc") -> dict[int, ProcessOwner]:
    """The owner of each process, by PID."""
    return {
        pid: ProcessOwner(pid, unit_of(pid, proc) or "", _program(pid, proc)) for pid in set(pids)
    }


def _program(pid: int, proc: str) -> str:
    try:
        text = (Path(proc) / str(pid) / "comm").read_text(errors="replace")
    except OSError:
        return ""
    return "".join(c for c in text.strip() if c.isprintable())
