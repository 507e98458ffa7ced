"""Placements in a deploy: room awaited before a start, proof after it, kept, gone back to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.deploy.apply import RELEASE_TIMEOUT_S
from agent.model.generation import Generation, Standing
from agent.model.host import UnitState
from agent.model.placed import (
    MIB,
    DeviceNeed,
    EvidenceLevel,
    OffloadProof,
    OffloadVerdict,
    ServicePlacement,
)
from agent.model.plan import Action, Rendered
from agent.model.verdict import Outcome, OutcomeKind, ProbeKind
from tests.fakes.host import FakeHost, FakeOffload
from tests.fakes.labs import FIRST, KEY, A, B, rendered, service
from tests.fault.invariants import assert_whole

GPU = "GPU-1"
AGAINST = "planned 33/33 on a GPU, but the program finds no device but the CPU"


def on_gpu(name: str, layers: int = 33, why: str = "", mib: int = 4000) -> ServicePlacement:
    need = DeviceNeed(GPU, model_bytes=mib * MIB)
    return ServicePlacement(name, layers, 33, (GPU,), needs=(need,), why=why)


def placed(wanted: Rendered, *placements: ServicePlacement) -> Rendered:
    return replace(wanted, placements=placements)


ONE = placed(FIRST, on_gpu("alpha", why="first"))
OTHER = placed(rendered(replace(A, context=4096), B), on_gpu("alpha", 20, why="other"))


def deploy(host: FakeHost, wanted: Rendered, *, keep_target: bool = False) -> Outcome:
    return host.deployer.deploy(wanted, reason="test", digest_key=KEY, keep_target=keep_target)


def current(host: FakeHost) -> Generation:
    generation = host.store.current()
    assert generation is not None
    return generation


def judged(host: FakeHost, number: int) -> Generation:
    """As a new labctl reads it from disk."""
    host.open()
    generation = host.store.generation(number)
    assert generation is not None and generation.judgement is not None
    return generation


def against_while(host: FakeHost, digest: str, service: str) -> None:
    """This service runs against its plan while this content is deployed."""

    def look(action: Action, unit: str) -> None:
        del action, unit
        new = host.store.current()
        here = new is not None and new.manifest.digest == digest
        host.offload.contradictions = {service: (AGAINST,)} if here else {}

    host.units.on_job = look


def jobs(host: FakeHost) -> list[str]:
    return [c for c in host.units.calls if c.split()[0] in ("start", "stop", "restart")]


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


# -- the proof decides ---------------------------------------------------------------------------


def test_what_is_proved_is_written_beside_the_generation(host: FakeHost) -> None:
    outcome = deploy(host, ONE)
    assert outcome.kind is OutcomeKind.COMMITTED
    assert outcome.verdict is not None
    samples = [s for s in outcome.verdict.samples if s.probe is ProbeKind.OFFLOAD]
    assert [(s.subject, s.good, s.detail) for s in samples] == [("alpha", True, "full 33/33")]
    generation = judged(host, 1)
    assert generation.manifest.placements == ONE.placements
    assert generation.judgement is not None
    (proof,) = generation.judgement.proofs
    assert (proof.service, proof.words) == ("alpha", "full 33/33")


def test_a_start_against_its_plan_is_rolled_back(host: FakeHost) -> None:
    deploy(host, ONE)
    against_while(host, OTHER.digest, "alpha")
    outcome = deploy(host, OTHER)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.ROLLED_BACK, 10)
    assert [s.sentence for s in outcome.failed] == [f"alpha: {AGAINST}"]
    assert outcome.verdict is not None
    assert [proof.words for proof in outcome.verdict.proofs] == ["full 33/33"]
    assert_whole(host, {1})
    failed = judged(host, 2)
    assert failed.standing is Standing.BAD
    assert failed.judgement is not None
    assert failed.judgement.evidence == (f"alpha: {AGAINST}",)
    (proof,) = failed.judgement.proofs
    assert (proof.verdict, proof.contradictions) == (OffloadVerdict.CPU, (AGAINST,))


def test_a_first_deploy_against_its_plan_leaves_the_host_as_it_was(host: FakeHost) -> None:
    against_while(host, ONE.digest, "alpha")
    assert deploy(host, ONE).kind is OutcomeKind.ROLLED_BACK
    assert host.units.running == {}
    assert_whole(host, {0})


def test_a_plan_kept_although_it_failed_says_why(host: FakeHost) -> None:
    against_while(host, ONE.digest, "alpha")
    outcome = deploy(host, ONE, keep_target=True)
    assert outcome.kind is OutcomeKind.LEFT_IN_PLACE
    assert AGAINST in [s.detail for s in outcome.failed]
    assert current(host).standing is Standing.BAD


def test_an_optional_service_against_its_plan_degrades(host: FakeHost) -> None:
    optional = rendered(A, replace(B, required=False))
    host.offload.contradictions = {"beta": (AGAINST,)}
    outcome = deploy(host, placed(optional, on_gpu("alpha"), on_gpu("beta")))
    assert outcome.kind is OutcomeKind.DEGRADED
    assert current(host).standing is Standing.DEGRADED


class Untold(FakeOffload):
    """A driver that tells nothing of its processes, as under WSL."""

    def proof(self, placed: ServicePlacement, state: UnitState) -> OffloadProof:
        del state
        verdict, level = OffloadVerdict.UNVERIFIABLE, EvidenceLevel.LOGGED
        because = "the driver does not tell"
        return OffloadProof(placed.service, verdict, None, placed.of, level, because=because)


def test_what_cannot_be_seen_is_told_and_fails_nothing(host: FakeHost) -> None:
    host.offload = Untold()
    host.open()
    outcome = deploy(host, ONE)
    assert outcome.kind is OutcomeKind.COMMITTED
    generation = judged(host, 1)
    assert generation.standing is Standing.GOOD
    assert generation.judgement is not None
    (proof,) = generation.judgement.proofs
    assert proof.words == "unverifiable (the driver does not tell)"


def test_a_service_that_is_down_is_not_asked_for_proof(host: FakeHost) -> None:
    host.prober.silent = {"alpha"}
    host.offload.contradictions = {"alpha": (AGAINST,)}
    outcome = deploy(host, ONE, keep_target=True)
    assert AGAINST not in [sample.detail for sample in outcome.failed]


# -- room before a start -------------------------------------------------------------------------


def released_after(host: FakeHost, waits: int, service: str = "alpha") -> None:
    """The driver gives the memory back after this many looks."""
    left = [waits]
    host.offload.short = {service: ("100 of 4000 MiB are free on GPU 0",)}

    def wait() -> bool:
        left[0] -= 1
        if left[0] <= 0:
            host.offload.short = {}
        return False

    host.units.on_wait = wait


def test_a_release_is_awaited_and_the_unit_started(host: FakeHost) -> None:
    released_after(host, 5)
    outcome = deploy(host, ONE)
    assert outcome.kind is OutcomeKind.COMMITTED
    assert 0.5 <= host.clock.elapsed_s < RELEASE_TIMEOUT_S
    assert_whole(host, {1})


def test_a_release_that_never_comes_fails_and_is_named(host: FakeHost) -> None:
    deploy(host, FIRST)
    gamma = service("gamma", 8082)
    began = host.clock.elapsed_s
    host.offload.short = {"gamma": ("100 of 4000 MiB are free on GPU 0", "9 of 70 on GPU 1")}
    outcome = deploy(host, placed(rendered(A, B, gamma), on_gpu("gamma")))
    assert outcome.kind is OutcomeKind.ROLLED_BACK
    assert outcome.failed[0].detail == (
        "gamma.service: 100 of 4000 MiB are free on GPU 0; 9 of 70 on GPU 1"
    )
    assert host.clock.elapsed_s - began >= RELEASE_TIMEOUT_S
    assert "start gamma.service" not in host.units.calls
    assert_whole(host, {1})


def test_who_has_no_plan_waits_for_nobody(host: FakeHost) -> None:
    host.offload.short = {"beta": ("100 of 4000 MiB are free on GPU 0",)}
    assert deploy(host, ONE).kind is OutcomeKind.COMMITTED


class Held(FakeOffload):
    """A GPU that is full as long as one of these units runs with the inputs it has now."""

    def __init__(self, host: FakeHost, *units: str) -> None:
        super().__init__()
        self.host = host
        self.held = {unit: host.units.running[unit].inputs for unit in units}

    def waiting_for(self, placed: ServicePlacement) -> tuple[str, ...]:
        running = self.host.units.running
        return tuple(
            f"{unit} holds it"
            for unit, inputs in self.held.items()
            if unit in running and running[unit].inputs == inputs
        )


def test_an_exclusive_rival_that_leaves_is_stopped_first(host: FakeHost) -> None:
    old = replace(B, exclusive="big")
    new = service("gamma", 8082, exclusive="big")
    deploy(host, placed(rendered(A, old), on_gpu("beta")))
    host.offload = Held(host, "beta.service")
    host.open()
    before = len(jobs(host))
    outcome = deploy(host, placed(rendered(A, new), on_gpu("gamma")))
    assert outcome.kind is OutcomeKind.COMMITTED
    order = jobs(host)[before:]
    assert order.index("stop beta.service") < order.index("start gamma.service")
    assert_whole(host, {2})


def test_who_leaves_a_gpu_is_stopped_before_another_takes_it(host: FakeHost) -> None:
    """No rivals by the lab's word: the plan counts on the memory all the same."""
    gamma = service("gamma", 8082)
    deploy(host, placed(rendered(A, B), on_gpu("beta")))
    host.offload = Held(host, "beta.service")
    host.open()
    outcome = deploy(host, placed(rendered(A, gamma), on_gpu("gamma")))
    assert outcome.kind is OutcomeKind.COMMITTED, outcome.failed
    assert_whole(host, {2})


def test_who_yields_layers_restarts_before_another_takes_them(host: FakeHost) -> None:
    gamma = service("gamma", 8082)
    deploy(host, placed(FIRST, on_gpu("alpha", 33, mib=8000)))
    host.offload = Held(host, "alpha.service")
    host.open()
    fewer = rendered(replace(A, context=4096), B, gamma)
    outcome = deploy(host, placed(fewer, on_gpu("alpha", 10, mib=2000), on_gpu("gamma")))
    assert outcome.kind is OutcomeKind.COMMITTED, outcome.failed
    assert_whole(host, {2})


def test_a_failed_generation_gives_room_back_before_the_old_one_takes_it(host: FakeHost) -> None:
    """Alpha grows back to what it had, and gamma is in its way."""
    gamma = service("gamma", 8082)
    deploy(host, placed(FIRST, on_gpu("alpha", 33, mib=8000)))
    fewer = rendered(replace(A, context=4096), B, gamma)
    against_while(host, fewer.digest, "gamma")
    before = len(jobs(host))
    outcome = deploy(host, placed(fewer, on_gpu("alpha", 10, mib=2000), on_gpu("gamma")))
    assert outcome.kind is OutcomeKind.ROLLED_BACK
    assert [job for job in jobs(host)[before:] if "litellm" not in job] == [
        "restart alpha.service",
        "start gamma.service",
        "stop gamma.service",
        "restart alpha.service",
    ]
    assert_whole(host, {1})


def test_who_grows_restarts_after_who_yields(host: FakeHost) -> None:
    """In the lab's order alpha would be the first, and no chain keeps them apart."""
    old = rendered(A, B, chained=False)
    new = rendered(replace(A, context=4096), replace(B, context=4096), chained=False)
    deploy(host, placed(old, on_gpu("alpha", 10, mib=2000), on_gpu("beta", 33, mib=8000)))
    wanted = placed(new, on_gpu("alpha", 33, mib=8000), on_gpu("beta", 10, mib=2000))
    waves = host.deployer.plan(wanted).plan.waves
    assert [[step.service.name for step in wave] for wave in waves][:2] == [["beta"], ["alpha"]]


@pytest.mark.parametrize("uuid", ["GPU-2", ""])
def test_who_leaves_another_gpu_is_stopped_at_the_end(host: FakeHost, uuid: str) -> None:
    """Its chains keep it until the gateway asks for it no more."""
    elsewhere = replace(on_gpu("beta"), gpus=(uuid,), needs=(DeviceNeed(uuid, MIB),))
    deploy(host, placed(rendered(A, B), *([elsewhere] if uuid else [])))
    wanted = placed(rendered(A, service("gamma", 8082)), on_gpu("gamma"))
    waves = host.deployer.plan(wanted).plan.waves
    assert [str(step).split(" (")[0] for step in waves[-1]] == ["stop beta.service"]
    assert waves[0][0].service.name == "gamma"


# -- what a placement is, and is not -------------------------------------------------------------


def test_a_placement_survives_a_rollback(host: FakeHost) -> None:
    deploy(host, ONE)
    deploy(host, OTHER)
    outcome = host.deployer.rollback(None, reason="")
    assert (outcome.kind, outcome.restores) == (OutcomeKind.COMMITTED, 1)
    host.open()
    assert current(host).number == 3
    assert current(host).manifest.placements == ONE.placements
    (proof,) = judged(host, 3).judgement.proofs  # type: ignore[union-attr]
    assert proof.words == "full 33/33"


def test_another_reason_for_the_same_plan_is_nothing_to_do(host: FakeHost) -> None:
    deploy(host, ONE)
    host.disk.arm()
    again = placed(FIRST, on_gpu("alpha", why="other figures, the same layers"))
    outcome = deploy(host, again)
    assert (outcome.kind, outcome.changed) == (OutcomeKind.NOTHING, False)
    assert host.disk.operations == 0
    assert current(host).manifest.placements == ONE.placements


def test_verify_proves_on_demand_and_writes_nothing(host: FakeHost) -> None:
    deploy(host, ONE)
    host.disk.arm()
    host.offload.contradictions = {"alpha": (AGAINST,)}
    generation, verdict = host.deployer.verify()
    assert generation.number == 1
    assert [s.detail for s in verdict.failures] == [AGAINST]
    assert [proof.words for proof in verdict.proofs] == ["cpu"]
    assert host.disk.operations == 0
