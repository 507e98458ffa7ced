"""The systemd user manager over D-Bus. The only module that imports pydbus and gi.

What is measured, and why the code is as it is: a `GetAll` of a unit costs 4 to 8 ms, a single
`Get` 0.1 ms; `ListUnitsByNames` 0.5 ms for ten units; `pydbus.SessionBus()` keeps returning a dead
connection, `pydbus.connect(address)` makes a new one; without `set_exit_on_close(False)` the end
of the bus ends this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from agent.host.session import NO_BUS_HINT, bus_address
from agent.host.unit_state import places, unit_state
from agent.model.errors import BusUnavailable
from agent.model.host import UnitState
from agent.model.plan import Action

_SYSTEMD = "org.freedesktop.systemd1"
_ROOT = "/org/freedesktop/systemd1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_VERBS = {Action.START: "StartUnit", Action.STOP: "StopUnit", Action.RESTART: "RestartUnit"}
# D-Bus errors that speak of the line to systemd, not of what was asked.
_LINE_ERRORS = frozenset(
    f"org.freedesktop.DBus.Error.{name}"
    for name in (
        *("Disconnected", "NameHasNoOwner", "NoReply", "NoServer", "ServiceUnknown"),
        *("Spawn.ChildExited", "Timeout", "TimedOut"),
    )
)
_NO_GI_HINT = "install the distribution's `python3-gi`; labctl's venv needs system site packages"


# The reverse of Requires=, Requisite=, BindsTo= and PartOf=.
_NEEDING = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf")


class _Refusal(Exception):
    """systemd answered with an error: its D-Bus name and text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name.rpartition('.')[2]}: {text}")


class _Line:
    """One connection to the user bus, and the thread that hears its signals.

    `heard` counts signals of units and jobs; `results` maps job paths to job results while a run
    waits for some. `changed` guards both and is notified of every change and of the line's end.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self.changed = threading.Condition()
        self.heard = 0
        self.results: dict[str, str] = {}
        self.dead = False
        self._timeout_s = timeout_s
        self._bus: Any = None
        self._manager: Any = None
        self._context: Any = None
        opened: SimpleQueue[Exception | None] = SimpleQueue()
        threading.Thread(
            target=self._listen, args=(address, opened), name="labctl-bus", daemon=True
        ).start()
        try:
            problem = opened.get(timeout=timeout_s)
        except Empty:
            self.dead = True
            problem = TimeoutError(f"no connection within {timeout_s:g} s")
        if problem is not None:
            raise BusUnavailable(
                f"cannot reach the systemd user manager at {address}: {_words(problem)}",
                hint=_NO_GI_HINT if isinstance(problem, ImportError) else NO_BUS_HINT,
            ) from problem

    def _listen(self, address: str, opened: SimpleQueue[Exception | None]) -> None:
        """Connect, subscribe, then dispatch signals until the line is dead."""
        try:
            from gi.repository import GLib

            self._context = GLib.MainContext.new()
            self._context.push_thread_default()
            subscriptions = self._connect(address)
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
            self.dead = True
            opened.put(error)
            return
        opened.put(None)
        # Not GLib.MainLoop.run: PyGObject's takes SIGINT away from the main thread.
        while not self.dead:
            self._context.iteration(True)
        for subscription in subscriptions:
            subscription.disconnect()
        self._context.pop_thread_default()

    def _connect(self, address: str) -> tuple[Any, ...]:
        import pydbus

        self._bus = pydbus.connect(address)
        self._bus.con.set_exit_on_close(False)
        self._bus.con.connect("closed", self._on_closed)
        # Subscribed before any job is queued, so that no JobRemoved is missed.
        manager = f"{_SYSTEMD}.Manager"
        subscriptions = (
            self._subscribe(manager, "JobRemoved", self._on_job_removed),
            self._subscribe(_PROPERTIES, "PropertiesChanged", self._on_change),
        )
        self._manager = self._bus.get(_SYSTEMD, _ROOT, timeout=self._timeout_s)[manager]
        self._manager.Subscribe(timeout=self._timeout_s)
        return subscriptions

    def _subscribe(self, interface: str, signal: str, heard: Callable[..., None]) -> Any:
        return self._bus.subscribe(
            sender=_SYSTEMD, iface=interface, signal=signal, signal_fired=heard
        )

    def _on_job_removed(self, _s: str, _o: str, _i: str, _n: str, values: tuple[Any, ...]) -> None:
        _, path, _, result = values
        with self.changed:
            self.results[path] = result
            self.heard += 1
            self.changed.notify_all()

    def _on_change(self, *_: object) -> None:
        with self.changed:
            self.heard += 1
            self.changed.notify_all()

    def _on_closed(self, *_: object) -> None:
        with self.changed:
            self.dead = True
            self.changed.notify_all()

    def close(self) -> None:
        self._on_closed()
        if self._context is not None:
            self._context.wakeup()
        if self._bus is not None and not self._bus.con.is_closed():
            self._bus.con.close(None, None, None)  # nobody waits: the other end may hang

    def ask(self, method: str, *args: object, timeout_s: float | None = None) -> Any:
        """Call a method of the Manager. Raises `_Refusal` or `BusUnavailable`."""
        call = getattr(self._manager, method)
        return self._guard(lambda: call(*args, timeout=timeout_s or self._timeout_s))

    def gather(self, wanted: Sequence[tuple[str, str, str]]) -> list[Any]:
        """The values of (object path, interface, property), None where systemd has none.

        All are asked for at once: 50 single calls in a row take 50 ms on a busy host.
        """
        from gi.repository import GLib

        context = GLib.MainContext.new()
        answers: dict[int, Any] = {}
        context.push_thread_default()  # the callbacks below run in this thread
        try:
            for index, (path, interface, name) in enumerate(wanted):
                self._bus.con.call(
                    *(_SYSTEMD, path, _PROPERTIES, "Get"),
                    *(GLib.Variant("(ss)", (interface, name)), None, 0),
                    *(int(self._timeout_s * 1000), None),
                    lambda con, result, index: answers.update({index: result}),
                    index,
                )
            while len(answers) < len(wanted):
                context.iteration(True)
        finally:
            context.pop_thread_default()
        return [self._property(answers[index]) for index in range(len(wanted))]

    def _property(self, result: Any) -> Any:
        try:
            return self._guard(lambda: self._bus.con.call_finish(result)).unpack()[0]
        except _Refusal:  # gone meanwhile, or not a service
            return None

    def _guard(self, call: Callable[[], Any]) -> Any:
        from gi.repository import Gio, GLib

        try:
            return call()
        except GLib.Error as error:
            name = Gio.DBusError.get_remote_error(error)
            if name and name not in _LINE_ERRORS:
                raise _Refusal(name, _words(error)) from error
            # Even an open line is given up: the next call starts afresh.
            self.close()
            raise BusUnavailable(
                f"the systemd user manager does not answer: {_words(error)}", hint=NO_BUS_HINT
            ) from error


def _words(error: Exception) -> str:
    """What an error says, without GLib's wrapping."""
    text = str(getattr(error, "message", error))
    wrapped = text.startswith("GDBus.Error:")
    return text.partition(": ")[2] if wrapped else text


class UserManager:
    """The units of the user's systemd, as `agent.deploy.ports.Units` wants them.

    Connects at the first call and again after the bus has died. Every call is bounded by
    `timeout_s`; `BusUnavailable` says that the manager does not answer. Threads may share it.
    """

    def __init__(self, address: str | None = None, timeout_s: float = 10.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._line: _Line | None = None
        self._seen = 0
        self._runs = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the connection. A later call makes a new one."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def states(self, units: Sequence[str]) -> dict[str, UnitState]:
        """The state of each unit, `not-found` ones included, in the order asked for."""
        line = self._connected()
        rows = self._ask(line, "ListUnitsByNames", list(units)) if units else []
        by_name = {row[0]: row for row in rows}
        if len(rows) == len(units):  # an alias is answered under its real name, in its place
            by_name |= dict(zip(units, rows, strict=True))
        # What is not loaded and does not run has nothing more to tell.
        real = [u for u in units if u in by_name and by_name[u][2:4] != ("not-found", "inactive")]
        asked = [(unit, place) for unit in real for place in places(by_name[unit][3])]
        values = line.gather([(by_name[unit][6], *place) for unit, place in asked])
        read: dict[str, dict[str, Any]] = {unit: {} for unit in real}
        for (unit, (_, name)), value in zip(asked, values, strict=True):
            read[unit][name] = value
        known = {unit: unit_state(unit, by_name[unit][2:5], read[unit]) for unit in real}
        return {unit: known.get(unit, UnitState(unit)) for unit in units}

    def dependents(self, units: Sequence[str]) -> tuple[str, ...]:
        """Services that run and need one of these: a stop or a failed restart takes them down."""
        line = self._connected()
        rows = self._ask(line, "ListUnitsByNames", list(units)) if units else []
        asked = [(row[6], f"{_SYSTEMD}.Unit", name) for row in rows for name in _NEEDING]
        needing = {unit for value in line.gather(asked) for unit in value or ()}
        services = sorted(u for u in needing - set(units) if u.endswith(".service"))
        return tuple(unit for unit, state in self.states(services).items() if state.running)

    def reload(self) -> None:
        """Make systemd read all unit files again."""
        # 65 to 90 ms is usual, 0.4 s with 1000 units; generators of others may take longer.
        self._ask(self._connected(), "Reload", timeout_s=max(self._timeout_s, 60.0))

    def reset_failed(self, units: Sequence[str]) -> None:
        """Forget failures and start counts. A unit that systemd has not loaded has none."""
        line = self._connected()
        for unit in units:
            try:
                line.ask("ResetFailedUnit", unit)
            except _Refusal:
                continue

    def run(self, action: Action, units: Sequence[str], timeout_s: float) -> dict[str, str]:
        """Queue one job per unit, then wait for all; unit → result.

        A job that is still running after `timeout_s` counts as `timeout` and stays queued. A unit
        whose job systemd refuses has the refusal as its result: D-Bus error name and text.
        """
        line = self._connected()
        deadline = time.monotonic() + timeout_s
        outcome: dict[str, str] = {}
        jobs: dict[str, str] = {}
        with line.changed:
            if self._runs == 0:
                line.results.clear()
            self._runs += 1
        try:
            for unit in units:
                try:
                    jobs[unit] = line.ask(_VERBS[action], unit, "replace")
                except _Refusal as refusal:
                    outcome[unit] = str(refusal)
            results = self._await(line, frozenset(jobs.values()), deadline)
        finally:
            with line.changed:
                self._runs -= 1
        outcome |= {unit: results.get(job, "timeout") for unit, job in jobs.items()}
        return {unit: outcome[unit] for unit in units}

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a unit changes; True at once for a change since the last call."""
        line = self._connected()
        with line.changed:
            line.changed.wait_for(lambda: line.dead or line.heard != self._seen, timeout_s)
            self._alive(line)
            moved = line.heard != self._seen
            self._seen = line.heard
        return moved

    def _await(self, line: _Line, jobs: frozenset[str], deadline: float) -> dict[str, str]:
        with line.changed:
            line.changed.wait_for(
                lambda: line.dead or jobs <= line.results.keys(),
                max(0.0, deadline - time.monotonic()),
            )
            if not jobs <= line.results.keys():
                self._alive(line)
            return {job: result for job, result in line.results.items() if job in jobs}

    def _alive(self, line: _Line) -> None:
        if line.dead:
            raise BusUnavailable("the user bus went away while labctl waited", hint=NO_BUS_HINT)

    def _ask(self, line: _Line, method: str, *args: object, timeout_s: float | None = None) -> Any:
        try:
            return line.ask(method, *args, timeout_s=timeout_s)
        except _Refusal as refusal:
            raise BusUnavailable(
                f"the systemd user manager refuses {method}: {refusal}",
                hint="see `systemctl --user status` and `journalctl --user -e`",
            ) from refusal

    def _connected(self) -> _Line:
        with self._lock:
            if self._line is None or self._line.dead:
                self._line = _Line(self._address or bus_address(), self._timeout_s)
                self._seen = -1  # nobody knows what happened before: the next wait returns at once
            return self._line
