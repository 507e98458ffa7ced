"""`labctl start|stop|restart`: act on services of the current generation, and see them answer."""

from __future__ import annotations

from typing import Annotated

import typer

Services = Annotated[
    list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Which; all by default.")
]


def start(services: Services = None) -> None:
    """Start services and wait until they answer."""
    _act("start", services)


def stop(services: Services = None) -> None:
    """Stop services, the gateway first."""
    _act("stop", services)


def restart(services: Services = None) -> None:
    """Restart services, never two providers of one chain at a time, the gateway last."""
    _act("restart", services)


def _act(verb: str, names: list[str] | None) -> None:
    from agent.cli.host import exclusive, open_host
    from agent.cli.output import say, say_lines
    from agent.cli.services import current_generation, service_named
    from agent.cli.views.outcome import failure_lines
    from agent.deploy.apply import Applier
    from agent.deploy.planner import order
    from agent.model.errors import ExitCode
    from agent.model.plan import Action, Step

    action = Action(verb)
    host = open_host()
    with exclusive(host, verb):
        manifest = current_generation(host).manifest
        asked = [service_named(host, name) for name in names or ()] or list(manifest.services)
        steps = [Step(action, spec, "asked for by hand") for spec in asked]
        waves = order(steps, (), manifest.groups)
        if action is Action.STOP:
            gateway_first = sorted(steps, key=lambda step: not step.service.is_gateway)
            waves = tuple((step,) for step in gateway_first)
        with host.ports.signals.interruptible():
            applier = Applier(host.ports, manifest.judge, manifest.placements)
            failed = applier.run(waves)
    say_lines(failure_lines(failed))
    if failed:
        raise typer.Exit(ExitCode.UNHEALTHY)
    done = {Action.START: "started", Action.STOP: "stopped", Action.RESTART: "restarted"}[action]
    say(f"{done}: {', '.join(spec.name for spec in asked)}")
