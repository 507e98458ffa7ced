"""`labctl recover`: finish or undo what an interrupted labctl left."""

from __future__ import annotations

import typer

from agent.cli import options


def recover(as_json: options.Json = False) -> None:
    """Bring the host to wholly old or wholly new. Every changing verb does this first."""
    from agent.cli.host import open_host
    from agent.cli.host import recover as recover_host
    from agent.cli.output import say, say_json
    from agent.host.lock import HostLock
    from agent.model.errors import ExitCode
    from agent.model.verdict import Health

    host = open_host()
    with HostLock(host.paths.runtime, "recover"):
        recovery = recover_host(host)
    healthy = (
        recovery is None or recovery.verdict is None or recovery.verdict.health is Health.HEALTHY
    )
    if as_json:
        went = recovery.went_to if recovery is not None and recovery.went_to >= 0 else None
        say_json(
            {
                "recovered": recovery is not None,
                "generation": went,
                "swept": list(recovery.swept) if recovery else [],
                "healthy": healthy,
            }
        )
    elif recovery is None:
        say("nothing to recover: the last change was completed")
    elif recovery.went_to < 0:
        say(f"removed {len(recovery.swept)} half-written leftovers; nothing else was touched")
    else:
        say(f"generation {recovery.went_to} is in place")
    raise typer.Exit(ExitCode.OK if healthy else ExitCode.UNHEALTHY)
