"""`labctl verify`: the judge's probes, on demand."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent.cli import options


def verify(
    soak: Annotated[
        bool, typer.Option("--soak", help="Also watch every unit for the soak time.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Prove that what was deployed serves: units, ports, model lists, one completion a model."""
    from agent.cli.host import open_host, recover_if_needed
    from agent.cli.output import say_json, say_lines, wants_colour
    from agent.cli.views.outcome import failure_lines, verdict_json, verdict_lines
    from agent.model.errors import ExitCode
    from agent.model.verdict import Health

    host = open_host()
    recover_if_needed(host)
    generation, verdict = host.deployer.verify(soak=soak)
    if as_json:
        say_json({"generation": generation.number, **verdict_json(verdict)})
    else:
        colour = wants_colour(sys.stdout)
        say_lines(verdict_lines(verdict, colour=colour))
        say_lines(failure_lines(verdict.failures, colour=colour))
    healthy = verdict.health is Health.HEALTHY
    raise typer.Exit(ExitCode.OK if healthy else ExitCode.UNHEALTHY)
