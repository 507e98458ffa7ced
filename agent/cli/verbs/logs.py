"""`labctl logs`: a service's journal."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def logs(
    service: Annotated[str, typer.Argument(help="A service of the current generation.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many old ones.")] = 50,
) -> None:
    """Show a service's journal."""
    from agent.cli.host import open_host
    from agent.cli.services import service_named
    from agent.host.journal import follow_command
    from agent.model.errors import LabctlError

    command = follow_command(service_named(open_host(), service).unit, lines, follow)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise LabctlError(
            f"cannot run {command[0]}: {error.strerror}", hint="install systemd's journalctl"
        ) from error
