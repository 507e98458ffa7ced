"""The status table and the generations, as exact text and exact JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.cli.views.generations import generation_json, generation_lines, generation_table
from agent.cli.views.status import Row, Seen, status_json, status_lines
from agent.model.generation import (
    FileEntry,
    Generation,
    GenerationKind,
    Judgement,
    Manifest,
    ServiceSpec,
    Standing,
)
from agent.model.host import UnitState
from agent.model.kinds import ServiceKind
from agent.model.placed import EvidenceLevel, OffloadProof, OffloadVerdict
from agent.model.verdict import Health, ProbeKind, Sample

ALPHA = ServiceSpec("alpha", "alpha.service", ServiceKind.OLLAMA, port=8080, serves=("m",))
GATEWAY = ServiceSpec(
    "litellm", "litellm.service", ServiceKind.LITELLM, port=4000, serves=("m", "n")
)
MANIFEST = Manifest(
    7,
    "2026-01-02T03:04:05+00:00",
    GenerationKind.DEPLOY,
    "new model",
    "digest",
    files=(FileEntry("env/alpha.env", "0" * 64, 0o600),),
    services=(ALPHA, replace(GATEWAY, required=False)),
    lab="/home/me/.config/labctl",
    git_commit="0123456789abcdef",
    labctl_version="0.1.0",
)
GENERATION = Generation(MANIFEST, "000007-20260102T030405Z")
JUDGED = replace(
    GENERATION,
    judgement=Judgement(Standing.DEGRADED, "2026-01-02T03:05:00+00:00", ("beta is down",)),
)


# -- status --------------------------------------------------------------------------------------

UP = UnitState(
    "alpha.service",
    "loaded",
    "active",
    "running",
    main_pid=7,
    since=1000.0,
    memory_bytes=512 << 20,
)
DOWN = UnitState("litellm.service", "loaded", "failed", "failed", None, 0, "exit-code", "exited", 3)
ROWS = (
    Row(
        ALPHA,
        UP,
        Sample(ProbeKind.HEALTH, "alpha", Health.HEALTHY, "alpha answers", 1.25),
        OffloadProof("alpha", OffloadVerdict.FULL, 33, 33, EvidenceLevel.LOGGED),
    ),
    Row(GATEWAY, DOWN, None),
)
SEEN = Seen(JUDGED, ROWS, ("litellm.yaml",), ("/u/alpha.service",), False, "me", 1000.0 + 7300)


def test_status_as_text() -> None:
    assert status_lines(SEEN) == [
        "SERVICE  UNIT              PORT  HEALTH   TTFB    MEMORY   SINCE  LAYERS      MODEL",
        "alpha    active (running)  8080  healthy  1.2 ms  512 MiB  2 h    full 33/33  m",
        "litellm  failed (failed)   4000  -        -       unknown  -      -           2 groups",
        "",
        "generation 7, degraded, 2026-01-02T03:04:05Z: new model",
        "drift: litellm.yaml of the generation was edited by hand",
        "drift: /u/alpha.service is not what was deployed",
        "litellm: litellm.service is failed, exit status 3",
        "no lingering: the services stop when you log out; keep them with"
        " `sudo loginctl enable-linger me`",
    ]


def test_status_in_colour_marks_the_row_that_is_not_healthy() -> None:
    lines = status_lines(SEEN, colour=True)
    assert lines[2].startswith("\x1b[31mlitellm") and not lines[1].startswith("\x1b")


@pytest.mark.parametrize(
    ("row", "healthy"),
    [
        (ROWS[0], True),
        (ROWS[1], False),
        (replace(ROWS[0], sample=None), False),
        (Row(replace(ALPHA, active=False), DOWN, None), True),
        (Row(replace(ALPHA, active=False), UP, ROWS[0].sample), False),
    ],
)
def test_what_counts_as_healthy(row: Row, healthy: bool) -> None:
    assert row.healthy is healthy
    assert replace(SEEN, rows=(row,)).healthy is healthy
    optional = replace(row, spec=replace(row.spec, required=False))
    assert replace(SEEN, rows=(optional,)).healthy


def test_status_as_json() -> None:
    value = json.loads(json.dumps(status_json(SEEN)))
    assert value["healthy"] is False
    assert value["generation"]["standing"] == "degraded"
    assert value["drift"] == {"edited": ["litellm.yaml"], "misplaced": ["/u/alpha.service"]}
    alpha, litellm = value["services"]
    assert (alpha["memory_bytes"], alpha["ttfb_ms"], alpha["models"]) == (512 << 20, 1.25, ["m"])
    assert (litellm["memory_bytes"], litellm["health"]) == (None, None), "unknown is no zero"
    assert litellm["detail"] == "exit status 3"


# -- generations ---------------------------------------------------------------------------------


def test_generations_as_a_table() -> None:
    assert generation_table([GENERATION, JUDGED], 7)[:2] == [
        "   NUMBER  CREATED               KIND    STANDING  REASON",
        "*  7       2026-01-02T03:04:05Z  deploy  unproved  new model (git 0123456789ab)",
    ]


def test_one_generation_as_text() -> None:
    restored = replace(JUDGED, manifest=replace(MANIFEST, restores=5, git_commit=None))
    assert generation_lines(restored, "/state/000007", ["env/alpha.env"]) == [
        "generation 7: deploy, degraded",
        "created: 2026-01-02T03:04:05+00:00 by labctl 0.1.0",
        "reason: new model",
        "folder: /state/000007",
        "restores: generation 5",
        "lab: /home/me/.config/labctl",
        "judged: 2026-01-02T03:05:00+00:00",
        "  beta is down",
        "units:",
        "  alpha.service",
        "  litellm.service (optional)",
        "files:",
        "  env/alpha.env",
        "edited by hand: env/alpha.env",
    ]


def test_one_generation_as_json() -> None:
    value = json.loads(json.dumps(generation_json(JUDGED)))
    assert (value["number"], value["standing"]) == (7, "degraded")
    assert value["evidence"] == ["beta is down"]
    assert value["units"] == ["alpha.service", "litellm.service"]
    unjudged = generation_json(GENERATION)
    assert (unjudged["judged_at"], unjudged["evidence"]) == (None, [])
