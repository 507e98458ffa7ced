"""`labctl check`: every problem of a lab, at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent.cli import options


def check(
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="The lab's folder.")
    ] = None,
    lab: options.Lab = None,
    as_json: options.Json = False,
) -> None:
    """Check a lab without touching anything. Exit 0, or 78 when a deploy would be refused."""
    from agent.cli.checked import check_folder, directory_of
    from agent.cli.output import say, say_json, say_lines, wants_colour
    from agent.cli.views.findings import finding_lines, findings_json, summary_line
    from agent.model.errors import ExitCode

    checked = check_folder(directory_of(directory or lab))
    if as_json:
        say_json(findings_json(checked.findings, checked.directory))
    else:
        say_lines(finding_lines(checked.findings, colour=wants_colour(sys.stdout)))
        say(summary_line(checked.findings))
    raise typer.Exit(ExitCode.OK if checked.ok else ExitCode.REFUSED)
