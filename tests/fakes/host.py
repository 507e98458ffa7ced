"""A host in memory: units that read their files from the model disk, and endpoints to probe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from agent.deploy.deployer import Deployer
from agent.deploy.ports import Ports, Secrets
from agent.deploy.recovery import Recoverer
from agent.deploy.store import Store
from agent.deploy.transaction import Transaction
from agent.model.errors import BusUnavailable, Interrupted
from agent.model.generation import CompletionSpec, Generation, ServiceSpec
from agent.model.host import HostPaths, PortHolder, Progress, UnitState
from agent.model.placed import (
    EvidenceLevel,
    OffloadProof,
    OffloadVerdict,
    ServicePlacement,
)
from agent.model.plan import Action
from agent.model.verdict import Health, ProbeKind, Sample
from tests.fakes.disk import Crash, ModelDisk

HOME = "/home/lab"
PATHS = HostPaths(
    home=HOME,
    state=f"{HOME}/.local/state/labctl",
    units=f"{HOME}/.config/systemd/user",
    runtime="/run/user/4300/labctl",
)


class FakeClock:
    """Time moves only when something waits."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s


@dataclass
class Process:
    pid: int
    inputs: str
    text: str
    restarts: int = 0
    environment: str = ""


@dataclass
class FakeUnits:
    """systemd over the model disk: a start reads the unit and its environment as they stand.

    Attributes:
        dies: unit text fragments whose process ends at once.
        on_wait: what happens while someone waits; whether a unit changed by it.
        refused: job results other than `done`, by unit.
        restarting: units that systemd waits to restart after a failure.
        calls: every call in order, for tests.
        bus_dies_at: the index of the call at which the bus is gone for good.
    """

    disk: ModelDisk
    clock: FakeClock
    running: dict[str, Process] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    loaded: dict[str, str] = field(default_factory=dict)
    dies: set[str] = field(default_factory=set)
    needs: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    bus_dies_at: int | None = None
    crash_at: int | None = None
    next_pid: int = 100
    on_job: Callable[[Action, str], None] = lambda action, unit: None
    on_wait: Callable[[], bool] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    restarting: set[str] = field(default_factory=set)

    def _call(self, what: str) -> None:
        index = len(self.calls)
        self.calls.append(what)
        if index == self.crash_at:
            raise Crash(what)
        if self.bus_dies_at is not None and index >= self.bus_dies_at:
            raise BusUnavailable("the user bus is gone", hint="start it")

    def _text(self, unit: str) -> str | None:
        try:
            return self.disk.read(f"{PATHS.units}/{unit}").decode()
        except FileNotFoundError:
            return None

    def _inputs(self, unit: str) -> str:
        name = unit.removesuffix(".service")
        try:
            text = self.disk.read(f"{PATHS.state}/current/env/{name}.env").decode()
        except FileNotFoundError:
            return ""
        found = re.search(r'^LABCTL_INPUTS="(.*)"$', text, re.MULTILINE)
        return found.group(1) if found else ""

    def states(self, units: Sequence[str]) -> dict[str, UnitState]:
        self._call("states")
        return {unit: self._state(unit) for unit in units}

    def _state(self, unit: str) -> UnitState:
        process = self.running.get(unit)
        if unit in self.restarting:
            return UnitState(
                unit,
                "loaded",
                "activating",
                "auto-restart",
                restarts=3,
                result="signal",
                exited_by="killed",
                exit_status=9,
            )
        if process is not None:
            return UnitState(
                unit,
                "loaded",
                "active",
                "running",
                main_pid=process.pid,
                restarts=process.restarts,
                invocation=str(process.pid),
            )
        if unit in self.failed:
            return UnitState(
                unit,
                "loaded",
                "failed",
                "failed",
                result="exit-code",
                exited_by="exited",
                exit_status=1,
            )
        return UnitState(unit)

    def dependents(self, units: Sequence[str]) -> tuple[str, ...]:
        self._call("dependents")
        return tuple(u for u, need in self.needs.items() if need in units and u in self.running)

    def reload(self) -> None:
        self._call("reload")
        known = self.disk.names(PATHS.units) if self.disk.entry(PATHS.units) else ()
        self.loaded = {
            unit: text
            for unit in known
            if unit.endswith(".service") and (text := self._text(unit)) is not None
        }

    def reset_failed(self, units: Sequence[str]) -> None:
        self._call("reset_failed")
        self.failed -= set(units)

    def run(self, action: Action, units: Sequence[str], timeout_s: float) -> dict[str, str]:
        del timeout_s
        results = {}
        for unit in units:
            self._call(f"{action} {unit}")
            self.on_job(action, unit)
            results[unit] = self.refused.get(unit) or self._job(action, unit)
        return results

    def _job(self, action: Action, unit: str) -> str:
        if action in (Action.STOP, Action.RESTART):
            self.running.pop(unit, None)
            for dependent, need in self.needs.items():
                if need == unit:
                    self.running.pop(dependent, None)
        if action is Action.STOP:
            return "done"
        text = self.loaded.get(unit) if unit not in self.needs else "a dependent"
        if text is None:
            return "NoSuchUnit: not found"
        inputs = self._inputs(unit) if "Managed by labctl" in text else ""
        dies = any(mark in text or mark in self._environment(unit) for mark in self.dies)
        if dies:
            self.failed.add(unit)
            return "done"
        self.next_pid += 1
        environment = self._environment(unit) if inputs else ""
        self.running[unit] = Process(self.next_pid, inputs, text, environment=environment)
        return "done"

    def fall(self, unit: str) -> None:
        """Its process ends badly, and systemd does not start it again."""
        del self.running[unit]
        self.failed.add(unit)

    def revive(self, unit: str) -> None:
        """Its process ended, and systemd has started another one by itself."""
        self.next_pid += 1
        process = self.running[unit]
        process.pid, process.restarts = self.next_pid, process.restarts + 1

    def _environment(self, unit: str) -> str:
        name = unit.removesuffix(".service")
        try:
            return self.disk.read(f"{PATHS.state}/current/env/{name}.env").decode()
        except FileNotFoundError:
            return ""

    def wait(self, timeout_s: float) -> bool:
        self.clock.elapsed_s += min(timeout_s, 0.1) if self.on_wait is not None else timeout_s
        return self.on_wait is not None and self.on_wait()


@dataclass
class FakeProcesses:
    units: FakeUnits
    holders: dict[int, PortHolder] = field(default_factory=dict)
    moves: bool = False
    _count: int = 0

    def inputs(self, pid: int) -> str | None:
        return next((p.inputs for p in self.units.running.values() if p.pid == pid), None)

    def progress(self, state: UnitState) -> Progress | None:
        del state
        self._count += 1
        return Progress(
            cpu_s=float(self._count if self.moves else 0), resident_bytes=0, read_bytes=0
        )

    def holder(self, port: int) -> PortHolder | None:
        return self.holders.get(port)

    def listens(self, state: UnitState) -> tuple[int, ...]:
        return (11434,) if state.running else ()


@dataclass
class FakeProber:
    """Every running unit answers, except those named.

    Attributes:
        silent: services that do not answer their cheap probe.
        broken: groups whose completion fails.
        on_ask: called before each answer of a cheap probe, to change the above.
    """

    units: FakeUnits
    silent: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    on_ask: Callable[[], None] = lambda: None

    def health(self, service: ServiceSpec, timeout_s: float) -> Sample:
        del timeout_s
        self.on_ask()
        good = service.unit in self.units.running and service.name not in self.silent
        health = Health.HEALTHY if good else Health.UNHEALTHY
        detail = f"{service.name} {'answers' if good else 'does not answer'}"
        return Sample(ProbeKind.HEALTH, service.name, health, detail, ttfb_ms=1.0)

    def models(self, service: ServiceSpec, secrets: Secrets, timeout_s: float) -> Sample:
        del secrets, timeout_s
        lost = sorted(set(service.serves) & self.missing)
        health = Health.UNHEALTHY if lost else Health.HEALTHY
        detail = f"{service.name} does not serve {lost}" if lost else f"{service.name} serves all"
        return Sample(ProbeKind.MODELS, service.name, health, detail, models=service.serves)

    def completion(
        self, gateway: ServiceSpec, spec: CompletionSpec, secrets: Secrets, timeout_s: float
    ) -> Sample:
        del gateway, secrets, timeout_s
        self.asked.append(spec.group)
        bad = spec.group in self.broken
        health = Health.UNHEALTHY if bad else Health.HEALTHY
        detail = f"{spec.group}: {'500' if bad else 'ok'}"
        return Sample(ProbeKind.COMPLETION, spec.group, health, detail, ttfb_ms=5.0)


class FakeJournal:
    def tail(self, unit: str, lines: int, invocation: str = "") -> tuple[str, ...]:
        del lines, invocation
        return (f"last words of {unit}",)


@dataclass
class RecordingReporter:
    steps: list[str] = field(default_factory=list)

    def step(self, name: str, detail: str, **facts: object) -> None:
        del facts
        self.steps.append(f"{name}: {detail}")


@dataclass
class FakeOffload:
    """GPUs with room, on which every plan comes true.

    Attributes:
        short: by service, what is still to be released.
        contradictions: by service, what speaks against its plan.
    """

    short: dict[str, tuple[str, ...]] = field(default_factory=dict)
    contradictions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def waiting_for(self, placed: ServicePlacement) -> tuple[str, ...]:
        return self.short.get(placed.service, ())

    def proof(self, placed: ServicePlacement, state: UnitState) -> OffloadProof:
        del state
        against = self.contradictions.get(placed.service, ())
        verdict = OffloadVerdict.CPU if against else OffloadVerdict.FULL
        return OffloadProof(
            placed.service,
            verdict,
            0 if against else placed.layers,
            placed.of,
            EvidenceLevel.LOGGED,
            contradictions=against,
        )

    def claim(self, service: ServiceSpec, state: UnitState) -> OffloadProof | None:
        del service, state
        return None


class NoSignals:
    @contextmanager
    def interruptible(self) -> Iterator[None]:
        yield


class SignalAt(NoSignals):
    """Ctrl-C arrives at the given interruptible block, counted from 0; once, as on the host.

    With `late`, it arrives when the block's work is done.
    """

    def __init__(self, index: int, *, late: bool = False) -> None:
        self.index, self.late, self.blocks = index, late, 0

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        index, self.blocks = self.blocks, self.blocks + 1
        if index == self.index and not self.late:
            raise Interrupted("interrupted by Ctrl-C")
        yield
        if index == self.index and self.late:
            raise Interrupted("interrupted by Ctrl-C")


@dataclass(frozen=True)
class NoSecrets:
    def get(self, name: str) -> str | None:
        del name
        return None


class FakeHost:
    """A whole host. `restarted()` gives the same host to a new labctl process."""

    def __init__(self) -> None:
        self.disk = ModelDisk()
        self.disk.make_all(PATHS.units)
        self.disk.make_all(f"{HOME}/.local/state")
        self.clock = FakeClock()
        self.units = FakeUnits(self.disk, self.clock)
        self.prober = FakeProber(self.units)
        self.processes = FakeProcesses(self.units)
        self.reporter = RecordingReporter()
        self.offload = FakeOffload()
        self.signals: NoSignals = NoSignals()
        self.open()

    def open(self) -> None:
        """A fresh labctl process over the same host."""
        self.ports = Ports(
            disk=self.disk,
            units=self.units,
            processes=self.processes,
            prober=self.prober,
            journal=FakeJournal(),
            clock=self.clock,
            reporter=self.reporter,
            signals=self.signals,
            offload=self.offload,
            paths=PATHS,
        )
        self.store = Store(self.disk, PATHS.state)

        def secrets(generation: Generation) -> Secrets:
            del generation
            return NoSecrets()

        self.deployer = Deployer(self.ports, self.store, secrets)
        self.transaction = Transaction(self.ports, self.store, secrets)
        self.recoverer = Recoverer(self.ports, self.store, secrets)

    def reboot(self) -> None:
        """Power loss: what was not synced is gone, and systemd starts what is enabled."""
        self.disk.lose_power()
        self.units.running.clear()
        self.units.failed.clear()
        self.units.loaded.clear()
        self.units.reload()
        wants = f"{PATHS.units}/default.target.wants"
        if self.disk.entry(wants) is not None:
            for unit in self.disk.names(wants):
                if unit in self.units.loaded:
                    self.units._job(Action.START, unit)
        self.open()

    def sample(self, spec: ServiceSpec) -> Sample:
        return replace(self.prober.health(spec, 1.0), required=spec.required)
