"""What people and programs read: exact text and exact JSON, as functions of the model."""

from __future__ import annotations

import json

import pytest

from agent.cli.output import paint, plain, table, wants_colour
from agent.cli.views.findings import finding_lines, findings_json, summary_line
from agent.cli.views.outcome import outcome_json, outcome_lines, verdict_json, verdict_lines
from agent.cli.views.plan import change_lines, plan_json, plan_lines
from agent.model.finding import Finding, Position, Severity
from agent.model.generation import (
    Generation,
    GenerationKind,
    Manifest,
    ServiceSpec,
)
from agent.model.host import PortHolder
from agent.model.kinds import ServiceKind
from agent.model.plan import Action, ChangeKind, FileChange, Plan, Step
from agent.model.verdict import Health, Outcome, OutcomeKind, ProbeKind, Sample, Verdict

# -- findings ------------------------------------------------------------------------------------

FINDINGS = (
    Finding(
        "dangling-fallback",
        Severity.ERROR,
        Position("model-mappings.yaml", 250, 9),
        "the capability `a` prefers `b`: that is a provider",
        "The gateway answers 400.",
        "its model is `c`",
    ),
    Finding("unused", Severity.WARNING, Position("lab.yaml"), "`x` has no effect"),
    Finding("kept", Severity.NOTE, Position("lab.yaml", 1, 1), "all is well", hint="nothing"),
)


def test_findings_as_text() -> None:
    assert finding_lines(FINDINGS) == [
        "model-mappings.yaml:250:9: error[dangling-fallback]: the capability `a` prefers `b`:"
        " that is a provider",
        "    why: The gateway answers 400.",
        "    hint: its model is `c`",
        "lab.yaml: warning[unused]: `x` has no effect",
        "lab.yaml:1:1: note[kept]: all is well",
        "    hint: nothing",
    ]
    (coloured, *_) = finding_lines(FINDINGS, colour=True)
    assert "\x1b[31merror\x1b[0m[dangling-fallback]" in coloured


@pytest.mark.parametrize(
    ("findings", "line"),
    [
        ((), "ok: 0 errors, 0 warnings"),
        (FINDINGS[1:], "ok: 0 errors, 1 warning"),
        (FINDINGS, "refused: 1 error, 1 warning"),
        (FINDINGS[:1] * 2, "refused: 2 errors, 0 warnings"),
    ],
)
def test_findings_are_counted(findings: tuple[Finding, ...], line: str) -> None:
    assert summary_line(findings) == line


def test_findings_as_json() -> None:
    assert findings_json(FINDINGS[:1], "/lab") == {
        "ok": False,
        "lab": "/lab",
        "findings": [
            {
                "rule": "dangling-fallback",
                "severity": "error",
                "file": "model-mappings.yaml",
                "line": 250,
                "column": 9,
                "message": "the capability `a` prefers `b`: that is a provider",
                "why": "The gateway answers 400.",
                "hint": "its model is `c`",
            }
        ],
    }
    assert findings_json(FINDINGS[1:], "/lab")["ok"] is True


# -- plan ----------------------------------------------------------------------------------------

ALPHA = ServiceSpec("alpha", "alpha.service", ServiceKind.OLLAMA, port=8080, serves=("m",))
GATEWAY = ServiceSpec(
    "litellm", "litellm.service", ServiceKind.LITELLM, port=4000, serves=("m", "n")
)
CHANGES = (
    FileChange(
        "env/alpha.env",
        ChangeKind.CHANGED,
        'LABCTL_INPUTS="1"\nN_CTX="1"\nPORT="8080"\n',
        'LABCTL_INPUTS="2"\nN_CTX="2"\nPORT="8080"\n',
    ),
    FileChange("secrets.env", ChangeKind.CHANGED, secret=True),
    FileChange("units/beta.service", ChangeKind.ADDED, after="a\nb\n"),
    FileChange("units/old.service", ChangeKind.REMOVED, before="a\n"),
)
PLAN = Plan(
    changes=CHANGES,
    waves=(
        (Step(Action.RESTART, ALPHA, "environment changed"),),
        (Step(Action.RESTART, GATEWAY, "config changed"),),
    ),
    adopts=("/units/alpha.service",),
    switch=True,
    repairs=("/units/beta.service",),
)
HOLDER = PortHolder(8080, 812, "ollama", "ollama", "ollama.service")
GENERATION = Generation(Manifest(7, "", GenerationKind.DEPLOY, "", ""), "000007-x")


def test_a_plan_as_text() -> None:
    assert plan_lines(PLAN, GENERATION, {8080: HOLDER}, ["litellm.yaml"]) == [
        "Files",
        "  ~ env/alpha.env",
        "      @@ -1,2 +1,2 @@",
        '      -N_CTX="1"',
        '      +N_CTX="2"',
        '       PORT="8080"',
        "  ~ secrets.env",
        "      its values are not shown",
        "  + units/beta.service",
        "      added, 2 lines",
        "  - units/old.service",
        "      removed, 1 lines",
        "",
        "Keeps what stands there now, as an adopted generation",
        "  /units/alpha.service",
        "",
        "Puts back",
        "  /units/beta.service",
        "",
        "Edited by hand since the last deploy (a deploy refuses to lose this)",
        "  litellm.yaml",
        "",
        "Ports held by others (a deploy refuses)",
        "  8080: ollama (pid 812, user ollama) in ollama.service",
        "",
        "Units",
        "  1. restart alpha.service (environment changed)",
        "  2. restart litellm.service (config changed)",
    ]


def test_an_empty_plan_is_one_line() -> None:
    empty = Plan((), ())
    assert plan_lines(empty, GENERATION, {}, ()) == [
        "nothing to do: generation 7 is what the lab asks for"
    ]
    assert plan_lines(empty, GENERATION, {}, ["litellm.yaml"])[-1] == (
        "  none is started, stopped or restarted"
    )


def test_a_plan_as_json() -> None:
    value = plan_json(PLAN, GENERATION, {8080: HOLDER}, ["litellm.yaml"])
    assert value["waves"] == [
        [{"action": "restart", "unit": "alpha.service", "why": "environment changed"}],
        [{"action": "restart", "unit": "litellm.service", "why": "config changed"}],
    ]
    assert value["holders"] == {"8080": "ollama (pid 812, user ollama) in ollama.service"}
    assert (value["empty"], value["generation"]) == (False, 7)
    changes = json.loads(json.dumps(value["changes"]))
    assert changes[0]["diff"] == ["@@ -1,2 +1,2 @@", '-N_CTX="1"', '+N_CTX="2"', ' PORT="8080"']
    assert changes[1] == {"path": "secrets.env", "kind": "changed", "secret": True, "diff": []}
    assert plan_json(Plan((), ()), None, {}, ())["empty"] is True


def test_a_diff_in_colour_still_has_its_signs() -> None:
    lines = change_lines(CHANGES[:1], colour=True)
    assert '    \x1b[31m-N_CTX="1"\x1b[0m' in lines
    assert '    \x1b[32m+N_CTX="2"\x1b[0m' in lines


# -- outcome -------------------------------------------------------------------------------------

SERVES = Sample(ProbeKind.MODELS, "litellm", Health.HEALTHY, "serves all", 3.5, ("n", "m"))
FAILED = Sample(
    ProbeKind.UNIT,
    "alpha",
    Health.UNHEALTHY,
    "alpha.service: start job: failed (exit status 78)",
    log_tail=tuple(f"line {number}" for number in range(25)),
)
OPTIONAL = Sample(
    ProbeKind.HEALTH, "beta", Health.UNHEALTHY, "beta does not answer", required=False
)
HEALTHY = Verdict(Health.HEALTHY, (SERVES,))
WEAKER = Verdict(Health.HEALTHY, (SERVES, OPTIONAL), ("m: without beta, m is left",))
UNWELL = Verdict(Health.UNHEALTHY, (SERVES, FAILED))


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        (
            Outcome(OutcomeKind.NOTHING, False, 7, 7),
            ["nothing to do: generation 7 is what the lab asks for"],
        ),
        (
            Outcome(OutcomeKind.COMMITTED, True, 6, 7, HEALTHY, seconds=(("apply", 1.25),)),
            [
                "committed: generation 7 serves, proved",
                "serving: 2 models at the gateway: m, n",
                "took: apply 1.2 s",
            ],
        ),
        (
            Outcome(OutcomeKind.DEGRADED, True, 6, 7, WEAKER),
            [
                "committed: generation 7 serves, without optional services",
                "serving: 2 models at the gateway: m, n",
                "down, but not required: beta does not answer",
                "weaker: m: without beta, m is left",
            ],
        ),
        (
            Outcome(OutcomeKind.COMMITTED, True, 7, 8, HEALTHY, restores=6),
            [
                "rolled back: generation 8 restores generation 6, it serves, proved",
                "serving: 2 models at the gateway: m, n",
            ],
        ),
        (
            Outcome(OutcomeKind.ROLLED_BACK, False, 6, 6, HEALTHY, (FAILED,), 7),
            [
                "failed: alpha.service: start job: failed (exit status 78)",
                "  last 20 journal lines of alpha:",
                *[f"    line {number}" for number in range(5, 25)],
                "rolled back: generation 7 failed; generation 6 is restored and proved",
                "serving: 2 models at the gateway: m, n",
                "next: correct the lab, then `labctl plan` and `labctl deploy`",
            ],
        ),
        (
            Outcome(OutcomeKind.ROLLBACK_FAILED, False, 6, 6, UNWELL, (), 7),
            [
                "ROLLBACK NOT PROVED: generation 6 is in place, but does not serve what it should",
                "serving: 2 models at the gateway: m, n",
                "not healthy now: alpha.service: start job: failed (exit status 78)",
                "next: `labctl status` says what is down; `labctl generations list` what else"
                " to go back to",
            ],
        ),
        (
            Outcome(OutcomeKind.LEFT_IN_PLACE, True, 6, 7, None, (), 7),
            [
                "left in place: generation 7 failed its proof",
                "next: `labctl rollback` goes back to the last good generation",
            ],
        ),
    ],
    ids=lambda value: str(value.kind) if isinstance(value, Outcome) else "",
)
def test_outcomes_as_text(outcome: Outcome, lines: list[str]) -> None:
    assert outcome_lines(outcome) == lines


def test_an_outcome_as_json() -> None:
    outcome = Outcome(
        OutcomeKind.ROLLED_BACK, False, 6, 6, WEAKER, (FAILED,), 7, seconds=(("apply", 1.23456),)
    )
    value = json.loads(json.dumps(outcome_json(outcome)))
    probe = value.pop("failed_probe")
    assert value.pop("failed_probes") == [probe]
    assert probe["detail"] == "alpha.service: start job: failed (exit status 78)"
    assert len(value.pop("log_tail")) == 25
    assert value == {
        "outcome": "rolled back",
        "exit_code": 10,
        "changed": False,
        "from": 6,
        "to": 6,
        "attempted": 7,
        "restores": None,
        "weaker": ["m: without beta, m is left"],
        "seconds": {"apply": 1.235},
    }
    assert outcome_json(Outcome(OutcomeKind.NOTHING, False, 7, 7))["failed_probe"] is None


def test_a_verdict_as_text_and_json() -> None:
    assert verdict_lines(WEAKER) == [
        "healthy          3.5 ms  models      litellm: serves all",
        "unhealthy                health      beta does not answer",
        "weaker: m: without beta, m is left",
        "verdict: healthy",
    ]
    value = json.loads(json.dumps(verdict_json(WEAKER)))
    assert (value["health"], value["weaker"]) == ("healthy", ["m: without beta, m is left"])
    assert [s["required"] for s in value["samples"]] == [True, False]


# -- output --------------------------------------------------------------------------------------


class Stream:
    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "environment", "colour"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], colour: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Stream(terminal)) is colour
    assert wants_colour(object()) is False


def test_paint_and_table() -> None:
    assert paint("x", "red", colour=False) == "x"
    assert paint("", "red", colour=True) == ""
    assert table(("A", "B"), [("long", "y  "), ("", "")]) == ["A     B", "long  y", ""]


def test_plain_knows_what_json_knows() -> None:
    value = {1: (Action.STOP, frozenset({2})), "spec": FileChange("p", ChangeKind.ADDED)}
    assert plain(value) == {
        "1": ["stop", [2]],
        "spec": {"path": "p", "kind": "added", "before": "", "after": "", "secret": False},
    }
