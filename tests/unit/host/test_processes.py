"""Processes, ports and control groups: real ones, and the texts of hosts that we are not on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from pwd import getpwuid

import pytest

from agent.host.cgroup import (
    control_group_of,
    is_system_unit,
    pids_in,
    unit_of,
    unit_of_control_group,
)
from agent.host.processes import HostProcesses
from agent.model.host import UnitState

CHILD = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
sys.stdout.write(f"{listener.getsockname()[1]}\\n"); sys.stdout.flush()
if sys.argv[1:] == ["work"]:
    while True: sum(range(10000))
time.sleep(60)
"""


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The pid and the port of a process that listens; it works when the parameter says so."""
    words = getattr(request, "param", [])
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LABCTL_INPUTS": "abc123"},
    )
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def state(pid: int | None, control_group: str | None = None) -> UnitState:
    return UnitState("x.service", main_pid=pid, control_group=control_group)


def test_the_inputs_of_a_process(child: tuple[int, int]) -> None:
    pid, _ = child
    processes = HostProcesses()
    assert processes.inputs(pid) == "abc123"
    plain = subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"]})
    try:
        time.sleep(0.1)
        assert processes.inputs(plain.pid) == ""
    finally:
        plain.kill()
        plain.wait()
    assert processes.inputs(plain.pid) is None


@pytest.mark.parametrize("child", [["work"]], indirect=True)
def test_work_is_progress(child: tuple[int, int]) -> None:
    processes = HostProcesses()
    before = processes.progress(state(child[0]))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        after = processes.progress(state(child[0]))
        assert before is not None
        assert after is not None
        if after.moved_since(before):
            break
        time.sleep(0.05)
    else:
        pytest.fail("ten seconds of work do not show")


def test_sleep_is_no_progress(child: tuple[int, int]) -> None:
    processes = HostProcesses()
    time.sleep(0.2)
    before = processes.progress(state(child[0]))
    time.sleep(0.3)
    after = processes.progress(state(child[0]))
    assert before is not None
    assert after is not None
    assert before.resident_bytes > 1 << 20
    assert not after.moved_since(before)


def test_a_dead_unit_has_no_readings() -> None:
    processes = HostProcesses()
    assert processes.progress(state(None)) is None
    assert processes.listens(state(None)) == ()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert processes.progress(state(gone.pid)) is None
    assert processes.listens(state(gone.pid)) == ()


def test_who_holds_a_port(child: tuple[int, int]) -> None:
    pid, port = child
    processes = HostProcesses()
    holder = processes.holder(port)
    assert holder is not None
    assert (holder.port, holder.pid, holder.user) == (port, pid, getpwuid(os.getuid()).pw_name)
    assert holder.program is not None
    assert "python" in holder.program
    assert processes.listens(state(pid)) == (port,)


def test_nobody_holds_a_free_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert HostProcesses().holder(port) is None


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  {uid}        0 1 1
   1: 0100007F:1F40 0100007F:9999 01 00000000:00000000 00:00000000 00000000     7        0 2 1
"""


def fake_proc(tmp_path: Path, uid: int) -> str:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TCP.format(uid=uid))
    return str(tmp_path)


def test_the_system_wide_ollama_is_recognised_without_seeing_its_pid(tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    (units / "ollama.service").write_text("[Service]\n")
    proc = fake_proc(tmp_path, 0)
    holder = HostProcesses(proc=proc, unit_folders=(str(units),)).holder(0x2CAA)
    assert str(holder) == "ollama of user root in ollama.service (of the system)"
    unknown = HostProcesses(proc=proc, unit_folders=()).holder(0x2CAA)
    assert str(unknown) == "an unnamed process of user root"


def test_a_user_without_a_name_is_a_number_and_a_connection_is_no_listener(tmp_path: Path) -> None:
    processes = HostProcesses(proc=fake_proc(tmp_path, 4_000_000), unit_folders=())
    holder = processes.holder(0x2CAA)
    assert holder is not None
    assert (holder.pid, holder.user) == (None, "4000000")
    assert processes.holder(0x1F40) is None


CGROUPS = [
    ("0::/system.slice/ollama.service\n", "/system.slice/ollama.service", "ollama.service"),
    (
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/litellm.service\n",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/litellm.service",
        "litellm.service",
    ),
    ("12:pids:/x\n1:name=systemd:/system.slice/a.service/sub\n0::/\n", None, "a.service"),
    ("0::/a.slice/odd\\x2dname.service\n", "/a.slice/odd\\x2dname.service", "odd-name.service"),
    ("0::/user.slice/session-3.scope\n", "/user.slice/session-3.scope", "session-3.scope"),
    ("0::/\n", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("text", "group", "unit"), CGROUPS)
def test_the_unit_in_a_cgroup_text(
    tmp_path: Path, text: str, group: str | None, unit: str | None
) -> None:
    found = control_group_of(text)
    if group is not None:
        assert found == group
    assert (unit_of_control_group(found) if found else None) == unit
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(text)
    system = found is not None and found.startswith("/system.slice/")
    assert unit_of(7, str(tmp_path)) == (f"{unit} (of the system)" if system else unit)
    assert unit_of(8, str(tmp_path)) is None


def test_system_units_are_told_from_a_users() -> None:
    assert is_system_unit("/system.slice/ollama.service")
    assert not is_system_unit(CGROUPS[1][0])


def test_the_processes_of_a_control_group(tmp_path: Path) -> None:
    group = tmp_path / "app.slice" / "x.service"
    (group / "inner").mkdir(parents=True)
    (group / "cgroup.procs").write_text("11\n12\n")
    (group / "inner" / "cgroup.procs").write_text("13\n0\n")
    assert pids_in("/app.slice/x.service", str(tmp_path)) == (11, 12, 13)
    assert pids_in("/app.slice/gone.service", str(tmp_path)) is None
    assert pids_in("/", str(tmp_path)) is None


def test_a_control_group_of_another_namespace_is_not_believed(
    tmp_path: Path, child: tuple[int, int]
) -> None:
    group = tmp_path / "x.service"
    group.mkdir()
    (group / "cgroup.procs").write_text("1\n")
    processes = HostProcesses(cgroup_root=str(tmp_path))
    assert processes.listens(state(child[0], "/x.service")) == (child[1],)


def test_resident_memory_is_summed_and_unknown_where_nothing_can_be_read() -> None:
    import os

    from agent.host.cgroup import resident_bytes

    own = resident_bytes([os.getpid()])
    assert own is not None and own > 1 << 20
    assert resident_bytes([os.getpid(), 2**22 + 1]) is not None
    assert resident_bytes([2**22 + 1]) is None
