"""Host paths: what is adopted, what is refused, what is kept of the foreign, what is cleared."""

from __future__ import annotations

import pytest

from agent.deploy.placements import Placements
from agent.deploy.store import Store
from agent.model.errors import DiskFailure, StoreDamaged
from agent.model.generation import Generation, GenerationKind, HostFile, Link, Manifest
from agent.model.plan import RenderedFile
from tests.fakes.disk import ModelDisk
from tests.fakes.host import PATHS
from tests.fakes.labs import KEY

UNIT = f"{PATHS.units}/alpha.service"
DROPIN = f"{PATHS.units}/alpha.service.d/50-labctl.conf"
OURS = Link(UNIT, f"{PATHS.state}/current/units/alpha.service")
OURS_DROPIN = Link(DROPIN, f"{PATHS.state}/current/dropins/alpha.conf")
OWN = b"[Service]\nExecStart=/opt/alpha\n"
STAMP = "20260101T000000Z"


class Setting:
    """A disk, a store on it and placements over both."""

    def __init__(self) -> None:
        self.disk = ModelDisk()
        self.disk.make_all(PATHS.units)
        self.disk.make_all(f"{PATHS.home}/.local/state")
        self.store = Store(self.disk, PATHS.state)
        self.store.prepare(KEY)
        self.placements = Placements(self.disk, self.store)

    def generation(
        self,
        *links: Link,
        host_files: tuple[HostFile, ...] = (),
        files: tuple[RenderedFile, ...] = (),
    ) -> Generation:
        kind = GenerationKind.DEPLOY
        return self.store.seal(
            Manifest(0, "2026-01-01T00:00:00", kind, "", "", links=links, host_files=host_files),
            files,
        )

    def settle(self, goal: Generation, *others: Generation) -> tuple[str, ...]:
        changed = self.placements.settle(goal, [g.manifest for g in others], STAMP)
        self.disk.arm()
        assert self.placements.settle(goal, [g.manifest for g in others], STAMP) == ()
        assert self.disk.operations == 0, "settling again changes nothing"
        assert self.placements.wrong(goal) == ()
        return changed

    def displaced(self) -> dict[str, str]:
        """What was kept of things that no generation held: name → text or link."""
        folder = f"{PATHS.state}/displaced-{STAMP}"
        if self.disk.entry(folder) is None:
            return {}
        found = {}
        for name in self.disk.names(folder):
            try:
                found[name] = f"-> {self.disk.target(f'{folder}/{name}')}"
            except FileNotFoundError:
                found[name] = self.disk.read(f"{folder}/{name}").decode()
        return found


@pytest.fixture
def setting() -> Setting:
    return Setting()


def adopted(setting: Setting) -> Generation:
    """What stands at the unit's path now, sealed."""
    found = setting.placements.foreign([OURS], None)
    return setting.store.seal(
        Manifest(
            0,
            "2026-01-01T00:00:00",
            GenerationKind.ADOPTED,
            "",
            "",
            links=found.links,
            host_files=found.host_files,
        ),
        found.files,
    )


# -- adopting ------------------------------------------------------------------------------------


def test_nothing_there_is_nothing_to_adopt(setting: Setting) -> None:
    assert setting.placements.foreign([OURS, OURS_DROPIN], None).paths == ()


def test_a_file_is_adopted_byte_for_byte_with_its_mode(setting: Setting) -> None:
    setting.disk.create(UNIT, OWN, 0o644)
    found = setting.placements.foreign([OURS], None)
    assert found.host_files == (HostFile(UNIT, f"adopted{UNIT}", 0o644),)
    assert found.files == (RenderedFile(f"adopted{UNIT}", OWN),)
    assert found.paths == (UNIT,)


def test_a_link_is_adopted_as_a_link(setting: Setting) -> None:
    setting.disk.link(UNIT, "/dev/null")
    assert setting.placements.foreign([OURS], None).links == (Link(UNIT, "/dev/null"),)


@pytest.mark.parametrize("target", [OURS.target, f"{PATHS.state}/current/units/other.service"])
def test_our_own_link_is_not_adopted(setting: Setting, target: str) -> None:
    setting.disk.link(UNIT, target)
    assert setting.placements.foreign([OURS], None).paths == ()


def test_a_link_beside_the_state_folder_is_foreign(setting: Setting) -> None:
    setting.disk.link(UNIT, f"{PATHS.state}-backup/alpha.service")
    assert setting.placements.foreign([OURS], None).paths == (UNIT,)


def test_what_a_generation_has_kept_is_not_adopted_again(setting: Setting) -> None:
    setting.disk.create(UNIT, OWN, 0o644)
    kept = adopted(setting)
    assert setting.placements.foreign([OURS], kept).paths == ()
    setting.disk.remove(UNIT)
    setting.disk.create(UNIT, OWN + b"# changed\n", 0o644)
    assert setting.placements.foreign([OURS], kept).paths == (UNIT,)


def test_a_folder_in_a_unit_files_place_is_refused(setting: Setting) -> None:
    setting.disk.make_folder(UNIT, 0o755)
    with pytest.raises(StoreDamaged, match=r"alpha\.service is a folder") as raised:
        setting.placements.foreign([OURS], None)
    assert "move it away" in raised.value.hint
    with pytest.raises(StoreDamaged):
        setting.placements.settle(setting.generation(OURS), [], STAMP)


# -- settling ------------------------------------------------------------------------------------


def test_links_are_made_with_their_folders(setting: Setting) -> None:
    assert setting.settle(setting.generation(OURS, OURS_DROPIN)) == (UNIT, DROPIN)
    assert setting.disk.target(DROPIN) == OURS_DROPIN.target
    setting.disk.lose_power()
    assert setting.disk.target(DROPIN) == OURS_DROPIN.target
    assert setting.displaced() == {}


def test_links_that_nobody_wants_any_more_are_removed(setting: Setting) -> None:
    before, after = setting.generation(OURS, OURS_DROPIN), setting.generation(OURS)
    setting.settle(before)
    assert setting.settle(after, before) == (DROPIN,)
    setting.disk.lose_power()
    assert setting.disk.entry(DROPIN) is None
    assert setting.disk.target(UNIT) == OURS.target


def test_a_foreign_thing_in_the_place_of_a_link_that_leaves_stays(setting: Setting) -> None:
    before, after = setting.generation(OURS), setting.generation()
    setting.settle(before)
    setting.disk.remove(UNIT)
    setting.disk.create(UNIT, OWN, 0o644)
    assert setting.settle(after, before) == ()
    assert setting.disk.read(UNIT) == OWN


def test_what_was_adopted_comes_back(setting: Setting) -> None:
    setting.disk.create(UNIT, OWN, 0o640)
    old, new = adopted(setting), setting.generation(OURS)
    assert setting.settle(new, old) == (UNIT,)
    assert setting.displaced() == {}, "generation 0 keeps it already"
    assert setting.settle(old, new) == (UNIT,)
    setting.disk.lose_power()
    entry = setting.disk.entry(UNIT)
    assert entry is not None and entry.mode == 0o640
    assert setting.disk.read(UNIT) == OWN


def test_a_mode_that_differs_is_put_right(setting: Setting) -> None:
    setting.disk.create(UNIT, OWN, 0o640)
    old = adopted(setting)
    setting.disk.remove(UNIT)
    setting.disk.create(UNIT, OWN, 0o600)
    assert setting.settle(old) == (UNIT,)


def test_a_foreign_file_that_nobody_kept_is_displaced_not_lost(setting: Setting) -> None:
    new = setting.generation(OURS, OURS_DROPIN)
    setting.disk.create(UNIT, OWN, 0o644)
    setting.settle(new)
    (text,) = setting.displaced().values()
    assert text == OWN.decode()
    assert setting.disk.target(UNIT) == OURS.target


def test_a_foreign_link_that_nobody_kept_is_displaced_not_lost(setting: Setting) -> None:
    setting.disk.link(UNIT, "/dev/null")
    setting.settle(setting.generation(OURS))
    assert list(setting.displaced().values()) == ["-> /dev/null"]


def test_our_own_links_are_not_kept(setting: Setting) -> None:
    before = setting.generation(Link(UNIT, f"{PATHS.state}/current/units/old.service"))
    wants = Link(f"{PATHS.units}/default.target.wants/alpha.service", "../alpha.service")
    setting.settle(before)
    setting.settle(setting.generation(OURS, wants), before)
    absolute = setting.generation(OURS, Link(wants.path, UNIT))
    setting.settle(absolute, before)
    assert setting.displaced() == {}


def test_two_foreign_files_of_one_name_are_both_displaced(setting: Setting) -> None:
    wants = Link(f"{PATHS.units}/default.target.wants/alpha.service", "../alpha.service")
    setting.disk.make_all(f"{PATHS.units}/default.target.wants")
    setting.disk.create(UNIT, OWN, 0o644)
    setting.disk.create(wants.path, b"another\n", 0o644)
    setting.settle(setting.generation(OURS, wants))
    assert sorted(setting.displaced().values()) == [OWN.decode(), "another\n"]


def test_a_kept_file_that_was_removed_from_its_generation_counts_as_not_kept(
    setting: Setting,
) -> None:
    setting.disk.create(UNIT, OWN, 0o644)
    old = adopted(setting)
    setting.disk.remove(f"{setting.store.folder(old)}/adopted{UNIT}")
    assert setting.placements.wrong(old) == (UNIT,)
    setting.settle(setting.generation(OURS))
    assert list(setting.displaced().values()) == [OWN.decode()]


def test_settling_that_is_cut_anywhere_is_finished_by_settling_again() -> None:
    for index in range(60):
        setting = Setting()
        setting.disk.create(UNIT, OWN, 0o644)
        setting.disk.sync_folder(PATHS.units)
        before, goal = setting.generation(OURS_DROPIN), setting.generation(OURS)
        setting.placements.settle(before, [], STAMP)
        setting.disk.arm(fail_at=index)
        try:
            setting.placements.settle(goal, [before.manifest], STAMP)
        except DiskFailure:
            setting.disk.lose_power()
            setting.disk.arm()
            setting.settle(goal, before)
            assert list(setting.displaced().values()) == [OWN.decode()]
            assert setting.disk.entry(DROPIN) is None
            continue
        break
    assert index > 5
