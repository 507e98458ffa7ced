"""The backend's own figures: what `llama-server` itself expects to take, before it loads.

Started with `-fit on -lv 4` it prints a `memory breakdown` table within 0.1 s, before it reads a
weight; then it is killed. The answer is kept by program, model header and arguments.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agent.host.disk import LocalDisk
from agent.model.errors import DiskFailure
from agent.model.placement import ListedDevice, OracleDevice, OracleFigures

_ROW = re.compile(
    r"\| +- (?P<name>\S+).*?\|.*?\d+ = +(?P<model>\d+) \+ +(?P<kv>\d+) \+ +(?P<compute>\d+)"
)
_LISTED = re.compile(r"^ +(\S+): (.+) \((\d+) MiB, (\d+) MiB free\)$")
_HOST = "Host"
_CACHE_FILE = "oracle.json"
_CACHE_LIMIT = 256
_CACHE_FORMAT = 1
_READ_SIZE = 65536


class Oracle:
    """Asks llama-server, and remembers. `state` is a folder that may be absent.

    Nothing here fails a deploy: a program that says nothing in time is None, and a cache that
    cannot be read or written is an empty one.
    """

    def __init__(self, state: str, timeout_s: float = 20.0) -> None:
        self._path = f"{state}/{_CACHE_FILE}"
        self._timeout_s = timeout_s

    def ask(
        self,
        program: str,
        args: Sequence[str],
        header: str,
        environment: Mapping[str, str] | None = None,
    ) -> OracleFigures | None:
        """The breakdown for a load; None where the program does not print one.

        `args` are those of the service without address, port, fit and verbosity; `header` is the
        digest of the model's header. `environment` is added to this process's own.
        """
        key = _key(program, args, header, environment or {})
        known = self._kept().get(key) if key else None
        if known is not None:
            return known
        began = time.monotonic()
        rows = tuple(self._rows(program, args, environment or {}))
        if not any(row.name == _HOST for row in rows):
            return None
        took_s = time.monotonic() - began
        host = next(row for row in rows if row.name == _HOST)
        figures = OracleFigures(rows[: rows.index(host)], host, took_s=took_s)
        if key:
            self._keep(key, figures)
        return figures

    def devices(
        self, program: str, environment: Mapping[str, str] | None = None
    ) -> tuple[ListedDevice, ...]:
        """What `--list-devices` names, the CPU excepted; empty also where it cannot be asked."""
        try:
            done = subprocess.run(
                [program, "--list-devices"],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ()
        return parse_devices(done.stdout.decode(errors="replace"))

    # -- asking ------------------------------------------------------------------------------

    def _rows(
        self, program: str, args: Sequence[str], environment: Mapping[str, str]
    ) -> Iterator[OracleDevice]:
        """Rows of the first table, up to the host's, which is the last."""
        # What a variable says, a word on the command line overrides.
        words = ["--host", "127.0.0.1", "--port", str(_free_port())]
        words += ["-fit", "on", "-lv", "4", "--no-warmup"]
        try:
            process = subprocess.Popen(
                [program, *args, *words],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            return
        try:
            for line in _lines(process, time.monotonic() + self._timeout_s):
                row = parse_row(line)
                if row is not None:
                    yield row
                    if row.name == _HOST:
                        return
        finally:
            _kill(process)

    # -- remembering -------------------------------------------------------------------------

    def _kept(self) -> dict[str, OracleFigures]:
        try:
            stored = json.loads(Path(self._path).read_bytes())
            if stored["format"] != _CACHE_FORMAT:
                return {}
            return {key: _figures(rows) for key, rows in stored["answers"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _keep(self, key: str, figures: OracleFigures) -> None:
        """Put an answer beside the last ones, the oldest left out; losing it costs 0.1 s."""
        kept = [(k, f) for k, f in self._kept().items() if k != key][1 - _CACHE_LIMIT :]
        answers = {k: _stored(f) for k, f in [*kept, (key, figures)]}
        text = json.dumps({"format": _CACHE_FORMAT, "answers": answers})
        temporary = f"{self._path}.{os.getpid()}"
        disk = LocalDisk()
        with suppress(DiskFailure):
            if disk.entry(temporary) is not None:
                disk.remove(temporary)
            disk.create(temporary, text.encode(), 0o600)
            disk.rename(temporary, self._path)


# -- text ----------------------------------------------------------------------------------


def parse_row(line: str) -> OracleDevice | None:
    """One row of the memory breakdown; None for every other line."""
    if "common_memory_breakdown_print" not in line:
        return None
    found = _ROW.search(line)
    if found is None:
        return None
    model, kv, compute = (int(found[name]) for name in ("model", "kv", "compute"))
    return OracleDevice(found["name"], model, kv, compute)


def parse_devices(text: str) -> tuple[ListedDevice, ...]:
    """The devices in the output of `--list-devices`."""
    found = (_LISTED.match(line) for line in text.splitlines())
    return tuple(ListedDevice(m[1], m[2], int(m[3]), int(m[4])) for m in found if m)


# -- the process ---------------------------------------------------------------------------


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """What it prints, line by line, until it ends or the time is over."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    pending = b""
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left_s)[0]:
            return
        data = os.read(descriptor, _READ_SIZE)
        if not data:
            return
        *whole, pending = (pending + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It holds nothing worth a clean end: it would first finish its load."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    if process.stdout is not None:
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- the cache's format --------------------------------------------------------------------


def _key(
    program: str, args: Sequence[str], header: str, environment: Mapping[str, str]
) -> str | None:
    """What the answer depends on; None where the program cannot be looked at."""
    try:
        binary = Path(program).stat()
    except OSError:
        return None
    parts = [program, binary.st_size, binary.st_mtime_ns, header, [*args]]
    text = json.dumps([*parts, sorted(environment.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _stored(figures: OracleFigures) -> list[list[object]]:
    rows = (*figures.devices, figures.host) if figures.host else figures.devices
    return [[row.name, row.model_mib, row.kv_mib, row.compute_mib] for row in rows]


def _figures(rows: Sequence[Sequence[object]]) -> OracleFigures:
    """Raises ValueError or TypeError for what is no stored answer."""
    devices: list[OracleDevice] = []
    for name, *figures in rows:
        if not isinstance(name, str) or len(figures) != 3:
            raise ValueError("not a stored answer")
        model, kv, compute = (_whole(figure) for figure in figures)
        devices.append(OracleDevice(name, model, kv, compute))
    if not devices or devices[-1].name != _HOST:
        raise ValueError("no host row")
    return OracleFigures(tuple(devices[:-1]), devices[-1], cached=True)


def _whole(figure: object) -> int:
    if not isinstance(figure, int):
        raise TypeError("not a whole number")
    return figure
