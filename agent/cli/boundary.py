"""The one error boundary: what went wrong, in words, with its exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from agent.cli.output import paint, tell, wants_colour
from agent.model.errors import ExitCode, LabctlError


def explained(verb: Callable[[], int]) -> int:
    """Run a verb. Every error that a person can meet ends here, without a traceback."""
    try:
        return verb()
    except LabctlError as error:
        _explain(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        tell("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.OK
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
