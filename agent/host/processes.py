"""What /proc knows of processes and ports, through psutil."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pwd import getpwuid

import psutil

from agent.host.cgroup import SYSTEM, pids_in, unit_of
from agent.model.host import PortHolder, Progress, UnitState

INPUTS_VARIABLE = "LABCTL_INPUTS"
_LISTEN = "0A"  # TCP_LISTEN of <net/tcp_states.h>, as /proc/net/tcp writes it
_OLLAMA_UNIT = "ollama.service"
_OLLAMA_PORT = 11434


class HostProcesses:
    """Processes and ports of this host. A reading that failed is None.

    The folders are parameters for the tests, which bring their own.
    """

    def __init__(
        self,
        *,
        proc: str = "/proc",
        cgroup_root: str = "/sys/fs/cgroup",
        unit_folders: tuple[str, ...] = ("/etc/systemd/system", "/usr/lib/systemd/system"),
    ) -> None:
        self._proc = proc
        self._cgroup_root = cgroup_root
        self._unit_folders = unit_folders

    def inputs(self, pid: int) -> str | None:
        """The `LABCTL_INPUTS` of a running process; "" when it has none, None when unreadable."""
        try:
            environment = psutil.Process(pid).environ()
        except (psutil.Error, OSError):
            return None
        return environment.get(INPUTS_VARIABLE, "")

    def progress(self, state: UnitState) -> Progress | None:
        """Signs of life, summed over the unit's processes; None when none could be read."""
        readings = [reading for reading in map(_reading, self._pids(state)) if reading is not None]
        if not readings:
            return None
        return Progress(
            cpu_s=sum(reading.cpu_s for reading in readings),
            resident_bytes=sum(reading.resident_bytes for reading in readings),
            read_bytes=sum(reading.read_bytes for reading in readings),
        )

    def listens(self, state: UnitState) -> tuple[int, ...]:
        """The TCP ports that the unit's processes listen on, sorted."""
        return tuple(sorted({port for pid in self._pids(state) for port in _ports_of(pid)}))

    def holder(self, port: int) -> PortHolder | None:
        """Who listens on a TCP port, on whichever local address; None when nobody does.

        Another user's process has no pid here unless root asks: its user is known all the same,
        and the system-wide Ollama, the usual one, is recognised by its unit file.
        """
        listening = self._listening_uid(port)
        if listening is None:
            return None
        pid = _listener(port)
        if pid is None:
            return self._nameless(port, _user(listening))
        try:
            process = psutil.Process(pid)
            unit = unit_of(pid, self._proc)
            return PortHolder(port, pid, process.name(), process.username(), unit)
        except psutil.Error:
            return self._nameless(port, _user(listening))

    def _nameless(self, port: int, user: str) -> PortHolder:
        if user == "ollama" or (port == _OLLAMA_PORT and user == "root"):
            for folder in self._unit_folders:
                if (Path(folder) / _OLLAMA_UNIT).exists():
                    return PortHolder(port, None, "ollama", user, f"{_OLLAMA_UNIT} {SYSTEM}")
        return PortHolder(port, None, None, user)

    def _listening_uid(self, port: int) -> int | None:
        for name in ("tcp", "tcp6"):
            for local_port, uid in _listeners(Path(self._proc) / "net" / name):
                if local_port == port:
                    return uid
        return None

    def _pids(self, state: UnitState) -> tuple[int, ...]:
        """The unit's processes: of its control group, else the main process and its children."""
        if state.control_group:
            pids = pids_in(state.control_group, self._cgroup_root)
            # The group may be of another namespace than ours: then it lacks the main process.
            if pids and (state.main_pid is None or state.main_pid in pids):
                return pids
        if state.main_pid is None:
            return ()
        try:
            children = psutil.Process(state.main_pid).children(recursive=True)
        except psutil.Error:
            return (state.main_pid,)
        return (state.main_pid, *(child.pid for child in children))


def _reading(pid: int) -> Progress | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            resident = process.memory_info().rss
    except psutil.Error:
        return None
    try:
        # From the disk alone: a stalled event loop still reads its own wake-ups.
        read = process.io_counters().read_bytes
    except (psutil.Error, OSError):
        read = 0
    return Progress(times.user + times.system, resident, read)


def _ports_of(pid: int) -> Iterator[int]:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except (psutil.Error, OSError):
        return
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            yield connection.laddr.port


def _listener(port: int) -> int | None:
    """The pid that listens on a port, where /proc lets us see it."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        if connection.laddr.port == port and connection.pid is not None:
            return connection.pid
    return None


def _listeners(table: Path) -> Iterator[tuple[int, int]]:
    """(port, uid) of every listening socket in the text of /proc/net/tcp or tcp6."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) > 7 and words[3] == _LISTEN:
            yield int(words[1].rpartition(":")[2], 16), int(words[7])


def _user(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
