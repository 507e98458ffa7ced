"""`labctl status`: one table of what this host runs."""

from __future__ import annotations

import sys

import typer

from agent.cli import options


def status(as_json: options.Json = False) -> None:
    """Show services, health, the current generation and drift. Exit 3 when not healthy."""
    from agent.cli.host import open_host, recover_if_needed
    from agent.cli.look import look
    from agent.cli.output import say_json, say_lines, wants_colour
    from agent.cli.services import current_generation
    from agent.cli.views.status import status_json, status_lines
    from agent.model.errors import ExitCode

    host = open_host()
    recover_if_needed(host)
    seen = look(host, current_generation(host))
    if as_json:
        say_json(status_json(seen))
    else:
        say_lines(status_lines(seen, colour=wants_colour(sys.stdout)))
    raise typer.Exit(ExitCode.OK if seen.healthy else ExitCode.UNHEALTHY)
