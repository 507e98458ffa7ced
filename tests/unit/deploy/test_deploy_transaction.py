"""How a transaction ends, what it leaves, and what a recovery makes of what it was cut into."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.deploy.durable import remove_tree
from agent.model.errors import ExitCode, LabctlError, StoreDamaged
from agent.model.generation import Generation, Record, Standing
from agent.model.plan import Action, Rendered
from agent.model.verdict import Health, Outcome, OutcomeKind
from tests.fakes.disk import Crash
from tests.fakes.host import PATHS, FakeHost, SignalAt
from tests.fakes.labs import FIRST, KEY, SECOND, A, B, rendered, service
from tests.fault.invariants import assert_quiet, assert_whole

C = service("gamma", 8082)
WITH_GAMMA = rendered(A, B, C)
BETA_OPTIONAL = rendered(replace(A, context=2048), replace(B, required=False))


def deploy(host: FakeHost, wanted: Rendered = FIRST, *, keep_target: bool = False) -> Outcome:
    return host.deployer.deploy(wanted, reason="test", digest_key=KEY, keep_target=keep_target)


def current(host: FakeHost) -> Generation:
    generation = host.store.current()
    assert generation is not None
    return generation


def broken_while(host: FakeHost, digest: str, *groups: str) -> None:
    """The completions of these groups fail while this content is deployed."""

    def look(action: Action, unit: str) -> None:
        del action, unit
        new = host.store.current()
        host.prober.broken = set(groups) if new and new.manifest.digest == digest else set()

    host.units.on_job = look


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    deploy(host)
    return host


# -- outcomes ------------------------------------------------------------------------------------


def test_committed(host: FakeHost) -> None:
    outcome = deploy(host, SECOND)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.COMMITTED, 0)
    assert (outcome.changed, outcome.before, outcome.after) == (True, 1, 2)
    assert [name for name, _ in outcome.seconds] == ["apply", "judge"]
    assert current(host).standing is Standing.GOOD
    assert_whole(host, {2})


def test_degraded_names_the_weaker_chains(host: FakeHost) -> None:
    host.prober.silent = {"beta"}
    outcome = deploy(host, BETA_OPTIONAL)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.DEGRADED, 0)
    assert outcome.verdict is not None
    assert outcome.verdict.weaker == (
        "model-alpha: without beta, model-alpha is left",
        "model-beta: without beta, nothing is left: it answers no request",
    )
    assert current(host).standing is Standing.DEGRADED
    judgement = current(host).judgement
    assert judgement is not None and judgement.evidence[0] == "beta does not answer"


def test_rolled_back(host: FakeHost) -> None:
    broken_while(host, SECOND.digest, "model-alpha")
    outcome = deploy(host, SECOND)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.ROLLED_BACK, 10)
    assert (outcome.changed, outcome.before, outcome.after, outcome.attempted) == (False, 1, 1, 2)
    assert [s.detail for s in outcome.failed] == ["model-alpha: 500"]
    assert outcome.verdict is not None and outcome.verdict.health is Health.HEALTHY
    failed = host.store.generation(2)
    assert failed is not None and failed.standing is Standing.BAD
    assert failed.judgement is not None and failed.judgement.evidence == ("model-alpha: 500",)
    assert_whole(host, {1})


def test_a_rollback_that_does_not_come_up_is_never_called_one(host: FakeHost) -> None:
    host.prober.broken = {"model-alpha"}
    outcome = deploy(host, SECOND)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.ROLLBACK_FAILED, 11)
    assert outcome.after == 1
    assert outcome.verdict is not None and outcome.verdict.health is Health.UNHEALTHY
    assert host.store.record() is None
    assert current(host).standing is Standing.GOOD, "what was proved once is not unproved by it"


def test_restoring_brings_back_all_that_still_can_serve(host: FakeHost) -> None:
    """One backend does not come back: the others and the gateway must."""
    host.units.dies = {"alpha"}
    assert deploy(host, SECOND).kind is OutcomeKind.ROLLBACK_FAILED
    assert sorted(host.units.running) == ["beta.service", "litellm.service"]
    gateway = current(host).manifest.gateway
    assert gateway is not None
    assert host.units.running["litellm.service"].inputs == gateway.inputs


def test_left_in_place_with_no_rollback(host: FakeHost) -> None:
    broken_while(host, SECOND.digest, "model-alpha")
    outcome = deploy(host, SECOND, keep_target=True)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.LEFT_IN_PLACE, 13)
    assert (outcome.after, outcome.attempted) == (2, 2)
    assert current(host).standing is Standing.BAD
    host.units.on_job = lambda action, unit: None
    assert_whole(host, {2})


def test_what_was_left_in_place_bad_is_never_gone_back_to(host: FakeHost) -> None:
    broken_while(host, SECOND.digest, "model-alpha")
    deploy(host, SECOND, keep_target=True)
    broken_while(host, WITH_GAMMA.digest, "model-gamma")
    outcome = deploy(host, WITH_GAMMA)
    assert (outcome.kind, outcome.before, outcome.after) == (OutcomeKind.ROLLED_BACK, 2, 1)
    assert outcome.changed
    assert_whole(host, {1})


def test_units_of_what_was_left_in_place_do_not_outlive_it(host: FakeHost) -> None:
    """gamma is in the bad current generation alone: neither target nor fallback knows it."""
    broken_while(host, WITH_GAMMA.digest, "model-gamma")
    deploy(host, WITH_GAMMA, keep_target=True)
    assert "gamma.service" in host.units.running
    host.units.on_job = lambda action, unit: None

    def fails(action: Action, unit: str) -> None:
        del unit
        if action is Action.RESTART and current(host).number == 3:
            host.units.dies = {"alpha"}
        elif current(host).number == 1:
            host.units.dies = set()

    host.units.on_job = fails
    outcome = deploy(host, SECOND)
    assert (outcome.kind, outcome.after) == (OutcomeKind.ROLLED_BACK, 1)
    assert "gamma.service" not in host.units.running


def test_a_first_deploy_that_fails_goes_back_to_what_was_adopted() -> None:
    host = FakeHost()
    host.prober.broken = {"model-alpha"}
    outcome = deploy(host)
    assert (outcome.kind, outcome.before, outcome.after) == (OutcomeKind.ROLLED_BACK, 0, 0)
    assert host.units.running == {}
    assert_whole(host, {0})


def test_dependents_that_went_down_are_started_again(host: FakeHost) -> None:
    host.units.needs = {"chat.service": "alpha.service"}
    host.units._job(Action.START, "chat.service")
    before = host.units.running["chat.service"].pid
    deploy(host, SECOND)
    assert host.units.running["chat.service"].pid != before
    assert "revive: start chat.service, which ran before: done" in host.reporter.steps
    broken_while(host, FIRST.digest, "model-alpha")
    deploy(host, FIRST)
    assert "chat.service" in host.units.running


def test_a_dependent_that_did_not_run_stays_down(host: FakeHost) -> None:
    host.units.needs = {"chat.service": "alpha.service"}
    deploy(host, SECOND)
    assert "chat.service" not in host.units.running


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("block", range(2))
def test_ctrl_c_in_a_deploy_goes_back_first(host: FakeHost, block: int, late: bool) -> None:
    host.signals = SignalAt(block, late=late)
    host.open()
    with pytest.raises(LabctlError, match="interrupted by Ctrl-C") as raised:
        deploy(host, SECOND)
    assert raised.value.exit_code is ExitCode.INTERRUPTED
    assert "generation 1 serves again" in raised.value.message
    interrupted = host.store.generation(2)
    assert interrupted is not None and interrupted.standing is Standing.BAD
    assert_whole(host, {1})


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("block", range(2, 4))
def test_ctrl_c_while_restoring_still_restores(host: FakeHost, block: int, late: bool) -> None:
    broken_while(host, SECOND.digest, "model-alpha")
    host.signals = SignalAt(block, late=late)
    host.open()
    with pytest.raises(LabctlError) as raised:
        deploy(host, SECOND)
    assert raised.value.exit_code is ExitCode.INTERRUPTED
    assert_whole(host, {1})


@pytest.mark.parametrize("block", range(2))
def test_ctrl_c_in_a_rollback_finishes_it_and_keeps_its_good_name(
    host: FakeHost, block: int
) -> None:
    deploy(host, SECOND)
    host.signals = SignalAt(block)
    host.open()
    with pytest.raises(LabctlError) as raised:
        host.deployer.rollback(None, reason="")
    assert raised.value.exit_code is ExitCode.INTERRUPTED
    assert current(host).standing is Standing.GOOD
    assert_whole(host, {3})


def test_ctrl_c_where_going_back_fails_is_no_safe_unwind(host: FakeHost) -> None:
    host.prober.broken = {"model-alpha"}
    host.signals = SignalAt(1)
    host.open()
    with pytest.raises(LabctlError) as raised:
        deploy(host, SECOND)
    assert raised.value.exit_code is ExitCode.ROLLBACK_FAILED
    assert "in place again, but not healthy" in raised.value.message


def test_ctrl_c_in_a_recovery_leaves_it_to_the_next_one(host: FakeHost) -> None:
    _cut_at_switch(host, SECOND)
    host.signals = SignalAt(0)
    host.open()
    with pytest.raises(LabctlError, match="is not finished") as raised:
        host.recoverer.recover()
    assert "labctl recover" in raised.value.hint
    assert host.store.record() is not None
    host.open()
    host.recoverer.recover()
    assert_whole(host, {1})


# -- a disk that stays full, a bus that stays away -----------------------------------------------


def test_a_disk_that_fills_up_at_any_moment_loses_nothing() -> None:
    index = 0
    while True:
        host = FakeHost()
        deploy(host)
        host.disk.arm()
        host.disk.fill_at = index
        try:
            deploy(host, SECOND)
        except LabctlError as error:
            assert "no space" in error.message
        else:
            break
        assert all(unit in host.units.running for unit in ("beta.service", "litellm.service"))
        host.disk.fill_at, host.disk.full = None, False
        host.open()
        host.recoverer.recover()
        assert_whole(host, {1, 2})
        index += 1
    assert index > 10


# -- recovery ------------------------------------------------------------------------------------


def _cut_at_switch(host: FakeHost, wanted: Rendered) -> None:
    """Crash at the first bus call after the link was switched."""

    def cut(action: Action, unit: str) -> None:
        raise Crash(f"{action} {unit}")

    host.units.on_job = cut
    with pytest.raises(Crash):
        deploy(host, wanted)
    host.units.on_job = lambda action, unit: None
    host.open()


def _spoil(host: FakeHost, generation: Generation, data: bytes = b"{") -> None:
    path = f"{host.store.folder(generation)}/manifest.json"
    host.disk.remove(path)
    host.disk.create(path, data, 0o600)


def test_a_record_whose_target_is_damaged_goes_back(host: FakeHost) -> None:
    _cut_at_switch(host, SECOND)
    _spoil(host, current(host))
    recovery = host.recoverer.recover()
    assert recovery is not None and recovery.went_back and recovery.went_to == 1
    assert_whole(host, {1})


def test_a_record_whose_fallback_is_damaged_goes_to_the_last_good_one(host: FakeHost) -> None:
    deploy(host, SECOND)
    third = rendered(A, B, config="model_list: [third]\n")
    _cut_at_switch(host, third)
    second = host.store.generation(2)
    assert second is not None
    _spoil(host, second)
    recovery = host.recoverer.recover()
    assert recovery is not None and recovery.went_to == 1
    assert_whole(host, {1})


def test_a_damaged_record_goes_to_the_last_good_one_and_is_kept(host: FakeHost) -> None:
    _cut_at_switch(host, SECOND)
    host.disk.remove(f"{PATHS.state}/record.json")
    host.disk.create(f"{PATHS.state}/record.json", b"\0" * 300, 0o600)
    recovery = host.recoverer.recover()
    assert recovery is not None
    assert (recovery.went_to, recovery.forward) == (1, False)
    assert host.disk.read(recovery.set_aside) == b"\0" * 300
    assert_whole(host, {1})


def test_a_recovery_with_nothing_left_clears_the_way_once(host: FakeHost) -> None:
    _cut_at_switch(host, SECOND)
    for name in host.disk.names(host.store.generations_folder):
        remove_tree(host.disk, f"{host.store.generations_folder}/{name}")
    with pytest.raises(StoreDamaged, match="no generation is left") as raised:
        host.recoverer.recover()
    assert raised.value.exit_code is ExitCode.ROLLBACK_FAILED
    assert "fresh `labctl deploy`" in raised.value.hint
    assert host.recoverer.recover() is None
    assert deploy(host).kind is OutcomeKind.COMMITTED


@pytest.mark.parametrize("how", ["removed", "dangling", "a folder", "manifest", "no manifest"])
def test_a_current_that_is_lost_is_found_again(host: FakeHost, how: str) -> None:
    deploy(host, SECOND)
    link = f"{PATHS.state}/current"
    match how:
        case "manifest":
            _spoil(host, current(host))
        case "no manifest":
            host.disk.remove(f"{host.store.folder(current(host))}/manifest.json")
        case _:
            host.disk.remove(link)
    if how == "dangling":
        host.disk.link(link, "generations/000044-20260101T000000Z")
    if how == "a folder":
        host.disk.make_folder(link, 0o700)
    host.open()
    recovery = host.recoverer.recover()
    assert recovery is not None and recovery.went_back
    assert recovery.went_to == (1 if "manifest" in how else 2)
    assert_whole(host, {recovery.went_to})
    assert deploy(host, SECOND).exit_code is ExitCode.OK


def test_a_recovery_says_what_it_did(host: FakeHost) -> None:
    _cut_at_switch(host, SECOND)
    recovery = host.recoverer.recover()
    assert recovery is not None
    outcome = recovery.outcome
    assert (outcome.kind, outcome.after, outcome.exit_code) == (OutcomeKind.COMMITTED, 1, 0)
    unwell = replace(recovery, verdict=None).outcome
    assert unwell.exit_code is ExitCode.ROLLBACK_FAILED


def test_a_target_that_was_proved_is_finished_not_undone(host: FakeHost) -> None:
    deploy(host, SECOND)
    host.store.begin(Record(1, 2, 1, "deploy", "now"))
    recovery = host.recoverer.recover()
    assert recovery is not None
    assert (recovery.went_to, recovery.forward, recovery.went_back) == (2, True, False)
    assert_whole(host, {2})


def test_a_proved_target_that_was_edited_since_is_undone(host: FakeHost) -> None:
    deploy(host, SECOND)
    path = f"{host.store.folder(current(host))}/env/alpha.env"
    host.disk.remove(path)
    host.store.begin(Record(1, 2, 1, "deploy", "now"))
    recovery = host.recoverer.recover()
    assert recovery is not None and recovery.went_to == 1
    assert_whole(host, {1})


def test_leftovers_alone_touch_no_unit(host: FakeHost) -> None:
    host.disk.make_folder(f"{host.store.generations_folder}/.sealing-000009", 0o700)
    recovery = host.recoverer.recover()
    assert recovery is not None
    assert (recovery.went_to, recovery.went_back) == (-1, False)
    assert recovery.swept == (".sealing-000009",)
    assert_quiet(host)
