"""Which systemd unit a process belongs to, from its control group."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_UNIT_SUFFIXES = (".service", ".scope")
# Follows the name of a unit of the system's manager: a user may have a unit of the same name.
SYSTEM = "(of the system)"
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


def control_group_of(text: str) -> str | None:
    """The systemd control group in the text of /proc/PID/cgroup.

    That is the unified hierarchy's line (`0::/...`), or on old hosts the one named systemd.
    """
    named = None
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "name=systemd":
            named = path
        elif hierarchy == "0" and controllers == "" and path not in ("", "/"):
            return path
    return named


def unit_of_control_group(control_group: str) -> str | None:
    """The innermost unit of a control group; for a user's service that, not `user@UID.service`."""
    for part in reversed(control_group.split("/")):
        if part.endswith(_UNIT_SUFFIXES):
            return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), part)
    return None


def unit_of(pid: int, proc: str = "/proc") -> str | None:
    """The unit of a process; None when it has none or is gone. `SYSTEM` marks the system's."""
    control_group = control_group_of(_text(Path(proc) / str(pid) / "cgroup"))
    unit = unit_of_control_group(control_group) if control_group else None
    system = unit is not None and control_group is not None and is_system_unit(control_group)
    return f"{unit} {SYSTEM}" if system else unit


def is_system_unit(control_group: str) -> bool:
    """Whether a control group is of a unit of the system's manager, not of a user's."""
    return "/system.slice/" in f"{control_group}/" and "/user.slice/" not in control_group


def pids_in(control_group: str, root: str = "/sys/fs/cgroup") -> tuple[int, ...] | None:
    """The processes of a control group and of the groups below it; None when unreadable."""
    folder = Path(f"{root}/{control_group.strip('/')}")
    if not control_group.strip("/") or not (folder / "cgroup.procs").exists():
        return None
    texts = [_text(path) for path in (folder / "cgroup.procs", *folder.rglob("*/cgroup.procs"))]
    return tuple(int(word) for text in texts for word in text.split() if word != "0")


def resident_bytes(pids: Iterable[int], proc: str = "/proc") -> int | None:
    """Resident memory of processes, summed; None when none could be read.

    Read here because `labctl status` asks for nothing else that psutil knows, and its import
    would take as long as everything that status asks of systemd.
    """
    pages = [_text(Path(proc) / str(pid) / "statm").split() for pid in pids]
    resident = [int(fields[1]) for fields in pages if len(fields) > 1]
    return sum(resident) * os.sysconf("SC_PAGE_SIZE") if resident else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
