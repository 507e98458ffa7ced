"""A disk that keeps, after a crash, only what was synced; and that fails or crashes on demand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from agent.model.errors import DiskFailure
from agent.model.host import Entry, EntryKind


class Crash(BaseException):
    """The machine, or the process, stops here. No code of ours may catch it."""


@dataclass
class File:
    data: bytes
    mode: int


@dataclass
class Link:
    target: str


@dataclass
class Folder:
    """`entries` is what a program sees; `durable` what a power loss leaves."""

    mode: int
    entries: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Folder


class ModelDisk:
    """The Disk port in memory.

    `create` makes the content durable, as an fsync does; its name becomes durable only when its
    folder is synced. So do renames, links and removals.

    Attributes:
        operations: how many operations were begun; `log` names them.
        fail_at: the index of the operation that fails, once.
        crash_at: the index of the operation at which everything stops.
        full: nothing can be written any more; what removes or renames still works.
        fill_at: the index of the operation from which on the disk is full.
    """

    def __init__(self) -> None:
        self.root = Folder(0o755)
        self.operations = 0
        self.log: list[str] = []
        self.fail_at: int | None = None
        self.crash_at: int | None = None
        self.count_reads = False
        self.full = False
        self.fill_at: int | None = None

    # -- faults ----------------------------------------------------------------------------

    def arm(self, *, fail_at: int | None = None, crash_at: int | None = None) -> None:
        """Count from here, and break at that operation."""
        self.operations = 0
        self.log = []
        self.fail_at, self.crash_at = fail_at, crash_at

    def lose_power(self) -> None:
        """Keep only what was synced."""
        self.root = _durable(self.root)

    def snapshot(self) -> Folder:
        return copy.deepcopy(self.root)

    def _operation(self, what: str) -> None:
        index = self.operations
        self.operations += 1
        self.log.append(what)
        if index == self.crash_at:
            raise Crash(f"{index}: {what}")
        if index == self.fill_at:
            self.full = True
        writes = what.startswith(("create", "link", "make_folder"))
        if index == self.fail_at or (self.full and writes):
            raise DiskFailure(f"{what}: no space left on device", hint="free some space")

    def _reading(self, what: str) -> None:
        if self.count_reads:
            self._operation(what)

    # -- the port --------------------------------------------------------------------------

    def entry(self, path: str) -> Entry | None:
        node = self._find(path)
        if node is None:
            return None
        if isinstance(node, File):
            return Entry(EntryKind.FILE, node.mode, len(node.data))
        if isinstance(node, Link):
            return Entry(EntryKind.LINK, 0o777)
        return Entry(EntryKind.FOLDER, node.mode)

    def read(self, path: str) -> bytes:
        self._reading(f"read {path}")
        node = self._follow(path)
        if not isinstance(node, File):
            raise FileNotFoundError(path)
        return node.data

    def target(self, path: str) -> str:
        node = self._find(path)
        if not isinstance(node, Link):
            raise FileNotFoundError(path)
        return node.target

    def names(self, path: str) -> tuple[str, ...]:
        return tuple(sorted(self._folder(path).entries))

    def create(self, path: str, data: bytes, mode: int) -> None:
        self._operation(f"create {path}")
        folder, name = self._place(path)
        if name in folder.entries:
            raise DiskFailure(f"{path} exists", hint="")
        folder.entries[name] = File(data, mode)

    def link(self, path: str, target: str) -> None:
        self._operation(f"link {path}")
        folder, name = self._place(path)
        if name in folder.entries:
            raise DiskFailure(f"{path} exists", hint="")
        folder.entries[name] = Link(target)

    def rename(self, old: str, new: str) -> None:
        self._operation(f"rename {old} {new}")
        source, name = self._place(old)
        goal, new_name = self._place(new)
        if name not in source.entries:
            raise FileNotFoundError(old)
        if isinstance(goal.entries.get(new_name), Folder):
            raise DiskFailure(f"{new} is a folder", hint="")
        goal.entries[new_name] = source.entries.pop(name)

    def remove(self, path: str) -> None:
        self._operation(f"remove {path}")
        folder, name = self._place(path)
        if isinstance(folder.entries.get(name), Folder) or name not in folder.entries:
            raise FileNotFoundError(path)
        del folder.entries[name]

    def make_folder(self, path: str, mode: int) -> None:
        self._operation(f"make_folder {path}")
        folder, name = self._place(path)
        standing = folder.entries.get(name)
        if standing is not None and not isinstance(standing, Folder):
            raise DiskFailure(f"{path} is not a folder", hint="")
        if standing is None:
            folder.entries[name] = Folder(mode)

    def remove_folder(self, path: str) -> None:
        self._operation(f"remove_folder {path}")
        folder, name = self._place(path)
        standing = folder.entries.get(name)
        if not isinstance(standing, Folder) or standing.entries:
            raise DiskFailure(f"{path} is not an empty folder", hint="")
        del folder.entries[name]

    def sync_folder(self, path: str) -> None:
        self._operation(f"sync_folder {path}")
        folder = self._folder(path)
        folder.durable = dict(folder.entries)

    # -- walking ---------------------------------------------------------------------------

    def make_all(self, path: str) -> None:
        """Folders of the host that were there long before; durable."""
        node = self.root
        for part in path.strip("/").split("/"):
            child = node.entries.setdefault(part, Folder(0o755))
            node.durable[part] = child
            assert isinstance(child, Folder)
            node = child

    def _find(self, path: str) -> Node | None:
        node: Node = self.root
        for part in path.strip("/").split("/"):
            if isinstance(node, Link):
                return None
            if not isinstance(node, Folder) or part not in node.entries:
                return None
            node = node.entries[part]
        return node

    def _follow(self, path: str, depth: int = 8) -> Node | None:
        """Like the kernel: links in the middle and at the end lead on."""
        at = ""
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            node = self._find(at)
            if isinstance(node, Link) and depth:
                base = at.rsplit("/", 1)[0]
                goal = node.target if node.target.startswith("/") else f"{base}/{node.target}"
                rest = path[len(at) :]
                return self._follow(_normal(goal + rest), depth - 1)
        return self._find(path)

    def _folder(self, path: str) -> Folder:
        node = self._find(path)
        if not isinstance(node, Folder):
            raise FileNotFoundError(path)
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _durable(folder: Folder) -> Folder:
    kept: dict[str, Node] = {}
    for name, node in folder.durable.items():
        kept[name] = _durable(node) if isinstance(node, Folder) else copy.copy(node)
    return Folder(folder.mode, dict(kept), dict(kept))
