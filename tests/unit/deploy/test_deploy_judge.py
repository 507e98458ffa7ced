"""The verdict as a function of the samples, what is written down of it, and what is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.deploy.judge import Judge, decide, judgement
from agent.model.generation import GenerationKind, GroupSpec, Manifest, ServiceSpec, Standing
from agent.model.kinds import ServiceKind
from agent.model.plan import Action
from agent.model.verdict import Health, ProbeKind, Sample, Verdict
from tests.fakes.host import FakeHost, NoSecrets
from tests.fakes.labs import FIRST, KEY

MANIFEST = Manifest(
    1,
    "",
    GenerationKind.DEPLOY,
    "",
    "",
    services=(
        ServiceSpec("alpha", "alpha.service", ServiceKind.OLLAMA),
        ServiceSpec("beta", "beta.service", ServiceKind.VLLM, required=False),
    ),
    groups=(
        GroupSpec("a", ("alpha",), False, ("b",)),
        GroupSpec("b", ("beta",), False),
    ),
)
LOST_B = (
    "a: without beta, a is left",
    "b: without beta, nothing is left: it answers no request",
)


def sample(health: Health, subject: str = "alpha", *, required: bool = True) -> Sample:
    return Sample(ProbeKind.HEALTH, subject, health, f"{subject}: {health}", required=required)


GOOD = sample(Health.HEALTHY)
BETA_DOWN = sample(Health.UNHEALTHY, "beta", required=False)


@pytest.mark.parametrize(
    ("samples", "health", "weaker"),
    [
        ((), Health.HEALTHY, ()),
        ((GOOD,), Health.HEALTHY, ()),
        ((GOOD, BETA_DOWN), Health.HEALTHY, LOST_B),
        ((GOOD, sample(Health.UNVERIFIABLE, "beta", required=False)), Health.HEALTHY, LOST_B),
        ((GOOD, sample(Health.UNHEALTHY)), Health.UNHEALTHY, ("a: without alpha, b is left",)),
        ((sample(Health.TIMED_OUT),), Health.TIMED_OUT, ("a: without alpha, b is left",)),
        (
            (sample(Health.TIMED_OUT), sample(Health.UNHEALTHY, "litellm")),
            Health.UNHEALTHY,
            ("a: without alpha, b is left",),
        ),
        ((sample(Health.UNVERIFIABLE, "litellm"),), Health.UNVERIFIABLE, ()),
        (
            (sample(Health.UNVERIFIABLE, "litellm"), sample(Health.TIMED_OUT, "other")),
            Health.UNHEALTHY,
            (),
        ),
    ],
)
def test_decide(samples: tuple[Sample, ...], health: Health, weaker: tuple[str, ...]) -> None:
    verdict = decide(MANIFEST, samples)
    assert (verdict.health, verdict.weaker, verdict.samples) == (health, weaker, samples)


@pytest.mark.parametrize(
    ("verdict", "standing", "evidence"),
    [
        (Verdict(Health.HEALTHY, (GOOD,)), Standing.GOOD, ()),
        (
            Verdict(Health.HEALTHY, (GOOD, BETA_DOWN), LOST_B),
            Standing.DEGRADED,
            ("beta: unhealthy", *LOST_B),
        ),
        (
            Verdict(Health.UNHEALTHY, (sample(Health.UNHEALTHY), BETA_DOWN), LOST_B),
            Standing.BAD,
            ("alpha: unhealthy", "beta: unhealthy"),
        ),
        (
            Verdict(Health.UNVERIFIABLE, (sample(Health.UNVERIFIABLE),)),
            Standing.BAD,
            ("alpha: unverifiable",),
        ),
    ],
)
def test_judgement(verdict: Verdict, standing: Standing, evidence: tuple[str, ...]) -> None:
    written = judgement(verdict, "2026-01-01T00:00:00+00:00")
    assert (written.standing, written.evidence) == (standing, evidence)
    assert written.judged_at == "2026-01-01T00:00:00+00:00"


# -- what is asked -------------------------------------------------------------------------------


def _judged(host: FakeHost) -> tuple[Judge, Manifest]:
    host.deployer.deploy(FIRST, reason="", digest_key=KEY)
    current = host.store.current()
    assert current is not None
    return Judge(host.ports, current.manifest, NoSecrets()), current.manifest


def test_every_unit_port_list_and_model_is_proved() -> None:
    host = FakeHost()
    judge, _ = _judged(host)
    verdict = judge.verdict()
    asked = [(str(s.probe), s.subject) for s in verdict.samples]
    assert asked == [
        ("health", "alpha"),
        ("models", "alpha"),
        ("health", "beta"),
        ("models", "beta"),
        ("health", "litellm"),
        ("models", "litellm"),
        ("completion", "model-alpha"),
        ("completion", "model-beta"),
        ("unit", "alpha"),
        ("unit", "beta"),
        ("unit", "litellm"),
    ]
    assert verdict.health is Health.HEALTHY


def test_a_missing_model_of_the_gateway_fails_and_asks_no_completion() -> None:
    host = FakeHost()
    judge, _ = _judged(host)
    host.prober.asked.clear()
    host.prober.missing = {"model-beta"}
    verdict = judge.verdict()
    assert verdict.health is Health.UNHEALTHY
    assert [s.subject for s in verdict.failures] == ["beta", "litellm"]
    assert host.prober.asked == []


def test_the_soak_is_waited_for_only_where_all_is_well() -> None:
    host = FakeHost()
    judge, manifest = _judged(host)
    began = host.clock.monotonic()
    judge.verdict()
    assert host.clock.monotonic() - began == pytest.approx(manifest.judge.soak_s)
    host.prober.broken = {"model-alpha"}
    began = host.clock.monotonic()
    assert judge.verdict().health is Health.UNHEALTHY
    assert judge.verdict(soak=False).health is Health.UNHEALTHY
    assert host.clock.monotonic() == began


@pytest.mark.parametrize(
    ("falls", "says"),
    [
        ("fall", "alpha.service: it did not stay up: failed, failed (exit status 1)"),
        ("revive", "alpha.service: systemd restarted it 1 times while watched"),
    ],
)
def test_a_unit_that_falls_during_the_soak_fails_the_verdict(falls: str, says: str) -> None:
    host = FakeHost()
    judge, _ = _judged(host)

    def happens() -> bool:
        host.units.on_wait = lambda: False
        getattr(host.units, falls)("alpha.service")
        return True

    host.units.on_wait = happens
    began = host.clock.monotonic()
    verdict = judge.verdict()
    assert [s.detail for s in verdict.failures] == [says]
    assert verdict.failures[0].log_tail == ("last words of alpha.service",)
    assert host.clock.monotonic() - began < 1.0, "a fallen unit ends the soak"


def test_a_restart_by_hand_during_the_soak_is_seen_by_its_invocation() -> None:
    """systemd counts no restart there: the process is another one all the same."""
    host = FakeHost()
    judge, _ = _judged(host)

    def happens() -> bool:
        host.units.on_wait = lambda: False
        host.units._job(Action.RESTART, "beta.service")
        return True

    host.units.on_wait = happens
    assert [s.subject for s in judge.verdict().failures] == ["beta"]


def test_an_adopted_unit_without_a_port_is_judged_by_its_state_alone() -> None:
    host = FakeHost()
    foreign = ServiceSpec("own", "own.service", None, active=True)
    manifest = Manifest(0, "", GenerationKind.ADOPTED, "", "", services=(foreign,))
    host.units.needs = {"own.service": "nothing"}
    host.units._job(Action.START, "own.service")
    verdict = Judge(host.ports, manifest, NoSecrets()).verdict(soak=False)
    assert [s.probe for s in verdict.samples] == [ProbeKind.UNIT]
    assert verdict.health is Health.HEALTHY


def test_a_failed_required_sample_is_the_whole_verdict() -> None:
    host = FakeHost()
    judge, _ = _judged(host)
    host.prober.asked.clear()
    failed = sample(Health.TIMED_OUT)
    assert judge.verdict([failed]).samples == (failed,)
    optional = replace(failed, required=False)
    assert judge.verdict([optional]).health is Health.HEALTHY
    assert "model-alpha" not in host.prober.asked


def test_an_exception_of_a_probe_is_raised_in_the_asking_thread() -> None:
    host = FakeHost()
    judge, _ = _judged(host)
    host.prober.broken = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        judge.verdict()
