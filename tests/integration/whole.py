"""Run inside a host: is it wholly one generation, and does recovering again change nothing?"""

from __future__ import annotations

import json
import sys

from agent.cli.host import open_host
from agent.deploy.placements import Placements
from agent.model.generation import Generation


def troubles() -> list[str]:
    """Every way in which the host is not wholly its current generation."""
    host = open_host()
    found = []
    if host.store.record() is not None:
        found.append("the record is still open")
    found += [f"leftover {name}" for name in _leftovers(host.paths.state, host.ports.disk.names)]
    if host.recoverer.recover() is not None:
        found.append("recovering again found something to do")
    current = host.store.current()
    if current is None:
        return found
    found += [f"edited {path}" for path in host.store.edited(current)]
    placements = Placements(host.ports.disk, host.store)
    found += [f"misplaced {path}" for path in placements.wrong(current)]
    if host.store.last_good() is None:
        found.append("no last good generation")
    return found + _units(current)


def _leftovers(state: str, names: object) -> list[str]:
    assert callable(names)
    return [
        name
        for folder in (state, f"{state}/generations")
        for name in names(folder)
        if name.endswith(".new") or name.startswith((".sealing", ".removing"))
    ]


def _units(current: Generation) -> list[str]:
    host = open_host()
    specs = current.manifest.services
    states = host.units.states([spec.unit for spec in specs])
    found = []
    for spec in specs:
        state = states[spec.unit]
        if spec.active != state.running:
            found.append(f"{spec.unit} is {state.active}, {state.sub}")
        elif state.running and state.main_pid is not None:
            carried = host.ports.processes.inputs(state.main_pid)
            if carried != spec.inputs:
                found.append(f"{spec.unit} runs with inputs {carried}, not {spec.inputs}")
    return found


if __name__ == "__main__":
    current = open_host().store.current()
    number = current.number if current else None
    json.dump({"current": number, "troubles": troubles()}, sys.stdout)
