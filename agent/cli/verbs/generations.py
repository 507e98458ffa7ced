"""`labctl generations`: what was deployed, and what can be gone back to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import options

if TYPE_CHECKING:
    from agent.cli.host import Host

app = typer.Typer(
    help="List, show, compare and prune generations.", no_args_is_help=True, rich_markup_mode=None
)
Number = Annotated[int, typer.Argument(metavar="GENERATION")]


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """Every generation, the newest last."""
    from agent.cli.host import open_host, recover_if_needed
    from agent.cli.output import say, say_json, say_lines
    from agent.cli.views.generations import generation_json, generation_table

    host = open_host()
    recover_if_needed(host)
    number, trouble = _current_number(host)
    generations, damaged = host.store.generations(), host.store.damaged()
    if as_json:
        say_json(
            {
                "current": number,
                "generations": [generation_json(g) for g in generations],
                "damaged": [{"folder": d.folder, "why": d.why} for d in damaged],
            }
        )
        return
    if not generations:
        say("nothing was deployed yet")
    else:
        say_lines(generation_table(generations, number))
    for broken in damaged:
        say(f"damaged: {broken.folder}: {broken.why}")
    if trouble:
        say(f"damaged: {trouble}; `labctl recover` goes to the last good generation")


def _current_number(host: Host) -> tuple[int | None, str]:
    """The current generation's number, or why nobody knows it."""
    from agent.model.errors import StoreDamaged

    try:
        current = host.store.current()
    except StoreDamaged as error:
        return None, error.message
    return (current.number if current else None), ""


@app.command("show")
def show(generation: Number, as_json: options.Json = False) -> None:
    """One generation: why it was made, what it serves, how it was judged."""
    from agent.cli.host import open_host
    from agent.cli.output import say_json, say_lines
    from agent.cli.services import generation_numbered
    from agent.cli.views.generations import generation_json, generation_lines

    host = open_host()
    chosen = generation_numbered(host, generation)
    edited = host.store.edited(chosen)
    if as_json:
        say_json({**generation_json(chosen), "edited": list(edited)})
    else:
        say_lines(generation_lines(chosen, host.store.folder(chosen), edited))


@app.command("diff")
def diff(
    before: Number,
    after: Annotated[
        int | None, typer.Argument(metavar="[GENERATION]", help="The current one by default.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """What changed between two generations. Secrets are named, never shown."""
    from agent.cli.host import open_host
    from agent.cli.output import plain, say, say_json, say_lines, wants_colour
    from agent.cli.services import current_generation, generation_numbered
    from agent.cli.views.plan import change_lines

    host = open_host()
    old = generation_numbered(host, before)
    new = generation_numbered(host, after) if after is not None else current_generation(host)
    changes = host.deployer.changes(old, host.store.files(new))
    if as_json:
        say_json({"from": old.number, "to": new.number, "changes": plain(list(changes))})
    elif not changes:
        say(f"generations {old.number} and {new.number} hold the same files")
    else:
        say_lines(change_lines(changes, colour=wants_colour(sys.stdout)))


@app.command("prune")
def prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many of the newest stay.")] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which would go.")] = False,
) -> None:
    """Remove old generations; never the current, last good, adopted or in-flight ones."""
    from agent.cli.host import exclusive, open_host
    from agent.cli.output import say

    host = open_host()
    with exclusive(host, "generations prune"):
        gone = host.store.prunable(keep)
        for generation in gone:
            if not dry_run:
                host.store.remove(generation)
            say(f"{'would remove' if dry_run else 'removed'} generation {generation.number}")
    if not gone:
        say("nothing to prune")
