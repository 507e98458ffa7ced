"""The verbs over the fake host: what is refused, what touches nothing, what goes back where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.errors import LabctlError, NoTarget, Refused, Stale
from agent.model.generation import Generation, GenerationKind, Standing
from agent.model.host import PortHolder
from agent.model.plan import Action, ChangeKind, Rendered
from agent.model.verdict import Health, Outcome, OutcomeKind
from tests.fakes.host import PATHS, FakeHost
from tests.fakes.labs import FIRST, KEY, SECOND, A, B, rendered, service
from tests.fault.invariants import assert_quiet, assert_whole

UNIT = f"{PATHS.units}/alpha.service"
OWN = b"[Service]\nExecStart=/opt/alpha\n"
THIRD = rendered(A, B, config="model_list: [third]\n")


def deploy(host: FakeHost, wanted: Rendered = FIRST, *, discard_edits: bool = False) -> Outcome:
    return host.deployer.deploy(wanted, reason="test", digest_key=KEY, discard_edits=discard_edits)


def current(host: FakeHost) -> Generation:
    generation = host.store.current()
    assert generation is not None
    return generation


def numbers(host: FakeHost) -> list[int]:
    return [generation.number for generation in host.store.generations()]


def edit(host: FakeHost, path: str, extra: bytes = b'EXTRA="1"\n') -> None:
    full = f"{host.store.folder(current(host))}/{path}"
    before = host.disk.read(full)
    host.disk.remove(full)
    host.disk.create(full, before + extra, 0o600)


def own_unit(host: FakeHost, text: bytes = OWN) -> None:
    """The user's own unit stands and runs where the lab wants one."""
    host.disk.create(UNIT, text, 0o644)
    host.disk.sync_folder(PATHS.units)
    host.units.reload()
    host.units._job(Action.START, "alpha.service")


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    deploy(host)
    return host


# -- nothing to do -------------------------------------------------------------------------------


def test_nothing_to_do_touches_nothing(host: FakeHost) -> None:
    host.disk.arm()
    before = host.disk.snapshot()
    calls = len(host.units.calls)
    outcome = deploy(host)
    assert (outcome.kind, outcome.exit_code, outcome.changed) == (OutcomeKind.NOTHING, 0, False)
    assert (outcome.before, outcome.after) == (1, 1)
    assert host.disk.operations == 0 and host.disk.root == before
    assert set(host.units.calls[calls:]) == {"states"}
    assert numbers(host) == [0, 1]


def test_a_plan_touches_nothing(host: FakeHost) -> None:
    host.disk.arm()
    planned = host.deployer.plan(SECOND)
    assert host.disk.operations == 0
    assert planned.plan.switch and not planned.plan.empty
    assert [(c.path, c.kind) for c in planned.plan.changes] == [
        ("env/alpha.env", ChangeKind.CHANGED),
        ("env/litellm.env", ChangeKind.CHANGED),
        ("litellm.yaml", ChangeKind.CHANGED),
    ]
    assert [str(s) for s in planned.plan.steps] == [
        "restart alpha.service (environment changed)",
        "restart litellm.service (config changed)",
    ]


def test_a_first_plan_touches_nothing() -> None:
    host = FakeHost()
    plan = host.deployer.plan(FIRST).plan
    assert host.disk.operations == 0
    assert {c.kind for c in plan.changes} == {ChangeKind.ADDED}
    assert all(c.before == c.after == "" for c in plan.changes if c.secret)
    assert any(c.secret for c in plan.changes)


def test_a_crashed_service_is_started_again_without_a_generation(host: FakeHost) -> None:
    host.units.fall("beta.service")
    outcome = deploy(host)
    assert (outcome.kind, outcome.before, outcome.after) == (OutcomeKind.COMMITTED, 1, 1)
    assert numbers(host) == [0, 1]
    assert_whole(host, {1})


def test_a_link_that_was_removed_is_put_back_without_a_generation(host: FakeHost) -> None:
    host.disk.remove(UNIT)
    assert host.deployer.plan(FIRST).plan.repairs == (UNIT,)
    assert deploy(host).exit_code == 0
    assert numbers(host) == [0, 1]
    assert_whole(host, {1})


# -- drift ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["env/alpha.env", "units/beta.service", "secrets.env"])
@pytest.mark.parametrize("wanted", [FIRST, SECOND], ids=["same", "changed"])
def test_an_edited_file_is_stale_and_nothing_is_touched(
    host: FakeHost, path: str, wanted: Rendered
) -> None:
    edit(host, path)
    host.disk.arm()
    with pytest.raises(Stale, match=path) as raised:
        deploy(host, wanted)
    assert raised.value.exit_code == 14
    assert "--discard-edits" in raised.value.hint
    assert host.disk.operations == 0


@pytest.mark.parametrize("wanted", [FIRST, SECOND], ids=["same", "changed"])
def test_a_removed_file_is_stale_as_well(host: FakeHost, wanted: Rendered) -> None:
    host.disk.remove(f"{host.store.folder(current(host))}/env/alpha.env")
    with pytest.raises(Stale, match=r"env/alpha\.env"):
        deploy(host, wanted)
    assert host.deployer.plan(wanted).observed.edited == ("env/alpha.env",)
    assert deploy(host, wanted, discard_edits=True).exit_code == 0
    assert_whole(host, {2})


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("env/alpha.env", "alpha.service"),
        ("dropins/beta.conf", "beta.service"),
        ("litellm.yaml", "litellm.service"),
    ],
)
@pytest.mark.parametrize("way", ["deploy", "rollback"])
def test_settings_that_were_edited_do_not_stay_in_force(
    host: FakeHost, path: str, unit: str, way: str
) -> None:
    """The user edited a deployed file and restarted the unit: its digest in /proc is the same."""
    deploy(host, replace(FIRST, digest="the same services, another lab"))
    edit(host, path)
    host.units._job(Action.RESTART, unit)
    before = host.units.running[unit].pid
    host.units.calls.clear()
    if way == "deploy":
        deploy(host, replace(FIRST, digest=current(host).manifest.digest), discard_edits=True)
    else:
        host.deployer.rollback(None, reason="")
    assert host.units.running[unit].pid != before
    assert "reload" in host.units.calls
    assert_whole(host, {3})
    kept = host.store.generation(2)
    assert kept is not None and host.store.edited(kept) == (path,), "the edit is kept"


# -- ports ---------------------------------------------------------------------------------------


def test_a_held_port_is_refused_before_anything_is_touched() -> None:
    host = FakeHost()
    ollama = PortHolder(8080, 812, "ollama", "ollama", "ollama.service")
    host.processes.holders = {8080: ollama}
    with pytest.raises(Refused, match="port 8080 of alpha is held by ollama") as raised:
        deploy(host)
    assert "systemctl disable --now ollama" in raised.value.hint
    assert host.disk.operations == 0


def test_a_port_held_by_a_unit_that_is_replaced_is_no_obstacle() -> None:
    host = FakeHost()
    own_unit(host)
    host.processes.holders = {8080: PortHolder(8080, 5, "alpha", "me", "alpha.service")}
    assert deploy(host).exit_code == 0


def test_a_running_service_that_moves_to_a_held_port_is_refused(host: FakeHost) -> None:
    host.processes.holders = {9000: PortHolder(9000, 1, "nginx", "root")}
    with pytest.raises(Refused, match="port 9000 of alpha is held by nginx"):
        deploy(host, rendered(replace(A, port=9000), B))
    assert deploy(host).kind is OutcomeKind.NOTHING


def test_the_held_port_of_an_optional_service_is_no_refusal() -> None:
    host = FakeHost()
    host.processes.holders = {8081: PortHolder(8081, 1, "nginx", "root")}
    host.prober.silent = {"beta"}
    outcome = deploy(host, rendered(A, replace(B, required=False)))
    assert outcome.kind is OutcomeKind.DEGRADED


# -- adopting ------------------------------------------------------------------------------------


def test_the_first_deploy_adopts_also_where_there_is_nothing() -> None:
    host = FakeHost()
    deploy(host)
    adopted = host.store.generation(0)
    assert adopted is not None and adopted.standing is Standing.ADOPTED
    assert [(s.name, s.active) for s in adopted.manifest.services] == [
        ("alpha", False),
        ("beta", False),
        ("litellm", False),
    ]


def test_a_users_own_unit_comes_back_with_rollback_0() -> None:
    host = FakeHost()
    own_unit(host)
    deploy(host)
    assert host.disk.target(UNIT) == f"{PATHS.state}/current/units/alpha.service"
    outcome = host.deployer.rollback(0, reason="")
    assert (outcome.after, outcome.restores) == (2, 0)
    assert host.disk.read(UNIT) == OWN
    assert host.units.running["alpha.service"].text == OWN.decode()
    assert "beta.service" not in host.units.running
    assert_whole(host, {2})


def test_a_foreign_unit_that_appears_later_is_adopted_then(host: FakeHost) -> None:
    with_gamma = rendered(A, B, service("gamma", 8082))
    path = f"{PATHS.units}/gamma.service"
    host.disk.create(path, OWN, 0o644)
    host.units.reload()
    host.units._job(Action.START, "gamma.service")
    assert host.deployer.plan(with_gamma).plan.adopts == (path,)
    outcome = deploy(host, with_gamma)
    assert (outcome.before, outcome.after) == (2, 3)
    adopted = host.store.generation(2)
    assert adopted is not None and adopted.manifest.kind is GenerationKind.ADOPTED
    assert {s.name: s.active for s in adopted.manifest.services} == {
        "alpha": True,
        "beta": True,
        "litellm": True,
        "gamma": True,
    }
    host.deployer.rollback(2, reason="")
    assert host.disk.read(path) == OWN
    assert host.units.running["gamma.service"].text == OWN.decode()
    assert_whole(host, {4})


def test_a_users_own_unit_that_changed_since_is_adopted_again() -> None:
    host = FakeHost()
    own_unit(host)
    deploy(host)
    host.deployer.rollback(0, reason="")
    host.disk.remove(UNIT)
    newer = OWN + b"Environment=NEW=1\n"
    host.disk.create(UNIT, newer, 0o644)
    assert deploy(host).exit_code == 0
    host.deployer.rollback(3, reason="")
    assert host.disk.read(UNIT) == newer
    host.deployer.rollback(0, reason="")
    assert host.disk.read(UNIT) == OWN


# -- going back ----------------------------------------------------------------------------------


def test_rollback_needs_something_deployed() -> None:
    with pytest.raises(NoTarget, match="nothing was deployed") as raised:
        FakeHost().deployer.rollback(None, reason="")
    assert raised.value.exit_code == 15


def test_rollback_twice_toggles(host: FakeHost) -> None:
    deploy(host, SECOND)
    assert host.deployer.rollback(None, reason="").restores == 1
    assert_whole(host, {3})
    assert host.deployer.rollback(None, reason="").restores == 2
    assert_whole(host, {4})
    newest = current(host).manifest
    assert newest.digest == SECOND.digest
    assert (newest.kind, newest.restores) == (GenerationKind.ROLLBACK, 2)
    assert newest.reason == "rollback to generation 2"


def test_a_rollback_skips_what_is_bad_edited_or_the_same(host: FakeHost) -> None:
    deploy(host, SECOND)
    edit_target = host.store.generation(2)
    assert edit_target is not None
    deploy(host, THIRD)
    host.disk.remove(f"{host.store.folder(edit_target)}/env/alpha.env")
    host.prober.broken = {"model-alpha"}
    host.deployer.deploy(SECOND, reason="", digest_key=KEY, keep_target=True)
    host.prober.broken = set()
    assert host.deployer.rollback(None, reason="why").restores == 3
    assert current(host).manifest.reason == "why"


@pytest.mark.parametrize("number", [7, -1])
def test_no_such_generation(host: FakeHost, number: int) -> None:
    host.disk.arm()
    with pytest.raises(NoTarget, match=f"there is no generation {number}"):
        host.deployer.rollback(number, reason="")
    assert host.disk.operations == 0


def test_an_edited_generation_is_not_restored(host: FakeHost) -> None:
    edit(host, "env/alpha.env")
    deploy(host, SECOND, discard_edits=True)
    with pytest.raises(NoTarget, match=r"not what was sealed: env/alpha\.env"):
        host.deployer.rollback(1, reason="")
    assert host.deployer.rollback(None, reason="").restores == 0


def test_a_rollback_to_something_bad_is_allowed_and_told(host: FakeHost) -> None:
    host.prober.broken = {"model-alpha"}
    host.deployer.deploy(SECOND, reason="", digest_key=KEY, keep_target=True)
    outcome = host.deployer.rollback(2, reason="")
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.ROLLBACK_FAILED, 11)
    assert current(host).standing is Standing.BAD


def test_a_rollback_needs_no_lab_and_no_gateway(host: FakeHost) -> None:
    deploy(host, SECOND)
    host.units.fall("litellm.service")
    assert host.deployer.rollback(None, reason="").exit_code == 0
    assert_whole(host, {3})


def test_a_bad_generation_is_proved_again_by_the_next_deploy(host: FakeHost) -> None:
    host.prober.broken = {"model-alpha"}
    host.deployer.deploy(SECOND, reason="", digest_key=KEY, keep_target=True)
    assert current(host).standing is Standing.BAD
    host.prober.broken = set()
    outcome = deploy(host, SECOND)
    assert (outcome.kind, outcome.before, outcome.after) == (OutcomeKind.COMMITTED, 2, 2)
    assert current(host).standing is Standing.GOOD
    assert deploy(host, SECOND).kind is OutcomeKind.NOTHING


def test_a_bad_generation_that_fails_again_gives_way_to_the_last_good_one(host: FakeHost) -> None:
    host.prober.broken = {"model-alpha"}
    host.deployer.deploy(SECOND, reason="", digest_key=KEY, keep_target=True)

    def well_again(action: Action, unit: str) -> None:
        del action, unit
        host.prober.broken = set()

    host.units.on_job = well_again
    outcome = deploy(host, SECOND)
    assert (outcome.kind, outcome.after) == (OutcomeKind.ROLLED_BACK, 1)
    assert_whole(host, {1})


# -- failures before the line --------------------------------------------------------------------


def test_a_reason_that_is_not_utf_8_touches_nothing(host: FakeHost) -> None:
    with pytest.raises(LabctlError, match="not UTF-8") as raised:
        host.deployer.deploy(SECOND, reason="\udcff", digest_key=KEY)
    assert raised.value.exit_code == 64
    host.recoverer.recover()
    assert numbers(host) == [0, 1]
    assert_quiet(host)


def test_verify_asks_the_probes_of_the_judge(host: FakeHost) -> None:
    generation, verdict = host.deployer.verify()
    assert (generation.number, verdict.health) == (1, Health.HEALTHY)
    host.prober.missing = {"model-beta"}
    _, verdict = host.deployer.verify(soak=True)
    assert verdict.health is Health.UNHEALTHY
    with pytest.raises(NoTarget):
        FakeHost().deployer.verify()
