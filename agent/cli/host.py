"""Wire the engine to the real host."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from agent.cli.output import tell
from agent.cli.places import paths_of_host
from agent.cli.report import LineReporter, Reporter
from agent.deploy.store import Store
from agent.host.clock import SystemClock
from agent.host.disk import LocalDisk
from agent.host.probes import HttpProber
from agent.host.systemd import UserManager
from agent.model.errors import LockHeld
from agent.model.generation import SECRETS_FILE, Generation

if TYPE_CHECKING:
    from agent.deploy.deployer import Deployer
    from agent.deploy.ports import Ports
    from agent.deploy.recovery import Recoverer, Recovery
    from agent.host.processes import HostProcesses
    from agent.model.host import HostPaths


@dataclass(frozen=True, slots=True)
class SecretValues:
    """The variables of a secrets file. Its repr shows none."""

    values: dict[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        return self.values.get(name)


class Host:
    """Everything a verb needs of this host, made when it is first asked for.

    Nothing is connected before the first unit operation. Verbs that only look do not import the
    engine: `labctl status` answers in half the time.
    """

    def __init__(self, report: Reporter | None = None) -> None:
        self.report = report or LineReporter()
        self.paths: HostPaths = paths_of_host()
        self.disk = LocalDisk()
        self.store = Store(self.disk, self.paths.state)
        self.units = UserManager()
        self.prober = HttpProber()
        self.clock = SystemClock()
        self.user = pwd.getpwuid(os.getuid()).pw_name

    @cached_property
    def processes(self) -> HostProcesses:
        from agent.host.processes import HostProcesses

        return HostProcesses()

    @cached_property
    def ports(self) -> Ports:
        from agent.cli.offload import HostOffload
        from agent.deploy.ports import Ports
        from agent.host.journal import UserJournal
        from agent.host.signals import HostSignals

        signals = HostSignals()
        signals.install()
        return Ports(
            disk=self.disk,
            units=self.units,
            processes=self.processes,
            prober=self.prober,
            journal=UserJournal(),
            clock=self.clock,
            reporter=self.report,
            signals=signals,
            offload=HostOffload(),
            paths=self.paths,
        )

    @cached_property
    def deployer(self) -> Deployer:
        from agent.deploy.deployer import Deployer

        return Deployer(self.ports, self.store, self.secrets)

    @cached_property
    def recoverer(self) -> Recoverer:
        from agent.deploy.recovery import Recoverer

        return Recoverer(self.ports, self.store, self.secrets)

    def secrets(self, generation: Generation) -> SecretValues:
        """The variables that a generation was sealed with."""
        if not any(file.path == SECRETS_FILE for file in generation.manifest.files):
            return SecretValues({})
        from agent.lab.secrets import secret_values

        text = self.store.read(generation, SECRETS_FILE).decode("utf-8", "replace")
        return SecretValues(secret_values(text))


def open_host(report: Reporter | None = None) -> Host:
    """This host, for one run of one verb."""
    return Host(report)


@contextmanager
def exclusive(host: Host, verb: str) -> Iterator[Recovery | None]:
    """Hold the lock, and start from a clean store: recovery comes before anything else."""
    from agent.host.lock import HostLock

    with HostLock(host.paths.runtime, verb):
        yield recover(host)


def recover(host: Host) -> Recovery | None:
    """Finish what an interrupted labctl left, and say so. The lock must be held."""
    recovery = host.recoverer.recover()
    if recovery is not None and recovery.went_to >= 0:
        way = "finished" if recovery.forward else "undone"
        tell(f"recovered: an interrupted change was {way}; generation {recovery.went_to} serves")
        if recovery.set_aside:
            tell(f"recovered: a damaged record was kept as {recovery.set_aside}")
    return recovery


def recover_if_needed(host: Host) -> None:
    """For verbs that only read: recover when nobody else is at work."""
    if host.disk.entry(f"{host.paths.state}/record.json") is None:
        return
    try:
        with exclusive(host, "recover"):
            return
    except LockHeld as error:
        tell(f"note: {error.message}")
