"""Host paths outside the state folder: the links that systemd reads, and foreign files given back.

A generation says what it wants at each path. Settling is convergent: it looks at what stands
there and changes only what differs, so doing it again after a crash finishes the same work.
Nothing foreign is ever overwritten without a copy of it being kept first.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.deploy.durable import replace_file, replace_link
from agent.deploy.store import Store
from agent.model.errors import StoreDamaged
from agent.model.generation import Generation, HostFile, Link, Manifest, RenderedFile
from agent.model.host import EntryKind

if TYPE_CHECKING:
    from agent.deploy.ports import Disk


@dataclass(frozen=True, slots=True)
class Adoption:
    """Foreign things found at paths that a deploy wants: what to keep of them."""

    links: tuple[Link, ...] = ()
    host_files: tuple[HostFile, ...] = ()
    files: tuple[RenderedFile, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(p.path for p in self.links) + tuple(p.path for p in self.host_files)


class Placements:
    """Compares and settles what stands at host paths."""

    def __init__(self, disk: Disk, store: Store) -> None:
        self._disk = disk
        self._store = store

    def wrong(self, generation: Generation) -> tuple[str, ...]:
        """Paths that are not what this generation wants there."""
        manifest = generation.manifest
        links = (link.path for link in manifest.links if not self._has_link(link))
        files = (f.path for f in manifest.host_files if not self._has_file(generation, f))
        return (*links, *files)

    def foreign(self, wanted: Iterable[Link], known: Generation | None) -> Adoption:
        """Keep what stands at the wanted paths and is neither ours nor kept by `known`."""
        links: list[Link] = []
        host_files: list[HostFile] = []
        files: list[RenderedFile] = []
        for link in wanted:
            entry = self._disk.entry(link.path)
            if entry is None or self._ours(link.path) or self._kept_by(known, link.path):
                continue
            if entry.kind is EntryKind.LINK:
                if not self._has_link(link):
                    links.append(Link(link.path, self._disk.target(link.path)))
            elif entry.kind is EntryKind.FILE:
                stored = f"adopted{link.path}"
                host_files.append(HostFile(link.path, stored, entry.mode))
                files.append(RenderedFile(stored, self._disk.read(link.path)))
            else:
                raise StoreDamaged(
                    f"{link.path} is a {entry.kind}; a unit file belongs there",
                    hint="move it away, then deploy again",
                )
        return Adoption(tuple(links), tuple(host_files), tuple(files))

    def settle(self, goal: Generation, others: Iterable[Manifest], stamp: str) -> tuple[str, ...]:
        """Make every path what `goal` wants; remove our links that it does not want.

        Args:
            others: manifests whose links may stand on the host and have to go.
            stamp: names the folder for foreign things that nobody kept yet.

        Returns what was changed, as paths.
        """
        changed = []
        wanted = goal.manifest.paths
        for link in goal.manifest.links:
            if not self._has_link(link):
                self._make_way(link.path, stamp)
                replace_link(self._disk, link.path, link.target, _making(link.path))
                changed.append(link.path)
        for file in goal.manifest.host_files:
            if not self._has_file(goal, file):
                self._make_way(file.path, stamp)
                data = self._store.read(goal, file.stored)
                replace_file(self._disk, file.path, data, file.mode, _making(file.path))
                changed.append(file.path)
        known = {link.path: link for manifest in others for link in manifest.links}
        for path, link in known.items():
            if path not in wanted and self._has_link(link):
                self._disk.remove(path)
                self._disk.sync_folder(posixpath.dirname(path))
                changed.append(path)
        return tuple(changed)

    # -- inside ----------------------------------------------------------------------------

    def _ours(self, path: str) -> bool:
        """Whether a link at `path` leads into the state folder."""
        entry = self._disk.entry(path)
        if entry is None or entry.kind is not EntryKind.LINK:
            return False
        return self._disk.target(path).startswith(f"{self._store.root}/")

    def _kept_by(self, known: Generation | None, path: str) -> bool:
        if known is None:
            return False
        links = any(link.path == path and self._has_link(link) for link in known.manifest.links)
        files = known.manifest.host_files
        return links or any(f.path == path and self._has_file(known, f) for f in files)

    def _has_link(self, link: Link) -> bool:
        entry = self._disk.entry(link.path)
        if entry is None or entry.kind is not EntryKind.LINK:
            return False
        return self._disk.target(link.path) == link.target

    def _has_file(self, generation: Generation, file: HostFile) -> bool:
        entry = self._disk.entry(file.path)
        if entry is None or entry.kind is not EntryKind.FILE or entry.mode != file.mode:
            return False
        return self._disk.read(file.path) == self._store.sealed(generation, file.stored)

    def _make_way(self, path: str, stamp: str) -> None:
        """Keep a foreign thing that stands at `path` and that no generation has kept."""
        self._make_folder(posixpath.dirname(path))
        entry = self._disk.entry(path)
        if entry is None:
            return
        if entry.kind is EntryKind.LINK:
            self._keep_link(Link(path, self._disk.target(path)), stamp)
            return
        if entry.kind is not EntryKind.FILE:
            raise StoreDamaged(
                f"{path} is a {entry.kind}; a unit file belongs there",
                hint="move it away, then run `labctl recover`",
            )
        data = self._disk.read(path)
        if self._kept_somewhere(path, data):
            return
        folder, kept = self._displaced(path, stamp)
        if self._disk.entry(kept) is None:
            self._disk.create(kept, data, entry.mode)
        self._disk.sync_folder(folder)

    def _keep_link(self, link: Link, stamp: str) -> None:
        """A foreign link, as of a unit that someone masked or linked."""
        manifests = [generation.manifest for generation in self._store.generations()]
        if self._ours(link.path) or any(link in manifest.links for manifest in manifests):
            return
        folder, kept = self._displaced(link.path, stamp)
        if self._disk.entry(kept) is None:
            self._disk.link(kept, link.target)
        self._disk.sync_folder(folder)

    def _displaced(self, path: str, stamp: str) -> tuple[str, str]:
        """The folder for what nobody kept yet, made, and the name in it for `path`."""
        folder = f"{self._store.root}/displaced-{stamp}"
        self._disk.make_folder(folder, 0o700)
        self._disk.sync_folder(self._store.root)
        return folder, f"{folder}/{path.strip('/').replace('/', '-')}"

    def _kept_somewhere(self, path: str, data: bytes) -> bool:
        return any(
            file.path == path and self._store.sealed(generation, file.stored) == data
            for generation in self._store.generations()
            for file in generation.manifest.host_files
        )

    def _make_folder(self, path: str) -> None:
        parent = posixpath.dirname(path)
        if self._disk.entry(path) is None:
            self._make_folder(parent)
            self._disk.make_folder(path, 0o755)
        # Also where it stands: a labctl that was killed may have made it and not come to this.
        self._disk.sync_folder(parent)


def _making(path: str) -> str:
    """A hidden name in the same folder that systemd does not read as a unit."""
    return f"{posixpath.dirname(path)}/.{posixpath.basename(path)}.labctl-new"
