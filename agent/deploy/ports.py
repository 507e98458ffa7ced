"""What the engine needs of the outside, as Protocols. `agent.host` has the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from agent.model.generation import CompletionSpec, ServiceSpec
from agent.model.host import Entry, HostPaths, PortHolder, Progress, UnitState
from agent.model.placed import OffloadProof, ServicePlacement
from agent.model.plan import Action
from agent.model.verdict import Sample


class Disk(Protocol):
    """Every disk operation of the product. Paths are absolute.

    Each mutating call either happens or raises `DiskFailure` and leaves what was there. A name
    that was created, renamed or removed is durable only after `sync_folder` of its folder.
    """

    def entry(self, path: str) -> Entry | None: ...
    def read(self, path: str) -> bytes: ...
    def target(self, path: str) -> str: ...
    def names(self, path: str) -> tuple[str, ...]: ...
    def create(self, path: str, data: bytes, mode: int) -> None:
        """Write a new file and fsync it. Refuses a path where something stands."""

    def link(self, path: str, target: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def make_folder(self, path: str, mode: int) -> None: ...
    def remove_folder(self, path: str) -> None: ...
    def sync_folder(self, path: str) -> None: ...


class Units(Protocol):
    """The systemd user manager. Raises `BusUnavailable` when it does not answer."""

    def states(self, units: Sequence[str]) -> dict[str, UnitState]: ...
    def dependents(self, units: Sequence[str]) -> tuple[str, ...]:
        """Units that run and need one of these: systemd stops them together with it."""

    def reload(self) -> None: ...
    def reset_failed(self, units: Sequence[str]) -> None: ...
    def run(self, action: Action, units: Sequence[str], timeout_s: float) -> dict[str, str]:
        """Queue one job per unit, wait for all; unit → job result (`done`, `failed`, `timeout`,
        `canceled`, `dependency`, ...)."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a unit changes state or the time is over; True when one changed."""


class Processes(Protocol):
    """What /proc knows, through psutil."""

    def inputs(self, pid: int) -> str | None:
        """The `LABCTL_INPUTS` of a running process; "" when it has none, None when unreadable."""

    def progress(self, state: UnitState) -> Progress | None: ...
    def holder(self, port: int) -> PortHolder | None: ...
    def listens(self, state: UnitState) -> tuple[int, ...]: ...


class Secrets(Protocol):
    """Values of a secrets file. Never printed: its repr names no value."""

    def get(self, name: str) -> str | None: ...


class Prober(Protocol):
    """Asks endpoints without harming them. Never raises for what an endpoint does."""

    def health(self, service: ServiceSpec, timeout_s: float) -> Sample:
        """The cheap probe of the facts' table: never loads, wakes or interrupts a model."""

    def models(self, service: ServiceSpec, secrets: Secrets, timeout_s: float) -> Sample: ...

    def completion(
        self, gateway: ServiceSpec, spec: CompletionSpec, secrets: Secrets, timeout_s: float
    ) -> Sample:
        """One short completion with fallbacks disabled and the cache bypassed."""


class Journal(Protocol):
    def tail(self, unit: str, lines: int, invocation: str = "") -> tuple[str, ...]: ...


class Clock(Protocol):
    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...


class Reporter(Protocol):
    """Tells a person, or a program, each step as it happens."""

    def step(self, name: str, detail: str, **facts: object) -> None: ...


class Offload(Protocol):
    """The GPUs: whether there is room now, and where a running model's layers really are."""

    def waiting_for(self, placed: ServicePlacement) -> tuple[str, ...]:
        """What is still to be released before this service fits; empty when it may start."""

    def proof(self, placed: ServicePlacement, state: UnitState) -> OffloadProof: ...

    def claim(self, service: ServiceSpec, state: UnitState) -> OffloadProof | None:
        """What a service that places itself says of its GPU memory, held against the driver;
        None when it has no model loaded."""


class Signals(Protocol):
    """Ctrl-C and SIGTERM. They are remembered, and raise `Interrupted` only at safe points."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Within the block a signal, also one remembered from before, raises at once."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything the engine reaches the outside through."""

    disk: Disk
    units: Units
    processes: Processes
    prober: Prober
    journal: Journal
    clock: Clock
    reporter: Reporter
    signals: Signals
    offload: Offload
    paths: HostPaths
