"""What the judge sees and says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.model.errors import ExitCode
from agent.model.placed import OffloadProof


class Health(StrEnum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    TIMED_OUT = "timed out"
    UNVERIFIABLE = "unverifiable"


class ProbeKind(StrEnum):
    """What a sample is about."""

    UNIT = "unit"
    PORT = "port"
    HEALTH = "health"
    MODELS = "models"
    COMPLETION = "completion"
    OFFLOAD = "offload"


@dataclass(frozen=True, slots=True)
class Sample:
    """One result of one probe.

    Attributes:
        subject: the service or model group that was probed.
        detail: one sentence of evidence.
        ttfb_ms: time to the first byte of the answer, milliseconds.
        models: for a model list, the names it held.
        log_tail: for a failed unit, its last journal lines.
        required: False when the subject may be down without failing a deploy.
    """

    probe: ProbeKind
    subject: str
    health: Health
    detail: str
    ttfb_ms: float | None = None
    models: tuple[str, ...] = ()
    log_tail: tuple[str, ...] = ()
    required: bool = True

    @property
    def good(self) -> bool:
        return self.health is Health.HEALTHY

    @property
    def sentence(self) -> str:
        """The evidence, with what it is about."""
        told = self.detail.startswith(self.subject)
        return self.detail if told else f"{self.subject}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement over all samples.

    `weaker` says which chains have lost members to services that may be down; `proofs` where the
    layers of each placed service were found.
    """

    health: Health
    samples: tuple[Sample, ...] = ()
    weaker: tuple[str, ...] = ()
    proofs: tuple[OffloadProof, ...] = ()

    @property
    def failures(self) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.required and not s.good)

    @property
    def optional_failures(self) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if not s.required and not s.good)


class OutcomeKind(StrEnum):
    COMMITTED = "committed"
    DEGRADED = "degraded"
    NOTHING = "nothing to do"
    ROLLED_BACK = "rolled back"
    ROLLBACK_FAILED = "rollback failed"
    LEFT_IN_PLACE = "left in place"

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES[self]


_EXIT_CODES = {
    OutcomeKind.COMMITTED: ExitCode.OK,
    OutcomeKind.DEGRADED: ExitCode.OK,
    OutcomeKind.NOTHING: ExitCode.OK,
    OutcomeKind.ROLLED_BACK: ExitCode.ROLLED_BACK,
    OutcomeKind.ROLLBACK_FAILED: ExitCode.ROLLBACK_FAILED,
    OutcomeKind.LEFT_IN_PLACE: ExitCode.LEFT_IN_PLACE,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transaction ended.

    Attributes:
        changed: whether anything on the host changed and stayed changed.
        before, after: generation numbers that `current` named before and names now.
        verdict: of what serves now; None when nothing was judged.
        failed: the samples that failed the target, where it failed.
        attempted: the generation that failed.
        restores: for a rollback by hand, the generation that it brought back.
        seconds: wall time of each named part.
    """

    kind: OutcomeKind
    changed: bool
    before: int | None
    after: int | None
    verdict: Verdict | None = None
    failed: tuple[Sample, ...] = ()
    attempted: int | None = None
    restores: int | None = None
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        return self.kind.exit_code
