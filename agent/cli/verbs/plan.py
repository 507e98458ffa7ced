"""`labctl plan`: what a deploy would do."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent.cli import options


def plan(
    lab: options.Lab = None,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when changes are pending.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show the diff of files and the unit actions of a deploy. Touches nothing."""
    from agent.cli.desired import desired
    from agent.cli.host import open_host, recover_if_needed
    from agent.cli.output import plain, say_json, say_lines, wants_colour
    from agent.cli.views.plan import placement_lines, plan_json, plan_lines
    from agent.model.errors import ExitCode

    host = open_host()
    recover_if_needed(host)
    rendered = desired(host, lab).rendered
    planned = host.deployer.plan(rendered)
    holders, edited = dict(planned.observed.holders), planned.observed.edited
    if as_json:
        shown = plan_json(planned.plan, planned.current, holders, edited)
        say_json({**shown, "placements": plain(list(rendered.placements))})
    else:
        colour = wants_colour(sys.stdout)
        say_lines(plan_lines(planned.plan, planned.current, holders, edited, colour=colour))
        say_lines(placement_lines(rendered.placements))
    pending = not planned.plan.empty or bool(edited)
    raise typer.Exit(ExitCode.CHANGES_PENDING if detailed and pending else ExitCode.OK)
