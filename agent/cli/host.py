"""Wire the engine to the real host."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.cli.output import tell
from agent.cli.report import LineReporter, Reporter
from agent.deploy.deployer import Deployer
from agent.deploy.ports import Ports
from agent.deploy.store import Store
from agent.deploy.transaction import Recovery, Transaction
from agent.host.clock import SystemClock
from agent.host.disk import LocalDisk
from agent.host.journal import UserJournal
from agent.host.lock import HostLock
from agent.host.probes import HttpProber
from agent.host.processes import HostProcesses
from agent.host.session import host_paths
from agent.host.signals import HostSignals
from agent.host.systemd import UserManager
from agent.model.errors import LockHeld
from agent.model.generation import SECRETS_FILE, Generation
from agent.model.host import HostPaths


@dataclass(frozen=True, slots=True)
class SecretValues:
    """The variables of a secrets file. Its repr shows none."""

    values: dict[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        return self.values.get(name)


@dataclass(frozen=True, slots=True)
class Host:
    """Everything a verb needs of this host."""

    ports: Ports
    store: Store
    deployer: Deployer
    transaction: Transaction
    units: UserManager
    prober: HttpProber
    processes: HostProcesses
    user: str

    @property
    def paths(self) -> HostPaths:
        return self.ports.paths


def home() -> str:
    """The user's home: `$HOME`, else the password file's."""
    return os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir


def paths_of_host() -> HostPaths:
    return host_paths(home(), os.environ.get("XDG_RUNTIME_DIR"))


def open_host(report: Reporter | None = None) -> Host:
    """Connect nothing yet: the bus is asked at the first unit operation."""
    paths = paths_of_host()
    disk = LocalDisk()
    store = Store(disk, paths.state)
    units, prober, processes = UserManager(), HttpProber(), HostProcesses()
    signals = HostSignals()
    signals.install()
    ports = Ports(
        disk=disk,
        units=units,
        processes=processes,
        prober=prober,
        journal=UserJournal(),
        clock=SystemClock(),
        reporter=report or LineReporter(),
        signals=signals,
        paths=paths,
    )

    def secrets(generation: Generation) -> SecretValues:
        if not any(file.path == SECRETS_FILE for file in generation.manifest.files):
            return SecretValues({})
        from agent.lab.secrets import secret_values

        text = store.read(generation, SECRETS_FILE).decode("utf-8", "replace")
        return SecretValues(secret_values(text))

    return Host(
        ports=ports,
        store=store,
        deployer=Deployer(ports, store, secrets),
        transaction=Transaction(ports, store, secrets),
        units=units,
        prober=prober,
        processes=processes,
        user=pwd.getpwuid(os.getuid()).pw_name,
    )


@contextmanager
def exclusive(host: Host, verb: str) -> Iterator[Recovery | None]:
    """Hold the lock, and start from a clean store: recovery comes before anything else."""
    with HostLock(host.paths.runtime, verb):
        yield recover(host)


def recover(host: Host) -> Recovery | None:
    """Finish what an interrupted labctl left, and say so. The lock must be held."""
    recovery = host.transaction.recover()
    if recovery is not None and recovery.went_to >= 0:
        way = "finished" if recovery.forward else "undone"
        tell(f"recovered: an interrupted change was {way}; generation {recovery.went_to} serves")
        if recovery.set_aside:
            tell(f"recovered: a damaged record was kept as {recovery.set_aside}")
    return recovery


def recover_if_needed(host: Host) -> None:
    """For verbs that only read: recover when nobody else is at work."""
    if host.ports.disk.entry(f"{host.paths.state}/record.json") is None:
        return
    try:
        with exclusive(host, "recover"):
            return
    except LockHeld as error:
        tell(f"note: {error.message}")
