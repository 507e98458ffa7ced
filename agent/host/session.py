"""Where the user's session is: the bus's address, lingering, the runtime folder."""

from __future__ import annotations

import os
from pathlib import Path

from agent.model.errors import BusUnavailable
from agent.model.host import HostPaths

NO_BUS_HINT = (
    "is the user manager running? `systemctl --user status` must answer. Without an open session "
    "it needs lingering: `sudo loginctl enable-linger $(id -un)`, then "
    "`export XDG_RUNTIME_DIR=/run/user/$(id -u)`"
)


def bus_address() -> str:
    """The user bus's address from the environment. Raises `BusUnavailable` without one."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return address
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return f"unix:path={runtime}/bus"
    raise BusUnavailable(
        "no user bus: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set",
        hint=NO_BUS_HINT,
    )


def linger_enabled(user: str, folder: str = "/var/lib/systemd/linger") -> bool:
    """Whether the user's manager starts at boot and outlives their sessions."""
    return (Path(folder) / user).exists()


def host_paths(home: str, runtime: str | None) -> HostPaths:
    """Where labctl keeps things. `runtime` is XDG_RUNTIME_DIR; the state folder replaces it.

    The state folder is fixed and ignores XDG_STATE_HOME: the static units name it with `%h`.
    """
    state = f"{home}/.local/state/labctl"
    return HostPaths(
        home=home,
        state=state,
        units=f"{home}/.config/systemd/user",
        runtime=f"{runtime}/labctl" if runtime else f"{state}/run",
    )
