"""What the host is seen to be. A reading that failed is None or `unknown`, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class UnitState:
    """One unit as systemd reports it.

    Attributes:
        load: `loaded`, `not-found`, `masked`, `bad-setting`, ...
        active: `active`, `activating`, `inactive`, `failed`, ...
        sub: `running`, `auto-restart`, `dead`, ...
        restarts: systemd's own restarts since the last explicit start (NRestarts).
        exit_status: exit code or signal number of the last main process; None while unknown.
        exited_by: `exited`, `killed`, `dumped`; None while unknown.
        result: `success`, `exit-code`, `signal`, `timeout`, `start-limit-hit`, ...
        since: Unix time in seconds when it entered its active state.
    """

    unit: str
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    main_pid: int | None = None
    restarts: int = 0
    result: str = "success"
    exited_by: str | None = None
    exit_status: int | None = None
    invocation: str = ""
    since: float | None = None
    fragment: str | None = None
    control_group: str | None = None
    memory_bytes: int | None = None

    @property
    def running(self) -> bool:
        return self.active in ("active", "reloading") and self.main_pid is not None

    @property
    def broken(self) -> bool:
        """Whether it has failed or is being restarted by systemd after a failure."""
        return self.active == "failed" or self.sub.startswith("auto-restart")

    @property
    def ending(self) -> str:
        """How its last process ended, in words; empty when it did not end badly."""
        if self.result == "success":  # also after a stop, which systemd does with a signal
            return ""
        if self.exited_by is None or (self.exited_by == "exited" and self.exit_status == 0):
            return f"result {self.result}"
        verb = "exit status" if self.exited_by == "exited" else "signal"
        return f"{verb} {self.exit_status}"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """Who listens on a local TCP port. `unit` is a systemd unit, of the system or a user."""

    port: int
    pid: int | None
    program: str | None
    user: str | None
    unit: str | None = None

    def __str__(self) -> str:
        who = f"{self.program or 'an unnamed process'}"
        if self.pid is not None:
            who += f" (pid {self.pid}"
            who += f", user {self.user})" if self.user else ")"
        elif self.user:
            who += f" of user {self.user}"
        return f"{who} in {self.unit}" if self.unit else who


@dataclass(frozen=True, slots=True)
class Progress:
    """Signs of life of a unit's processes; any change between two readings is progress.

    CPU seconds, resident bytes and bytes read, each summed over the unit's processes.
    """

    cpu_s: float
    resident_bytes: int
    read_bytes: int

    def moved_since(self, earlier: Progress) -> bool:
        return (
            self.cpu_s - earlier.cpu_s >= 0.02
            or self.read_bytes > earlier.read_bytes
            or abs(self.resident_bytes - earlier.resident_bytes) >= 1 << 20
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """What the host runs now.

    Attributes:
        units: by unit name, every unit that a plan asks about.
        running_inputs: by unit name, the digest that the running process carries; empty for a
            process that carries none; missing when nothing runs.
        wrong_placements: host paths that are not what the current generation placed there.
        foreign: host paths, among those the target wants, that hold something not ours.
        edited: sealed files of the current generation that no longer match their digest.
        holders: by port, foreign processes on ports that the target wants.
    """

    units: Mapping[str, UnitState] = field(default_factory=dict)
    running_inputs: Mapping[str, str] = field(default_factory=dict)
    wrong_placements: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    holders: Mapping[int, PortHolder] = field(default_factory=dict)

    def unit(self, name: str) -> UnitState:
        return self.units.get(name, UnitState(unit=name))


class EntryKind(StrEnum):
    FILE = "file"
    LINK = "link"
    FOLDER = "folder"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at a path, not following a link."""

    kind: EntryKind
    mode: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Where things are on this host. All absolute.

    Attributes:
        state: `~/.local/state/labctl`, fixed because static units name it with `%h`.
        units: the user's systemd unit folder.
        runtime: `$XDG_RUNTIME_DIR/labctl`.
    """

    home: str
    state: str
    units: str
    runtime: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a check may know of the host without asking it anything that takes time.

    Attributes:
        missing_files: absolute paths that the lab names and that are not there.
        programs: service name → executable that its unit would start; None when none was found.
            The gateway's service name is `litellm`.
        gpus: how many NVIDIA GPUs the driver shows; None where that is not known.
        deploying: the check guards a deploy of this host: what the host lacks is an error even
            for a lab without lab.yaml, which otherwise may describe another host.
    """

    missing_files: frozenset[str] = frozenset()
    programs: Mapping[str, str | None] = field(default_factory=dict)
    gpus: int | None = None
    deploying: bool = False
