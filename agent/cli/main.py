"""`labctl`: the verbs and the one error boundary."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from agent import __version__
from agent.cli.output import paint, tell, wants_colour
from agent.cli.verbs import (
    check,
    deploy,
    generations,
    gpu,
    init,
    logs,
    model,
    plan,
    recover,
    rollback,
    status,
    units,
    verify,
)
from agent.model.errors import ExitCode, LabctlError

app = typer.Typer(
    name="labctl",
    help="Deploy, prove and roll back the language-model services of this host.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"labctl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploy, prove and roll back the language-model services of this host."""
    del version


app.command("init")(init.init)
app.command("check")(check.check)
app.command("plan")(plan.plan)
app.command("deploy")(deploy.deploy)
app.command("rollback")(rollback.rollback)
app.add_typer(generations.app, name="generations")
app.add_typer(gpu.gpu_app, name="gpu")
app.add_typer(model.model_app, name="model")
app.command("status")(status.status)
app.command("verify")(verify.verify)
app.command("logs")(logs.logs)
app.command("start")(units.start)
app.command("stop")(units.stop)
app.command("restart")(units.restart)
app.command("recover")(recover.recover)


def run(arguments: list[str]) -> int:
    """Run one command line. Every error that a person can meet ends here, without a traceback."""
    command = typer.main.get_command(app)
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
