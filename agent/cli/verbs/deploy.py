"""`labctl deploy`: make this host serve what the lab asks for, proved, or leave it as it was."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent.cli import options


def deploy(
    lab: options.Lab = None,
    reason: options.Reason = "",
    from_git: Annotated[
        str | None, typer.Option("--from-git", metavar="REV", help="Deploy the lab as of REV.")
    ] = None,
    no_rollback: Annotated[
        bool, typer.Option("--no-rollback", help="Leave a failed deploy in place.")
    ] = False,
    discard_edits: Annotated[
        bool,
        typer.Option("--discard-edits", help="Deploy although deployed files were edited by hand."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Deploy the lab as one transaction: check, switch, prove; or put the last good state back."""
    from agent.cli.desired import desired
    from agent.cli.host import exclusive, open_host
    from agent.cli.output import say_json, say_lines, wants_colour
    from agent.cli.pruning import prune_quietly
    from agent.cli.report import reporter
    from agent.cli.views.outcome import outcome_json, outcome_lines

    report = reporter(as_json=as_json)
    host = open_host(report)
    try:
        with exclusive(host, "deploy"):
            wanted = desired(host, lab, from_git)
            outcome = host.deployer.deploy(
                wanted.rendered,
                reason=reason or (f"the lab as of git {from_git}" if from_git else "deploy"),
                digest_key=wanted.digest_key,
                keep_target=no_rollback,
                discard_edits=discard_edits,
            )
            prune_quietly(host, wanted.keep_generations)
    finally:
        report.close()
    if as_json:
        say_json(outcome_json(outcome), compact=True)
    else:
        say_lines(outcome_lines(outcome, colour=wants_colour(sys.stdout)))
    raise typer.Exit(outcome.exit_code)
