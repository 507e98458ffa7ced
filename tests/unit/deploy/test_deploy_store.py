"""The store: sealing, pointing, judging, pruning; and whatever a state folder may be found as."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.deploy.codec import encode
from agent.deploy.store import KEY_BYTES, Store
from agent.model.errors import DiskFailure, StoreDamaged
from agent.model.generation import (
    Generation,
    GenerationKind,
    Judgement,
    Manifest,
    Record,
    Standing,
)
from agent.model.host import EntryKind
from agent.model.plan import RenderedFile
from tests.fakes.disk import Crash, ModelDisk
from tests.fakes.labs import KEY

ROOT = "/home/lab/.local/state/labctl"
FILES = (
    RenderedFile("env/alpha.env", b"PORT=1\n"),
    RenderedFile("secrets.env", b"KEY=sk-secret\n", secret=True),
)
GOOD = Judgement(Standing.GOOD, "2026-01-01T00:00:01+00:00")
BAD = Judgement(Standing.BAD, "2026-01-01T00:00:01+00:00", ("alpha is down",))


def manifest(kind: GenerationKind = GenerationKind.DEPLOY, digest: str = "d") -> Manifest:
    return Manifest(99, "2026-01-02T03:04:05.678+00:00", kind, "why", digest)


@pytest.fixture
def disk() -> ModelDisk:
    disk = ModelDisk()
    disk.make_all("/home/lab")
    return disk


@pytest.fixture
def store(disk: ModelDisk) -> Store:
    store = Store(disk, ROOT)
    store.prepare(KEY)
    return store


def rewrite(disk: ModelDisk, path: str, data: bytes) -> None:
    disk.remove(path)
    disk.create(path, data, 0o600)


def sealed(store: Store, judged: Judgement | None = GOOD, digest: str = "d") -> Generation:
    generation = store.seal(manifest(digest=digest), FILES)
    return store.judge(generation, judged) if judged is not None else generation


# -- sealing -------------------------------------------------------------------------------------


def test_an_empty_host_has_no_store() -> None:
    disk = ModelDisk()
    disk.make_all("/home/lab")
    store = Store(disk, ROOT)
    assert not store.exists
    assert store.generations() == () and store.damaged() == ()
    assert store.current() is None and store.record() is None
    assert store.sweep() == () and store.last_good() is None and store.digest_key() is None


def test_a_sealed_generation_is_durable_numbered_and_stamped(store: Store, disk: ModelDisk) -> None:
    first, second = sealed(store, None), sealed(store, None)
    disk.lose_power()
    assert [g.folder for g in store.generations()] == [
        "000000-20260102T030405Z",
        "000001-20260102T030405Z",
    ]
    assert store.generation(1) == second
    assert store.files(first) == FILES
    assert store.read(first, "env/alpha.env") == b"PORT=1\n"
    assert store.edited(first) == ()
    folder = disk.entry(store.folder(first))
    assert folder is not None and folder.mode == 0o700


def test_the_digest_of_a_secret_is_keyed(store: Store, disk: ModelDisk) -> None:
    generation = sealed(store)
    other = Store(disk, "/home/lab/other")
    other.prepare(b"x" * KEY_BYTES)
    again = other.seal(manifest(), FILES)
    plain, secret = (f.sha256 for f in generation.manifest.files)
    other_plain, other_secret = (f.sha256 for f in again.manifest.files)
    assert plain == other_plain
    assert secret != other_secret
    assert b"sk-secret" not in disk.read(f"{store.folder(generation)}/manifest.json")


def test_numbers_are_never_used_twice_while_the_newest_stays(store: Store) -> None:
    for _ in range(3):
        sealed(store)
    store.remove(store.generations()[0])
    assert sealed(store).number == 3


def test_numbers_beyond_six_digits_sort_as_numbers(store: Store, disk: ModelDisk) -> None:
    generation = sealed(store, None)
    moved = f"{store.generations_folder}/1000000-20260102T030405Z"
    disk.rename(store.folder(generation), moved)
    whole = replace(generation.manifest, number=1_000_000)
    rewrite(disk, f"{moved}/manifest.json", encode(whole))
    assert sealed(store, None).number == 1_000_001
    assert [g.number for g in store.generations()] == [1_000_000, 1_000_001]


def test_a_seal_that_fails_leaves_nothing(store: Store, disk: ModelDisk) -> None:
    disk.full = True
    with pytest.raises(DiskFailure):
        sealed(store, None)
    disk.full = False
    for index in range(20):
        disk.arm(fail_at=index)
        try:
            sealed(store, None)
        except DiskFailure:
            disk.arm()
            store.sweep()
            assert store.damaged() == ()
            names = disk.names(store.generations_folder)
            assert not [name for name in names if name.startswith(".")]
            continue
        break
    assert index > 5


# -- the key -------------------------------------------------------------------------------------


def test_where_there_are_generations_there_is_their_key() -> None:
    """A cut at any operation of `prepare` leaves no store without its key."""
    for index in range(20):
        disk = ModelDisk()
        disk.make_all("/home/lab")
        store = Store(disk, ROOT)
        disk.arm(crash_at=index)
        try:
            store.prepare(KEY)
        except Crash:
            for lost_power in (False, True):
                if lost_power:
                    disk.lose_power()
                assert store.exists is (store.digest_key() is not None)
            disk.arm()
            store.prepare(b"2" * KEY_BYTES)
            assert store.digest_key() in (KEY, b"2" * KEY_BYTES)
            continue
        break
    assert index > 3


@pytest.mark.parametrize("damage", [None, b"", b"short"])
def test_a_lost_key_stops_no_rollback(store: Store, disk: ModelDisk, damage: bytes | None) -> None:
    generation = sealed(store)
    disk.remove(f"{ROOT}/digest.key")
    if damage is not None:
        disk.create(f"{ROOT}/digest.key", damage, 0o600)
    assert store.digest_key() is None
    assert store.edited(generation) == (), "what cannot be compared is not called edited"
    assert store.last_good() == generation
    restored = store.seal(manifest(), store.files(generation))
    assert store.edited(restored) == ()
    store.prepare(b"n" * KEY_BYTES)
    assert store.digest_key() == b"n" * KEY_BYTES
    assert store.edited(restored) == ()


def test_prepare_keeps_a_key_that_is_in_use(store: Store) -> None:
    store.prepare(b"n" * KEY_BYTES)
    assert store.digest_key() == KEY


# -- the link ------------------------------------------------------------------------------------


def test_pointing_is_one_switch(store: Store, disk: ModelDisk) -> None:
    first, second = sealed(store), sealed(store)
    assert store.point(first)
    assert not store.point(first)
    assert store.point(second)
    disk.lose_power()
    current = store.current()
    assert current is not None and current.number == 1
    assert disk.target(f"{ROOT}/current") == "generations/000001-20260102T030405Z"


def test_a_leftover_of_an_interrupted_switch_is_no_obstacle(store: Store, disk: ModelDisk) -> None:
    disk.link(f"{ROOT}/current.new", "generations/gone")
    assert store.point(sealed(store))
    assert disk.entry(f"{ROOT}/current.new") is None


@pytest.mark.parametrize(
    "target", ["generations/000009-20260102T030405Z", "elsewhere", "/", "x/.."]
)
def test_a_current_that_leads_nowhere_is_damage(store: Store, disk: ModelDisk, target: str) -> None:
    sealed(store)
    disk.link(f"{ROOT}/current", target)
    with pytest.raises(StoreDamaged, match="is no generation") as raised:
        store.current()
    assert "labctl recover" in raised.value.hint


def test_a_current_that_is_a_folder_is_damage(store: Store, disk: ModelDisk) -> None:
    generation = sealed(store)
    disk.make_folder(f"{ROOT}/current", 0o700)
    with pytest.raises(StoreDamaged, match="is a folder, not a link"):
        store.current()
    with pytest.raises(DiskFailure):
        store.point(generation)
    assert store.set_aside_current("T") == f"{ROOT}/current.broken-T"
    assert store.point(generation)
    assert store.set_aside_record("T") == "", "nothing stood there"


# -- damage --------------------------------------------------------------------------------------


def test_damaged_and_foreign_folders_are_told_apart(store: Store, disk: ModelDisk) -> None:
    good, cut, gone, renamed = (sealed(store) for _ in range(4))
    rewrite(disk, f"{store.folder(cut)}/manifest.json", b'{"number": 1')
    disk.remove(f"{store.folder(gone)}/manifest.json")
    disk.rename(store.folder(renamed), f"{store.generations_folder}/000007-20260102T030405Z")
    for name in ("lost+found", "000001", "backup of 000000-20260102T030405Z", "1-20260102T030405Z"):
        disk.make_folder(f"{store.generations_folder}/{name}", 0o700)
    disk.create(f"{store.generations_folder}/notes.txt", b"", 0o600)
    assert store.generations() == (good,)
    assert [d.folder[:6] for d in store.damaged()] == ["000001", "000002", "000007"]
    whys = [d.why for d in store.damaged()]
    assert "damaged" in whys[0] and "no manifest.json" in whys[1]
    assert "calls itself generation 3" in whys[2]
    assert store.last_good() == good
    assert store.sweep() == ()
    assert sealed(store).number == 8, "the number of a damaged one is not used again"
    with pytest.raises(StoreDamaged):
        store.generation(1)
    assert store.generation(55) is None


def test_a_damaged_judgement_counts_as_none(store: Store, disk: ModelDisk) -> None:
    generation = sealed(store)
    rewrite(disk, f"{store.folder(generation)}/verdict.json", b"{}")
    found = store.generation(0)
    assert found is not None and found.standing is Standing.UNPROVED
    assert store.last_good() is None, "and is never restored unasked"


@pytest.mark.parametrize("path", ["env/alpha.env", "secrets.env"])
@pytest.mark.parametrize("how", ["changed", "removed", "a folder", "a link"])
def test_a_hand_edited_file_is_seen(store: Store, disk: ModelDisk, path: str, how: str) -> None:
    generation = sealed(store)
    full = f"{store.folder(generation)}/{path}"
    content = disk.read(full)
    disk.remove(full)
    match how:
        case "changed":
            disk.create(full, content + b"\n", 0o600)
        case "a folder":
            disk.make_folder(full, 0o700)
        case "a link":
            disk.create("/home/lab/elsewhere", content, 0o600)
            disk.link(full, "/home/lab/elsewhere")
    assert store.edited(generation) == (path,)
    assert store.last_good() is None
    standing = {"changed": 2}.get(how, 1)
    assert len(store.files(generation)) == standing, "what is not there is left out"
    if standing == 1:
        with pytest.raises(StoreDamaged, match=path):
            store.read(generation, path)


def test_a_damaged_record_is_set_aside(store: Store, disk: ModelDisk) -> None:
    record = Record(0, 1, 0, "deploy", "now")
    store.begin(record)
    assert store.record() == record
    store.close()
    store.close()
    assert store.record() is None
    disk.create(f"{ROOT}/record.json", b"\0\0", 0o600)
    with pytest.raises(StoreDamaged, match=r"record\.json is damaged"):
        store.record()
    kept = store.set_aside_record("20260101T000000Z")
    assert store.record() is None
    assert disk.read(kept) == b"\0\0"
    assert store.sweep() == (), "it is kept for people to read"


def test_sweep_removes_what_an_interruption_left_and_nothing_else(
    store: Store, disk: ModelDisk
) -> None:
    generation = sealed(store)
    base = store.generations_folder
    for folder in (".sealing-000001", ".sealing-000001/env", ".removing-000000-x"):
        disk.make_folder(f"{base}/{folder}", 0o700)
    disk.create(f"{base}/.sealing-000001/env/a.env", b"", 0o600)
    disk.create(f"{store.folder(generation)}/verdict.json.new", b"{", 0o600)
    disk.create(f"{ROOT}/record.json.new", b"", 0o600)
    disk.link(f"{ROOT}/current.new", "x")
    disk.create(f"{ROOT}/history.sqlite", b"", 0o600)
    assert sorted(store.sweep()) == [
        ".removing-000000-x",
        ".sealing-000001",
        "000000-20260102T030405Z/verdict.json.new",
        "current.new",
        "record.json.new",
    ]
    assert store.sweep() == ()
    assert disk.names(ROOT) == ("digest.key", "generations", "history.sqlite")
    assert store.generations() == (generation,)


# -- choosing and pruning ------------------------------------------------------------------------


def test_the_last_good_generation(store: Store) -> None:
    adopted = store.seal(manifest(GenerationKind.ADOPTED), ())
    good = sealed(store, digest="a")
    sealed(store, BAD)
    unproved = sealed(store, None)
    assert store.last_good() == good
    assert store.last_good(before=1) == adopted
    assert store.last_good(before=0) is None
    assert store.last_good(unlike="a") == adopted
    degraded = store.judge(unproved, Judgement(Standing.DEGRADED, "now"))
    assert store.last_good() == degraded


def test_what_prune_may_remove(store: Store) -> None:
    adopted = store.seal(manifest(GenerationKind.ADOPTED), ())
    old, older_good, good, current = (sealed(store) for _ in range(4))
    failed = sealed(store, BAD)
    store.point(current)
    assert [g.number for g in store.prunable(1)] == [1, 2]
    assert [g.number for g in store.prunable(0)] == [1, 2, 5]
    assert [g.number for g in store.prunable(4)] == [1]
    assert store.prunable(99) == ()
    store.begin(Record(current.number, failed.number, old.number, "deploy", "now"))
    assert [g.number for g in store.prunable(0)] == [older_good.number]
    assert adopted.number not in {g.number for g in store.prunable(0)}
    assert good.number not in {g.number for g in store.prunable(0)}, "the one to go back to"


def test_the_last_good_one_stays_where_everything_since_failed(store: Store) -> None:
    good = sealed(store)
    bad = [sealed(store, BAD) for _ in range(5)]
    store.point(bad[-1])
    assert good not in store.prunable(1)
    assert [g.number for g in store.prunable(1)] == [1, 2, 3, 4]


def test_a_removed_generation_is_gone_and_a_cut_removal_is_swept(
    store: Store, disk: ModelDisk
) -> None:
    generation = sealed(store)
    disk.arm(crash_at=3)
    with pytest.raises(Crash):
        store.remove(generation)
    disk.arm()
    assert store.generations() == () and store.damaged() == ()
    assert len(store.sweep()) == 1
    entry = disk.entry(store.generations_folder)
    assert entry is not None and entry.kind is EntryKind.FOLDER
    assert disk.names(store.generations_folder) == ()


def test_what_a_rollback_would_go_to_is_never_pruned(store: Store) -> None:
    """The newest before the current one has its very content: a rollback goes further back."""
    wanted, *_ = sealed(store, digest="a"), sealed(store, digest="b"), sealed(store, digest="b")
    current = sealed(store, digest="b")
    store.point(current)
    goal = store.rollback_goal(current)
    assert goal is not None and goal.number == wanted.number
    assert wanted.number not in {g.number for g in store.prunable(1)}


def test_a_key_without_generations_gives_way_to_the_one_that_was_digested_with(
    disk: ModelDisk,
) -> None:
    """A first deploy was cut between the two: the next one has drawn a key of its own."""
    store = Store(disk, ROOT)
    disk.make_all(ROOT)
    disk.create(f"{ROOT}/digest.key", b"o" * KEY_BYTES, 0o600)
    assert store.digest_key() is None
    store.prepare(KEY)
    assert store.digest_key() == KEY


def test_folders_that_a_killed_labctl_made_are_made_durable_by_the_next() -> None:
    for index in range(20):
        disk = ModelDisk()
        disk.make_all("/home/lab")
        store = Store(disk, ROOT)
        disk.arm(crash_at=index)
        try:
            store.prepare(KEY)
        except Crash:
            disk.arm()
            store.prepare(KEY)
            generation = sealed(store)
            disk.lose_power()
            assert store.generations() == (generation,)
            continue
        break
    assert index > 6
