"""`labctl`: the verbs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from agent import __version__
from agent.cli.boundary import explained
from agent.model.errors import ExitCode

# Verb → where its function or, for a group of verbs, its typer app is.
VERBS = {
    "init": "init:init",
    "check": "check:check",
    "plan": "plan:plan",
    "deploy": "deploy:deploy",
    "rollback": "rollback:rollback",
    "generations": "generations:app",
    "gpu": "gpu:gpu_app",
    "model": "model:model_app",
    "status": "status:status",
    "verify": "verify:verify",
    "logs": "logs:logs",
    "start": "units:start",
    "stop": "units:stop",
    "restart": "units:restart",
    "recover": "recover:recover",
}


def command_line(only: str | None = None) -> typer.Typer:
    """The command line, with every verb or with one: building all takes a tenth of a second."""
    app = typer.Typer(
        name="labctl",
        help="Deploy, prove and roll back the language-model services of this host.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for verb in [only] if only is not None else VERBS:
        module, name = VERBS[verb].split(":")
        made: typer.Typer | Callable[..., None] = getattr(
            import_module(f"agent.cli.verbs.{module}"), name
        )
        if isinstance(made, typer.Typer):
            app.add_typer(made, name=verb)
        else:
            app.command(verb)(made)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"labctl {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploy, prove and roll back the language-model services of this host."""
    del version


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit status."""
    known = arguments[0] if arguments and arguments[0] in VERBS else None

    def parsed() -> int:
        command = typer.main.get_command(command_line(known))
        code = command.main(args=arguments, prog_name="labctl", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.OK

    return explained(parsed)
