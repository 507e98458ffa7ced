"""`labctl`: the verbs and the one error boundary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from agent import __version__
from agent.cli.output import paint, tell, wants_colour
from agent.model.errors import ExitCode, LabctlError

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
    """Run one command line. Every error that a person can meet ends here, without a traceback."""
    known = arguments[0] if arguments and arguments[0] in VERBS else None
    command = typer.main.get_command(command_line(known))
    try:
        code = command.main(args=arguments, prog_name="labctl", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.OK
    except LabctlError as error:
        _explain(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        tell("interrupted")
        return ExitCode.INTERRUPTED
    except SystemExit as stop:
        # typer's own exit where the reader of our stdout has gone, as in `labctl logs | head`.
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 - the boundary
        return _other(error)


def _other(error: Exception) -> int:
    """A usage error of the parser, or a defect of ours."""
    show = getattr(error, "format_message", None)
    if show is not None:
        context = getattr(error, "ctx", None)
        hint = f"try `{context.command_path} --help`" if context is not None else ""
        if show():
            _explain(show(), hint)
        return ExitCode.USAGE
    if os.environ.get("LABCTL_DEBUG"):
        raise error
    _explain(
        f"unexpected {type(error).__name__}: {error}",
        "this is a defect of labctl: run again with LABCTL_DEBUG=1 and report what it prints",
    )
    return ExitCode.UNEXPECTED


def _explain(message: str, hint: str) -> None:
    tell(paint("labctl: ", "red", colour=wants_colour(sys.stderr)) + message)
    if hint:
        tell(f"  hint: {hint}")
