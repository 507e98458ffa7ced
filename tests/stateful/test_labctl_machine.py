"""Anything a user, a crash or a stranger may do, in any order, against a small model of it.

The model is a dict: what each generation deploys, whether it was proved, and which one is current.
After every step the store must say the same, and what the model says must serve.
`LABCTL_HYPOTHESIS=nightly` searches for long; the default is bounded for every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.model.errors import LabctlError, NoTarget, Stale
from agent.model.generation import GenerationKind
from agent.model.host import EntryKind
from agent.model.plan import Action, Rendered
from agent.model.verdict import OutcomeKind
from tests.fakes.disk import Crash, File, Folder, Node
from tests.fakes.host import PATHS, FakeHost
from tests.fakes.labs import KEY, A, B, rendered, service
from tests.fault.invariants import assert_quiet, assert_whole

C = service("gamma", 8082)
LABS = {
    "one": rendered(A),
    "two": rendered(A, B),
    "two, changed": rendered(replace(A, context=4096), B),
    "two, swapped": rendered(replace(A, port=8081), replace(B, port=8080)),
    "two, other secrets": rendered(A, B, secrets=b"LITELLM_MASTER_KEY=sk-other\n"),
    "three": rendered(A, B, C),
    "three, other config": rendered(A, B, C, config="model_list: [other]\n"),
}
UNITS = ("alpha.service", "beta.service", "gamma.service")
labs = st.sampled_from(sorted(LABS))
units = st.sampled_from(UNITS)


@dataclass
class Known:
    """What the model knows of one generation."""

    digest: str
    good: bool
    adopted: bool = False
    foreign: bool = False
    edited: set[str] = field(default_factory=set)


class Labctl(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.host = FakeHost()
        self.known: dict[int, Known] = {}
        self.current: int | None = None
        self.disturbed = False
        self.strangers: list[bytes] = []

    # -- the model's own rules ---------------------------------------------------------------

    def last_good(
        self, below: int | None = None, unlike: str = "", among: dict[int, Known] | None = None
    ) -> int | None:
        fitting = [
            number
            for number, known in (self.known if among is None else among).items()
            if known.good and not known.edited and known.digest != unlike
            if below is None or number < below
        ]
        return max(fitting, default=None)

    def rollback_goal(self) -> int | None:
        """The last good generation before the current one; of those before labctl, only when
        labctl deployed no other."""
        if self.current is None:
            return None
        digest = self.known[self.current].digest
        own = {n: k for n, k in self.known.items() if not k.foreign}
        for among in (own, self.known):
            found = self.last_good(self.current, digest, among)
            if found is not None:
                return found
        return None

    def next_number(self) -> int:
        return max(self.known, default=-1) + 1

    def stranger_stands(self, wanted: Rendered) -> bool:
        """Whether a file of someone else's, that the current generation does not keep, is in the
        place of a wanted link."""
        current = self.host.store.current()
        kept = {}
        if current is not None:
            for file in current.manifest.host_files:
                kept[file.path] = self.host.store.read(current, file.stored)
        for link in wanted.links:
            entry = self.host.disk.entry(link.path)
            stands = entry is not None and entry.kind is EntryKind.FILE
            if stands and kept.get(link.path) != self.host.disk.read(link.path):
                return True
        return False

    def adopts(self, wanted: Rendered) -> None:
        """Before anything is replaced, what stands is kept."""
        if self.current is None or self.stranger_stands(wanted):
            number = self.next_number()
            foreign = self.current is None or self.known[self.current].foreign
            self.known[number] = Known(
                f"adopted {number}", good=True, adopted=True, foreign=foreign
            )
            self.current = number

    # -- what a user does --------------------------------------------------------------------

    def deployed(self, wanted: Rendered, *, discard: bool = True) -> OutcomeKind:
        """As the verb does: recover, then deploy."""
        assert self.host.recoverer.recover() is None
        return self.host.deployer.deploy(
            wanted, reason="test", digest_key=KEY, discard_edits=discard
        ).kind

    @rule(wanted=labs, discard=st.booleans())
    def deploy(self, wanted: str, discard: bool) -> None:
        self._deploy(LABS[wanted], discard)

    def _deploy(self, wanted: Rendered, discard: bool) -> None:
        standing = self.known[self.current] if self.current is not None else None
        if standing is not None and standing.edited and not discard:
            before = self.host.disk.snapshot()
            try:
                self.deployed(wanted, discard=False)
            except Stale:
                assert self.host.disk.root == before
                return
            raise AssertionError("edited files were not refused")
        new = standing is None or bool(standing.edited) or standing.digest != wanted.digest
        if new or self.stranger_stands(wanted):
            self.adopts(wanted)
            self.current = self.next_number()
            self.known[self.current] = Known(wanted.digest, good=True)
        assert self.current is not None
        self.known[self.current].good = True
        kind = self.deployed(wanted)
        assert kind in (OutcomeKind.COMMITTED, OutcomeKind.NOTHING)
        self.disturbed = False
        self._learn_stamps()

    @rule(lab=labs, stays=st.booleans())
    def deploy_that_fails(self, lab: str, stays: bool) -> None:
        wanted = LABS[lab]
        standing = self.known[self.current] if self.current is not None else None
        if standing is not None and standing.digest == wanted.digest:
            return
        self.adopts(wanted)
        previous, target = self.current, self.next_number()
        assert previous is not None
        fallback = previous
        if not self.known[previous].good or self.known[previous].edited:
            found = self.last_good(below=previous)
            fallback = previous if found is None else found
        self.known[target] = Known(wanted.digest, good=False)
        self._broken_while(target)
        outcome = self.host.deployer.deploy(
            wanted, reason="fails", digest_key=KEY, keep_target=stays, discard_edits=True
        )
        self._well()
        expected = OutcomeKind.LEFT_IN_PLACE if stays else OutcomeKind.ROLLED_BACK
        assert outcome.kind is expected
        self.current = target if stays else fallback
        assert outcome.after == self.current
        self.disturbed = False
        self._learn_stamps()

    @rule(number=st.none() | st.integers(0, 12))
    def rollback(self, number: int | None) -> None:
        goal = self.rollback_goal() if number is None else number
        possible = self.current is not None and goal in self.known and not self.known[goal].edited
        before = self.host.disk.snapshot()
        assert self.host.recoverer.recover() is None
        try:
            outcome = self.host.deployer.rollback(number, reason="")
        except NoTarget:
            assert not possible
            assert self.host.disk.root == before
            return
        assert possible and goal is not None
        self.current = self.next_number()
        restored = self.known[goal]
        self.known[self.current] = Known(restored.digest, good=True, foreign=restored.foreign)
        assert (outcome.kind, outcome.restores) == (OutcomeKind.COMMITTED, goal)
        self.disturbed = False

    @rule(keep=st.integers(1, 4))
    def prune(self, keep: int) -> None:
        safe = {self.current, self.last_good()}
        if self.current is not None:
            safe |= {self.last_good(below=self.current), self.rollback_goal()}
        safe |= set(sorted(self.known)[-keep:])
        gone = {n for n, known in self.known.items() if n not in safe and not known.adopted}
        self._prune(keep)
        self.known = {n: known for n, known in self.known.items() if n not in gone}

    def _prune(self, keep: int) -> None:
        for generation in self.host.store.prunable(keep):
            self.host.store.remove(generation)

    def _learn_stamps(self) -> None:
        """The engine digests what it adopts by the time; the model cannot know it before."""
        for generation in self.host.store.generations():
            placeholder = f"adopted {generation.number}"
            for known in self.known.values():
                if known.digest == placeholder:
                    known.digest = generation.manifest.digest

    # -- what happens to a host --------------------------------------------------------------

    @precondition(lambda self: self.current is not None)
    @rule(which=st.sampled_from(["env/alpha.env", "litellm.yaml", "secrets.env"]))
    def edit(self, which: str) -> None:
        current = self.host.store.current()
        assert current is not None
        if not any(file.path == which for file in current.manifest.files):
            return
        path = f"{self.host.store.folder(current)}/{which}"
        data = self.host.disk.read(path)
        self.host.disk.remove(path)
        self.host.disk.create(path, data + b"# by hand\n", 0o600)
        self.host.disk.sync_folder(path.rsplit("/", 1)[0])
        self.known[current.number].edited.add(which)
        self.disturbed = True

    @rule(unit=units)
    def stranger_takes_a_units_place(self, unit: str) -> None:
        path = f"{PATHS.units}/{unit}"
        standing = self.host.disk.entry(path)
        if standing is not None and standing.kind is EntryKind.FILE:
            return
        if standing is not None:
            self.host.disk.remove(path)
        text = f"[Service]\nExecStart=/opt/{len(self.strangers)}\n".encode()
        self.strangers.append(text)
        self.host.disk.create(path, text, 0o644)
        self.host.disk.sync_folder(PATHS.units)
        self.disturbed = True

    @rule(unit=st.sampled_from([*UNITS, "litellm.service"]))
    def service_crashes(self, unit: str) -> None:
        if unit in self.host.units.running:
            self.host.units.fall(unit)
            self.disturbed = True

    @rule(unit=st.sampled_from([*UNITS, "litellm.service"]))
    def unit_is_restarted_by_hand(self, unit: str) -> None:
        if unit in self.host.units.running:
            self.host.units.reload()
            self.host.units._job(Action.RESTART, unit)

    # -- what cuts a line --------------------------------------------------------------------

    @rule(
        wanted=labs,
        what=st.sampled_from(["deploy", "failing deploy", "rollback", "prune"]),
        by=st.sampled_from(["disk", "bus"]),
        at=st.integers(0, 90),
        power=st.booleans(),
    )
    def kill(self, wanted: str, what: str, by: str, at: int, power: bool) -> None:
        """`kill -9` or a power loss at any operation; then the next labctl recovers."""
        before = dict(self.known)
        if what == "failing deploy":
            self._broken_while(self.next_number())
        self.host.disk.arm(crash_at=at if by == "disk" else None)
        self.host.units.crash_at = len(self.host.units.calls) + at if by == "bus" else None
        cut, done = self._cut(self._line(LABS[wanted], what))
        self.host.disk.arm()
        self.host.units.crash_at = None
        self._well()
        if cut and power:
            self.host.reboot()
        self.host.open()
        recovery = self.host.recoverer.recover()
        assert_quiet(self.host)
        settled = (done and what != "prune") or (recovery is not None and recovery.went_to >= 0)
        self.disturbed = not settled and (self.disturbed or (cut and power))
        self._learn(before, pruned=what == "prune")

    def _line(self, wanted: Rendered, what: str) -> Callable[[], object]:
        host = self.host
        if what == "rollback":
            return lambda: host.deployer.rollback(None, reason="")
        if what == "prune":
            return lambda: self._prune(1)
        return lambda: host.deployer.deploy(
            wanted, reason="cut", digest_key=KEY, discard_edits=True
        )

    def _cut(self, act: Callable[[], object]) -> tuple[bool, bool]:
        """(whether it was cut, whether it came to its end)."""
        try:
            act()
        except Crash:
            return True, False
        except LabctlError as error:
            assert error.message and isinstance(error, NoTarget)
            return False, False
        return False, True

    def _learn(self, before: dict[int, Known], *, pruned: bool) -> None:
        """What a cut line may have left: what was known is the same, at most two are new."""
        found = {g.number: g for g in self.host.store.generations()}
        lost = set(before) - set(found)
        assert not lost or pruned
        new = set(found) - set(before)
        assert len(new) <= 2 and all(number >= max(before, default=0) for number in new)
        self.known = {}
        for number, generation in found.items():
            manifest = generation.manifest
            good = generation.standing.restorable
            adopted = manifest.kind is GenerationKind.ADOPTED
            foreign = all(spec.kind is None for spec in manifest.services)
            self.known[number] = Known(manifest.digest, good, adopted, foreign)
            if number in before:
                assert before[number].adopted == adopted
                assert before[number].digest == manifest.digest
                assert good >= before[number].good, "what was proved stays proved"
                self.known[number].edited = before[number].edited
        current = self.host.store.current()
        assert current is not None or all(known.adopted for known in self.known.values())
        self.current = current.number if current is not None else None

    def _broken_while(self, number: int) -> None:
        def look() -> None:
            current = self.host.store.current()
            failing = current is not None and current.number == number
            self.host.prober.broken = {"model-alpha"} if failing else set()
            self.host.prober.silent = {"litellm"} if failing else set()

        self.host.prober.on_ask = look

    def _well(self) -> None:
        self.host.prober.on_ask = lambda: None
        self.host.prober.broken, self.host.prober.silent = set(), set()

    # -- what always holds -------------------------------------------------------------------

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        store = self.host.store
        current = store.current()
        assert (current.number if current is not None else None) == self.current
        assert store.damaged() == () and store.record() is None
        found = {g.number: g for g in store.generations()}
        assert found.keys() == self.known.keys()
        for number, known in self.known.items():
            assert found[number].standing.restorable is known.good, number
            assert set(store.edited(found[number])) == known.edited
            assert found[number].manifest.digest == known.digest

    @invariant()
    def what_was_asked_for_serves(self) -> None:
        if self.disturbed or self.current is None:
            return
        current = self.host.store.current()
        assert current is not None
        if not self.known[current.number].edited:
            assert_whole(self.host, {self.current})
        wanted = {spec.unit for spec in current.manifest.services if spec.active}
        assert set(self.host.units.running) == wanted, "nothing else runs"
        # What was adopted keeps hand edits of the generation before, as files, unseen by processes.
        adopted = any(known.adopted and number > 0 for number, known in self.known.items())
        for unit, process in self.host.units.running.items():
            if process.inputs and not adopted:
                name = unit.removesuffix(".service")
                sealed = self.host.store.read(current, f"env/{name}.env").decode()
                assert process.environment == sealed, f"{unit} runs with other settings"

    @invariant()
    def nothing_of_a_stranger_is_ever_lost(self) -> None:
        held = set(_contents(self.host.disk.root))
        assert [text for text in self.strangers if text not in held] == []


def _contents(node: Node) -> list[bytes]:
    if isinstance(node, File):
        return [node.data]
    if isinstance(node, Folder):
        return [data for child in node.entries.values() for data in _contents(child)]
    return []


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]
# The same examples in every run of CI, so that a red run is the change's own.
settings.register_profile(
    "ci",
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=QUIET,
)
settings.register_profile(
    "nightly",
    max_examples=3000,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=QUIET,
)

TestLabctl = Labctl.TestCase
TestLabctl.settings = settings.get_profile(os.environ.get("LABCTL_HYPOTHESIS", "ci"))
