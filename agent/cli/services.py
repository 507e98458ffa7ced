"""Find what a command line names: a generation, or a service of the current one."""

from __future__ import annotations

import difflib

from agent.cli.host import Host
from agent.model.errors import NoTarget, UsageProblem
from agent.model.generation import Generation, ServiceSpec


def current_generation(host: Host) -> Generation:
    current = host.store.current()
    if current is None:
        raise NoTarget("nothing was deployed yet", hint="run `labctl deploy`")
    return current


def generation_numbered(host: Host, number: int) -> Generation:
    generation = host.store.generation(number)
    if generation is None:
        raise NoTarget(
            f"there is no generation {number}",
            hint="`labctl generations list` shows what there is",
        )
    return generation


def service_named(host: Host, name: str) -> ServiceSpec:
    """By service or unit name. Raises UsageProblem with the names that there are."""
    services = current_generation(host).manifest.services
    for spec in services:
        if name in (spec.name, spec.unit):
            return spec
    names = [spec.name for spec in services]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
    raise UsageProblem(f"no service is called {name!r}", hint=hint)
