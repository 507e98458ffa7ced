"""The store: generations, the `current` link and the record of the transaction in flight.

Protocol, in the order in which a deploy meets it:

1. `seal` writes a generation into `generations/.sealing-N`, syncs every file and folder, renames
   the folder to its final name and syncs the parent. A generation is whole or absent.
2. `begin` writes `record.json` by rename and syncs. From here an interruption is recovered.
3. `point` replaces the link `current` by rename and syncs. This is the switch.
4. `judge` adds `verdict.json` to the target. From here the deploy has happened.
5. `close` removes the record and syncs.

Everything that an interruption can leave between two of these lines is one of: a `.sealing-`,
`.removing-` or `.new` leftover, which `sweep` removes; or a record, which recovery reads.
"""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.deploy.codec import decode, encode
from agent.deploy.durable import (
    make_parents,
    remove_tree,
    replace_file,
    replace_link,
    write_tree,
)
from agent.model.errors import DiskFailure, StoreDamaged
from agent.model.generation import (
    DamagedGeneration,
    FileEntry,
    Generation,
    GenerationKind,
    Judgement,
    Manifest,
    Record,
    RenderedFile,
)
from agent.model.host import EntryKind

if TYPE_CHECKING:
    from agent.deploy.ports import Disk

_FOLDER = re.compile(r"(\d{6,})-\d{8}T\d{6}Z")
_LEFTOVER_PREFIXES = (".sealing-", ".removing-")
KEY_BYTES = 32


class Store:
    """The state folder. Only this class knows how it is laid out."""

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self.root = root
        self.generations_folder = f"{root}/generations"
        self._current = f"{root}/current"
        self._record = f"{root}/record.json"
        self._key = f"{root}/digest.key"

    # -- reading ---------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self._disk.entry(self.generations_folder) is not None

    def generations(self) -> tuple[Generation, ...]:
        """Every whole generation, oldest first. Damaged ones are in `damaged`."""
        return tuple(g for g in self._scan() if isinstance(g, Generation))

    def damaged(self) -> tuple[DamagedGeneration, ...]:
        return tuple(g for g in self._scan() if isinstance(g, DamagedGeneration))

    def generation(self, number: int) -> Generation | None:
        for folder in self._folders():
            if _number(folder) == number:
                return self._load(folder)
        return None

    def current(self) -> Generation | None:
        """The generation that `current` names; None before the first deploy."""
        entry = self._disk.entry(self._current)
        if entry is None:
            return None
        if entry.kind is not EntryKind.LINK:
            raise StoreDamaged(
                f"{self._current} is a {entry.kind}, not a link to a generation",
                hint="run `labctl recover`",
            )
        folder = posixpath.basename(self._disk.target(self._current))
        if not _FOLDER.fullmatch(folder) or folder not in self._folders():
            raise StoreDamaged(
                f"{self._current} names {folder!r}, which is no generation",
                hint="run `labctl recover`",
            )
        return self._load(folder)

    def record(self) -> Record | None:
        """The transaction in flight; None when the last one was closed."""
        if self._disk.entry(self._record) is None:
            return None
        return decode(Record, self._disk.read(self._record), self._record)

    def read(self, generation: Generation, path: str) -> bytes:
        """The bytes of one sealed file."""
        data = self.sealed(generation, path)
        if data is None:
            raise StoreDamaged(
                f"{self.folder(generation)}/{path} is missing",
                hint="`labctl generations list` shows what else there is",
            )
        return data

    def sealed(self, generation: Generation, path: str) -> bytes | None:
        """The bytes of one sealed file; None when someone has removed it."""
        where = f"{self.folder(generation)}/{path}"
        entry = self._disk.entry(where)
        return self._disk.read(where) if entry and entry.kind is EntryKind.FILE else None

    def files(self, generation: Generation) -> tuple[RenderedFile, ...]:
        """Every sealed file that stands, with its content, to be sealed again or compared."""
        return tuple(
            RenderedFile(file.path, data, file.mode, file.secret)
            for file in generation.manifest.files
            if (data := self.sealed(generation, file.path)) is not None
        )

    def folder(self, generation: Generation) -> str:
        return f"{self.generations_folder}/{generation.folder}"

    def edited(self, generation: Generation) -> tuple[str, ...]:
        """Sealed files that are missing or no longer match their digest: drift."""
        return tuple(
            entry.path
            for entry in generation.manifest.files
            if not self._matches(generation, entry)
        )

    def last_good(
        self, before: int | None = None, unlike: str = "", *, ours_first: bool = False
    ) -> Generation | None:
        """The newest restorable, unedited generation.

        Args:
            before: only numbers below this one.
            unlike: a digest that the answer must not have.
            ours_first: one from before labctl only where labctl deployed no other.
        """
        from_before_labctl = None
        for generation in self._newest_first():
            if before is not None and generation.number >= before:
                continue
            if not generation.standing.restorable or generation.manifest.digest == unlike:
                continue
            if self.edited(generation):
                continue
            if not ours_first or not generation.manifest.foreign:
                return generation
            from_before_labctl = from_before_labctl or generation
        return from_before_labctl

    def rollback_goal(self, current: Generation) -> Generation | None:
        """Where a rollback without a number goes."""
        return self.last_good(
            before=current.number, unlike=current.manifest.digest, ours_first=True
        )

    # -- writing ---------------------------------------------------------------------------

    def prepare(self, random_key: bytes) -> None:
        """Make the folders and the digest key, if they are not there.

        The key comes first: where there are generations, there is the key of their secrets.
        """
        make_parents(self._disk, self.root)
        if self._disk.entry(self.root) is None:
            self._disk.make_folder(self.root, 0o700)
        # Also where it stands: a labctl that was killed may have made it and not come to this.
        self._disk.sync_folder(posixpath.dirname(self.root))
        if not self.exists or self.digest_key() is None:
            replace_file(self._disk, self._key, random_key, 0o600)
        self._disk.make_folder(self.generations_folder, 0o700)
        self._disk.sync_folder(self.root)

    def digest_key(self) -> bytes | None:
        """The key under which digests of secrets are taken; random, one per store.

        None when it is lost or damaged: secrets then cannot be compared, and the next deploy
        makes a new key. Going back works without it.
        """
        if not self.exists or self._disk.entry(self._key) is None:
            return None
        key = self._disk.read(self._key)
        return key if len(key) == KEY_BYTES else None

    def sweep(self) -> tuple[str, ...]:
        """Remove what an interruption left half-written. Says what it removed."""
        swept = []
        if not self.exists:
            return ()
        for name in self._disk.names(self.root):
            if name.endswith(".new"):
                self._disk.remove(f"{self.root}/{name}")
                swept.append(name)
        for name in self._disk.names(self.generations_folder):
            if name.startswith(_LEFTOVER_PREFIXES):
                remove_tree(self._disk, f"{self.generations_folder}/{name}")
                swept.append(name)
                continue
            leftover = f"{self.generations_folder}/{name}/verdict.json.new"
            if _FOLDER.fullmatch(name) and self._disk.entry(leftover) is not None:
                self._disk.remove(leftover)
                swept.append(f"{name}/verdict.json.new")
        return tuple(swept)

    def seal(self, manifest: Manifest, files: Sequence[RenderedFile]) -> Generation:
        """Write a generation, durable and whole. The manifest's number is assigned here."""
        number = self._next_number()
        stamp = re.sub(r"[-:]|\.\d+|\+00:00", "", manifest.created_at).rstrip("Z") + "Z"
        folder = f"{number:06d}-{stamp}"
        key = self.digest_key()
        entries = tuple(
            FileEntry(
                f.path,
                _secret_digest(f.data, key) if f.secret else _digest(f.data),
                f.mode,
                f.secret,
            )
            for f in files
        )
        sealed = replace(manifest, number=number, files=entries)
        making = f"{self.generations_folder}/.sealing-{number:06d}"
        try:
            manifest_file = RenderedFile("manifest.json", encode(sealed))
            write_tree(self._disk, making, (*files, manifest_file))
            self._disk.rename(making, f"{self.generations_folder}/{folder}")
            self._disk.sync_folder(self.generations_folder)
        except DiskFailure:
            # Best effort: `sweep` finds it again when the disk works.
            self._discard(making)
            raise
        return Generation(manifest=sealed, folder=folder)

    def begin(self, record: Record) -> None:
        replace_file(self._disk, self._record, encode(record), 0o600)

    def close(self) -> None:
        if self._disk.entry(self._record) is not None:
            self._disk.remove(self._record)
        self._disk.sync_folder(self.root)

    def set_aside_record(self, stamp: str) -> str:
        """Keep a damaged record for people to read, out of the way. Returns its new path."""
        return self._set_aside(self._record, stamp)

    def set_aside_current(self, stamp: str) -> str:
        """Keep what stands where `current` belongs, out of the way. Returns its new path."""
        return self._set_aside(self._current, stamp)

    def _set_aside(self, path: str, stamp: str) -> str:
        if self._disk.entry(path) is None:
            return ""
        kept = f"{path}.broken-{stamp}"
        self._disk.rename(path, kept)
        self._disk.sync_folder(self.root)
        return kept

    def point(self, generation: Generation) -> bool:
        """Make `current` name this generation. False when it already did."""
        target = f"generations/{generation.folder}"
        entry = self._disk.entry(self._current)
        linked = entry is not None and entry.kind is EntryKind.LINK
        if linked and self._disk.target(self._current) == target:
            return False
        replace_link(self._disk, self._current, target)
        return True

    def judge(self, generation: Generation, judgement: Judgement) -> Generation:
        """Write down what became of a generation."""
        path = f"{self.folder(generation)}/verdict.json"
        replace_file(self._disk, path, encode(judgement), 0o600)
        return replace(generation, judgement=judgement)

    def prunable(self, keep: int) -> tuple[Generation, ...]:
        """The generations that `prune` would remove, oldest first.

        Never the current one, the last good one, the one that a rollback would go to, adopted
        ones, or those of a record in flight.
        """
        generations = self.generations()
        current = self.current()
        good = self.last_good(unlike="")
        before = self.last_good(before=current.number) if current else None
        record = self.record()
        goal = self.rollback_goal(current) if current else None
        safe = {g.number for g in (current, good, before, goal) if g is not None}
        if record is not None:
            safe |= {record.previous, record.target, record.fallback}
        newest = {g.number for g in generations[-keep:]} if keep > 0 else set()
        return tuple(
            g
            for g in generations
            if g.number not in safe | newest and g.manifest.kind is not GenerationKind.ADOPTED
        )

    def remove(self, generation: Generation) -> None:
        """Delete a generation: out of sight by one rename, then file by file."""
        gone = f"{self.generations_folder}/.removing-{generation.folder}"
        self._disk.rename(self.folder(generation), gone)
        self._disk.sync_folder(self.generations_folder)
        remove_tree(self._disk, gone)

    # -- inside ----------------------------------------------------------------------------

    def _folders(self) -> tuple[str, ...]:
        if not self.exists:
            return ()
        names = self._disk.names(self.generations_folder)
        return tuple(sorted((n for n in names if _FOLDER.fullmatch(n)), key=_number))

    def _scan(self) -> Iterable[Generation | DamagedGeneration]:
        for folder in self._folders():
            try:
                yield self._load(folder)
            except StoreDamaged as error:
                yield DamagedGeneration(folder, error.message)

    def _newest_first(self) -> Iterator[Generation]:
        for folder in reversed(self._folders()):
            try:
                yield self._load(folder)
            except StoreDamaged:
                continue

    def _load(self, folder: str) -> Generation:
        base = f"{self.generations_folder}/{folder}"
        try:
            manifest = decode(Manifest, self._disk.read(f"{base}/manifest.json"), folder)
        except FileNotFoundError as error:
            raise StoreDamaged(
                f"{base} has no manifest.json", hint="it cannot be restored; remove it by hand"
            ) from error
        if manifest.number != _number(folder):
            raise StoreDamaged(
                f"{base} calls itself generation {manifest.number}",
                hint="a folder was copied or renamed by hand; move it away",
            )
        return Generation(manifest=manifest, folder=folder, judgement=self._judgement(base))

    def _judgement(self, base: str) -> Judgement | None:
        """A damaged judgement counts as none: the generation has to be proved again."""
        path = f"{base}/verdict.json"
        if self._disk.entry(path) is None:
            return None
        try:
            return decode(Judgement, self._disk.read(path), path)
        except StoreDamaged:
            return None

    def _matches(self, generation: Generation, entry: FileEntry) -> bool:
        path = f"{self.folder(generation)}/{entry.path}"
        found = self._disk.entry(path)
        if found is None or found.kind is not EntryKind.FILE:
            return False
        data = self._disk.read(path)
        if not entry.secret:
            return _digest(data) == entry.sha256
        digest = _secret_digest(data, self.digest_key())
        return not (digest and entry.sha256) or hmac.compare_digest(digest, entry.sha256)

    def _next_number(self) -> int:
        numbers = [_number(folder) for folder in self._folders()]
        return max(numbers) + 1 if numbers else 0

    def _discard(self, path: str) -> None:
        try:
            if self._disk.entry(path) is not None:
                remove_tree(self._disk, path)
        except DiskFailure:
            return


def _number(folder: str) -> int:
    match = _FOLDER.fullmatch(folder)
    return int(match.group(1)) if match else -1


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _secret_digest(data: bytes, key: bytes | None) -> str:
    """Keyed; empty without a key, for what cannot be compared."""
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key is not None else ""
