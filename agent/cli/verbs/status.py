"""`labctl status`: one table of what this host runs."""

from __future__ import annotations

import typer

from agent.cli import options


def status(as_json: options.Json = False) -> None:
    """Show services, health, the current generation and drift. Exit 3 when not healthy."""
    from agent.cli.look import show_status

    raise typer.Exit(show_status(as_json=as_json))
