"""How a deploy or a rollback ended, for people and for programs.

On failure, in this order: what failed; the last journal lines of that unit; what was restored;
what serves now; the next command to type.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.cli.output import paint
from agent.model.verdict import Health, Outcome, OutcomeKind, Sample, Verdict

LOG_LINES_SHOWN = 20


def outcome_lines(outcome: Outcome, *, colour: bool = False) -> list[str]:
    if outcome.kind is OutcomeKind.NOTHING:
        return [f"nothing to do: generation {outcome.after} is what the lab asks for"]
    lines = failure_lines(outcome.failed, colour=colour)
    lines += [_headline(outcome, colour=colour)]
    if outcome.verdict is not None:
        lines += serving_lines(outcome.verdict)
    if outcome.seconds:
        lines.append("took: " + ", ".join(f"{name} {s:.1f} s" for name, s in outcome.seconds))
    lines += [f"next: {hint}" for hint in _next(outcome)]
    return lines


def failure_lines(failed: Sequence[Sample], *, colour: bool = False) -> list[str]:
    lines = []
    for sample in failed:
        lines.append(paint("failed: ", "red", colour=colour) + sample.sentence)
        tail = sample.log_tail[-LOG_LINES_SHOWN:]
        if tail:
            lines.append(f"  last {len(tail)} journal lines of {sample.subject}:")
            lines += [f"    {line}" for line in tail]
    return lines


def _headline(outcome: Outcome, *, colour: bool) -> str:
    after, attempted = outcome.after, outcome.attempted
    what = f"committed: generation {after}"
    if outcome.restores is not None:
        what = f"rolled back: generation {after} restores generation {outcome.restores}, it"
    good = {
        OutcomeKind.COMMITTED: f"{what} serves, proved",
        OutcomeKind.DEGRADED: f"{what} serves, without optional services",
    }
    bad = {
        OutcomeKind.ROLLED_BACK: f"rolled back: generation {attempted} failed;"
        f" generation {after} is restored and proved",
        OutcomeKind.ROLLBACK_FAILED: f"ROLLBACK NOT PROVED: generation {after} is in place,"
        " but does not serve what it should",
        OutcomeKind.LEFT_IN_PLACE: f"left in place: generation {after} failed its proof",
    }
    if outcome.kind in good:
        return paint(good[outcome.kind], "green", colour=colour)
    return paint(bad[outcome.kind], "yellow", colour=colour)


def serving_lines(verdict: Verdict) -> list[str]:
    """What serves now, after the client-facing port answered; and what is weaker for it."""
    lines = []
    models = next((s.models for s in verdict.samples if s.good and s.models), ())
    gateway = [s for s in verdict.samples if s.subject == "litellm" and s.models and s.good]
    if gateway:
        models = gateway[0].models
        lines.append(f"serving: {len(models)} models at the gateway: {', '.join(sorted(models))}")
    elif verdict.health is Health.HEALTHY and models:
        lines.append(f"serving: {', '.join(models)}")
    lines += [f"down, but not required: {s.sentence}" for s in verdict.optional_failures]
    lines += [f"weaker: {sentence}" for sentence in verdict.weaker]
    if verdict.health is not Health.HEALTHY:
        lines += [f"not healthy now: {s.sentence}" for s in verdict.failures]
    return lines


def _next(outcome: Outcome) -> tuple[str, ...]:
    if outcome.kind is OutcomeKind.ROLLED_BACK:
        return ("correct the lab, then `labctl plan` and `labctl deploy`",)
    if outcome.kind is OutcomeKind.ROLLBACK_FAILED:
        return (
            "`labctl status` says what is down; `labctl generations list` what else to go back to",
        )
    if outcome.kind is OutcomeKind.LEFT_IN_PLACE:
        return ("`labctl rollback` goes back to the last good generation",)
    return ()


def outcome_json(outcome: Outcome) -> dict[str, object]:
    failed = outcome.failed
    return {
        "outcome": str(outcome.kind),
        "exit_code": int(outcome.exit_code),
        "changed": outcome.changed,
        "from": outcome.before,
        "to": outcome.after,
        "attempted": outcome.attempted,
        "restores": outcome.restores,
        "failed_probe": sample_json(failed[0]) if failed else None,
        "failed_probes": [sample_json(sample) for sample in failed],
        "log_tail": list(failed[0].log_tail) if failed else [],
        "weaker": list(outcome.verdict.weaker) if outcome.verdict else [],
        "seconds": {name: round(seconds, 3) for name, seconds in outcome.seconds},
    }


def sample_json(sample: Sample) -> dict[str, object]:
    return {
        "probe": str(sample.probe),
        "subject": sample.subject,
        "health": str(sample.health),
        "detail": sample.detail,
        "ttfb_ms": sample.ttfb_ms,
        "models": list(sample.models),
        "required": sample.required,
    }


def verdict_json(verdict: Verdict) -> dict[str, object]:
    return {
        "health": str(verdict.health),
        "samples": [sample_json(sample) for sample in verdict.samples],
        "weaker": list(verdict.weaker),
    }


def verdict_lines(verdict: Verdict, *, colour: bool = False) -> list[str]:
    """Every sample on a line, then the verdict."""
    lines = []
    for sample in verdict.samples:
        style = "green" if sample.good else ("red" if sample.required else "yellow")
        health = paint(f"{sample.health!s:<12}", style, colour=colour)
        ttfb = f"{sample.ttfb_ms:7.1f} ms" if sample.ttfb_ms is not None else " " * 10
        lines.append(f"{health} {ttfb}  {sample.probe!s:<10}  {sample.sentence}")
    lines += [f"weaker: {sentence}" for sentence in verdict.weaker]
    return [*lines, f"verdict: {verdict.health}"]
