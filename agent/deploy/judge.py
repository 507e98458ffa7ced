"""The judge: gather samples of everything a generation promised, then decide."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from agent.deploy.apply import PROBE_TIMEOUT_S, Applier
from agent.deploy.planner import weaker_chains
from agent.deploy.ports import Ports, Secrets
from agent.model.generation import CompletionSpec, Judgement, Manifest, ServiceSpec, Standing
from agent.model.host import UnitState
from agent.model.placed import OffloadProof
from agent.model.verdict import Health, ProbeKind, Sample, Verdict

MODEL_LIST_TIMEOUT_S = 30.0


def decide(manifest: Manifest, samples: Sequence[Sample]) -> Verdict:
    """The verdict over all samples. Pure.

    1. Any required subject that failed decides: timed out when all of them did, else unhealthy.
    2. A required subject that could not be judged makes it unverifiable.
    3. Services that may be down and are: healthy, and the verdict says which chains are weaker.
    """
    bad = [s for s in samples if s.required and not s.good]
    down = frozenset(
        spec.name
        for spec in manifest.services
        if any(s.subject == spec.name and not s.good for s in samples)
    )
    weaker = weaker_chains(manifest.groups, down)
    if not bad:
        health = Health.HEALTHY
    elif all(s.health is Health.UNVERIFIABLE for s in bad):
        health = Health.UNVERIFIABLE
    elif all(s.health is Health.TIMED_OUT for s in bad):
        health = Health.TIMED_OUT
    else:
        health = Health.UNHEALTHY
    return Verdict(health=health, samples=tuple(samples), weaker=weaker)


def judgement(verdict: Verdict, judged_at: str) -> Judgement:
    """What to write down beside the manifest."""
    evidence = tuple(s.sentence for s in (*verdict.failures, *verdict.optional_failures))
    if verdict.health is not Health.HEALTHY:
        return Judgement(Standing.BAD, judged_at, evidence, verdict.proofs)
    standing = Standing.DEGRADED if verdict.optional_failures else Standing.GOOD
    return Judgement(standing, judged_at, evidence + verdict.weaker, verdict.proofs)


class Judge:
    """Gathers the samples of one generation from the running host."""

    def __init__(self, ports: Ports, manifest: Manifest, secrets: Secrets) -> None:
        self._ports = ports
        self._manifest = manifest
        self._secrets = secrets
        self._applier = Applier(ports, manifest.judge)

    def verdict(self, failed: Sequence[Sample] = (), *, soak: bool = True) -> Verdict:
        """Judge everything. `failed` holds what already failed while the plan was applied."""
        if any(sample.required for sample in failed):
            return decide(self._manifest, failed)
        skip = {sample.subject for sample in failed}
        specs = [s for s in self._manifest.services if s.active and s.name not in skip]
        before = self._states(specs)
        began = self._ports.clock.monotonic()
        samples = [*failed, *self._answers(specs)]
        unwell = {s.subject for s in samples if not s.good}
        samples += self._completions(unwell)
        proofs = self._proofs([spec for spec in specs if spec.name not in unwell], before)
        samples += [self._offload(proof) for proof in proofs]
        if soak and all(s.good for s in samples if s.required):
            self._soak(began, [s.unit for s in specs], before)
        samples += [self._steady(spec, before) for spec in specs]
        return replace(decide(self._manifest, samples), proofs=proofs)

    def _proofs(
        self, specs: Sequence[ServiceSpec], states: Mapping[str, UnitState]
    ) -> tuple[OffloadProof, ...]:
        """Where the layers of each placed service are; what Ollama, which places itself, claims."""
        proofs = []
        for spec in specs:
            placed, state = self._manifest.placement(spec.name), states[spec.unit]
            if placed is not None:
                proofs.append(self._ports.offload.proof(placed, state))
            elif (claim := self._ports.offload.claim(spec, state)) is not None:
                proofs.append(claim)
        return tuple(proofs)

    def _offload(self, proof: OffloadProof) -> Sample:
        """Only what speaks against the plan fails. What cannot be seen, as under WSL, is told."""
        against = "; ".join(proof.contradictions)
        planned = self._manifest.placement(proof.service) is not None
        return Sample(
            probe=ProbeKind.OFFLOAD,
            subject=proof.service,
            health=Health.UNHEALTHY if against and planned else Health.HEALTHY,
            detail=against or proof.words,
            required=self._required(proof.service),
        )

    # -- inside ----------------------------------------------------------------------------

    def _states(self, specs: Sequence[ServiceSpec]) -> dict[str, UnitState]:
        return self._ports.units.states([spec.unit for spec in specs])

    def _answers(self, specs: Sequence[ServiceSpec]) -> list[Sample]:
        """The cheap probe of each service, then its model list where it answered."""

        def ask(spec: ServiceSpec) -> list[Sample]:
            if spec.kind is None and not spec.listens:
                return []  # a foreign unit without a port: its state is all there is to judge
            prober = self._ports.prober
            health = replace(prober.health(spec, PROBE_TIMEOUT_S), required=spec.required)
            if not health.good or not spec.serves:
                return [health]
            models = prober.models(spec, self._secrets, MODEL_LIST_TIMEOUT_S)
            return [health, replace(models, required=spec.required)]

        return self._side_by_side([partial(ask, spec) for spec in specs])

    def _completions(self, unwell: set[str]) -> list[Sample]:
        """One real completion through the gateway for each local model that can answer."""
        gateway = self._manifest.gateway
        if gateway is None or not gateway.active or gateway.name in unwell:
            return []

        def ask(specs: Sequence[CompletionSpec]) -> list[Sample]:
            timeout_s = self._manifest.judge.completion_timeout_s
            prober = self._ports.prober
            return [
                replace(
                    prober.completion(gateway, spec, self._secrets, timeout_s),
                    required=self._required(spec.service),
                )
                for spec in specs
            ]

        by_service: dict[str, list[CompletionSpec]] = {}
        for spec in self._manifest.completions:
            if spec.service not in unwell:
                by_service.setdefault(spec.service, []).append(spec)
        # One after the other for each service: a small backend answers one request at a time.
        return self._side_by_side([partial(ask, specs) for specs in by_service.values()])

    def _required(self, name: str) -> bool:
        spec = self._manifest.service(name)
        return spec is None or spec.required

    def _side_by_side(self, asks: Sequence[Callable[[], list[Sample]]]) -> list[Sample]:
        """Every answer, in the order of the questions. An interruption does not wait for them:
        the threads are daemons, and every probe has a deadline of its own."""
        answers: list[list[Sample]] = [[] for _ in asks]
        broken: list[Exception] = []

        def work(index: int, ask: Callable[[], list[Sample]]) -> None:
            try:
                answers[index] = ask()
            except Exception as error:  # noqa: BLE001 - raised again in the asking thread
                broken.append(error)

        threads = [
            threading.Thread(target=work, args=(index, ask), daemon=True)
            for index, ask in enumerate(asks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if broken:
            raise broken[0]
        return [sample for answer in answers for sample in answer]

    def _soak(self, began: float, units: Sequence[str], before: Mapping[str, UnitState]) -> None:
        """Wait until the soak is over, or a unit is seen to have fallen."""
        if not units:
            return
        end = began + self._manifest.judge.soak_s
        while (left := end - self._ports.clock.monotonic()) > 0:
            if not self._ports.units.wait(left):
                continue
            now = self._ports.units.states(units)
            if any(_fell(before[unit], now[unit]) for unit in units):
                return

    def _steady(self, spec: ServiceSpec, before: Mapping[str, UnitState]) -> Sample:
        """Whether the unit still runs the process it ran when the soak began."""
        state = self._ports.units.states([spec.unit])[spec.unit]
        why = _fell(before[spec.unit], state)
        if why:
            return self._applier.failure(spec, why)
        return Sample(
            probe=ProbeKind.UNIT,
            subject=spec.name,
            health=Health.HEALTHY,
            detail=f"{spec.unit} runs as pid {state.main_pid}",
            required=spec.required,
        )


def _fell(before: UnitState, now: UnitState) -> str:
    """What happened to a unit between two looks; empty when it stayed up."""
    if now.broken or not now.running:
        return f"it did not stay up: {now.active}, {now.sub}"
    if now.restarts > before.restarts or now.invocation != before.invocation:
        return f"systemd restarted it {max(now.restarts - before.restarts, 1)} times while watched"
    return ""
