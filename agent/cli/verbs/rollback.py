"""`labctl rollback`: go back, at once, without the lab."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent.cli import options


def rollback(
    generation: Annotated[
        int | None,
        typer.Argument(
            metavar="[GENERATION]", help="Which one; the last verified-good one by default."
        ),
    ] = None,
    reason: options.Reason = "",
    as_json: options.Json = False,
) -> None:
    """Restore a generation as a new one, and prove it. Reads no lab and needs no network."""
    from agent.cli.host import exclusive, open_host
    from agent.cli.output import say_json, say_lines, wants_colour
    from agent.cli.report import reporter
    from agent.cli.views.outcome import outcome_json, outcome_lines

    report = reporter(as_json=as_json)
    host = open_host(report)
    try:
        with exclusive(host, "rollback") as recovery:
            # Recovering has just gone back: to go back once more would be too far.
            if generation is None and recovery is not None and recovery.went_back:
                outcome = recovery.outcome
            else:
                outcome = host.deployer.rollback(generation, reason=reason)
    finally:
        report.close()
    if as_json:
        say_json(outcome_json(outcome), compact=True)
    else:
        say_lines(outcome_lines(outcome, colour=wants_colour(sys.stdout)))
    raise typer.Exit(outcome.exit_code)
