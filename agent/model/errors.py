"""One error root and the exit codes of every verb."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a verb's exit status means. The table in the reference is generated from here."""

    OK = 0
    UNEXPECTED = 1
    CHANGES_PENDING = 2
    UNHEALTHY = 3
    ROLLED_BACK = 10
    ROLLBACK_FAILED = 11
    NOT_CONFIRMED = 12
    LEFT_IN_PLACE = 13
    STALE = 14
    NO_TARGET = 15
    USAGE = 64
    LOCKED = 75
    REFUSED = 78
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """One line for the reference and for `labctl help`."""
        return _MEANINGS[self]


_MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "what was asked for is active and verified, or nothing had to change",
    ExitCode.UNEXPECTED: "an unexpected error; the message says what is known",
    ExitCode.CHANGES_PENDING: "`plan --detailed-exitcode`: changes are pending",
    ExitCode.UNHEALTHY: "`status`, `verify`, `gpu`: something is not healthy",
    ExitCode.ROLLED_BACK: "the deploy failed, was rolled back, and the rollback is verified",
    ExitCode.ROLLBACK_FAILED: "the deploy failed and the rollback failed or is not verified",
    ExitCode.NOT_CONFIRMED: "not confirmed in time, rolled back",
    ExitCode.LEFT_IN_PLACE: "failed and left in place (`--no-rollback`, or nothing older exists)",
    ExitCode.STALE: "the plan is stale or deployed files were edited by hand; nothing touched",
    ExitCode.NO_TARGET: "no such generation to roll back to; nothing touched",
    ExitCode.USAGE: "the command line is wrong; nothing touched",
    ExitCode.LOCKED: "another labctl holds the lock; nothing touched",
    ExitCode.REFUSED: "the check failed, or it does not fit the GPUs; nothing touched",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C, after a safe unwind",
    ExitCode.TERMINATED: "terminated by SIGTERM, after a safe unwind",
}


class LabctlError(Exception):
    """Every error that labctl explains to a person.

    Attributes:
        message: what is wrong, with the value it is wrong about.
        hint: what to do next; empty only where nothing can be done.
        exit_code: the process's exit status.
    """

    exit_code: ExitCode = ExitCode.UNEXPECTED

    def __init__(self, message: str, *, hint: str = "", exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageProblem(LabctlError):
    """The command line asks for something that does not exist."""

    exit_code = ExitCode.USAGE


class Refused(LabctlError):
    """A check failed before anything was touched."""

    exit_code = ExitCode.REFUSED


class LockHeld(LabctlError):
    """Another labctl works on this host right now."""

    exit_code = ExitCode.LOCKED


class Stale(LabctlError):
    """The host is not what the plan was made from, or deployed files were edited by hand."""

    exit_code = ExitCode.STALE


class NoTarget(LabctlError):
    """There is no generation that this rollback could restore."""

    exit_code = ExitCode.NO_TARGET


class DiskFailure(LabctlError):
    """A disk operation failed: full, read-only, no permission, or a failed fsync."""


class BusUnavailable(LabctlError):
    """The systemd user manager does not answer on D-Bus."""


class StoreDamaged(LabctlError):
    """A generation, a record or a link of the state folder is not readable as what it should be."""


class Interrupted(LabctlError):
    """A signal asked to stop; raised at a safe point so that the transaction can unwind."""

    exit_code = ExitCode.INTERRUPTED
