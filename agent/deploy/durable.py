"""Disk operations that are whole or absent after a crash, put together from the port's single ones.

What is replaced is made beside its place under another name, synced, renamed over it, and the
folder is synced. A leftover of that other name is removed by the next try, and by `Store.sweep`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.model.host import EntryKind

if TYPE_CHECKING:
    # Only for their types: `labctl status` does not pay for the engine's ports.
    from agent.deploy.ports import Disk
    from agent.model.generation import RenderedFile


def replace_file(disk: Disk, path: str, data: bytes, mode: int, making: str = "") -> None:
    """Put a file at `path`, over what stands there. `making` is its name until it is whole."""
    made = _free(disk, making or f"{path}.new")
    disk.create(made, data, mode)
    disk.rename(made, path)
    disk.sync_folder(posixpath.dirname(path))


def replace_link(disk: Disk, path: str, target: str, making: str = "") -> None:
    """Put a symbolic link at `path`, over the file or link that stands there."""
    made = _free(disk, making or f"{path}.new")
    disk.link(made, target)
    disk.rename(made, path)
    disk.sync_folder(posixpath.dirname(path))


def _free(disk: Disk, path: str) -> str:
    if disk.entry(path) is not None:
        disk.remove(path)
    return path


def write_tree(disk: Disk, folder: str, files: Iterable[RenderedFile]) -> None:
    """Write a new folder with files in it, everything synced but the folder's own name."""
    disk.make_folder(folder, 0o700)
    made = {folder}
    for file in files:
        for parent in _parents(file.path):
            if f"{folder}/{parent}" not in made:
                disk.make_folder(f"{folder}/{parent}", 0o700)
                made.add(f"{folder}/{parent}")
        disk.create(f"{folder}/{file.path}", file.data, file.mode)
    for path in sorted(made, reverse=True):
        disk.sync_folder(path)


def remove_tree(disk: Disk, path: str) -> None:
    """Remove a folder and all in it. Call it only on what no name leads to any more."""
    for name in disk.names(path):
        entry = disk.entry(f"{path}/{name}")
        if entry is not None and entry.kind is EntryKind.FOLDER:
            remove_tree(disk, f"{path}/{name}")
        else:
            disk.remove(f"{path}/{name}")
    disk.remove_folder(path)


def make_parents(disk: Disk, path: str) -> None:
    """Make the folders above `path`, each synced into its own; nothing where `path` stands."""
    if disk.entry(path) is not None:
        return
    parent = posixpath.dirname(path)
    if disk.entry(parent) is None:
        make_parents(disk, parent)
        disk.make_folder(parent, 0o755)
    disk.sync_folder(posixpath.dirname(parent))


def _parents(path: str) -> tuple[str, ...]:
    """`a/b/c` → (`a`, `a/b`)."""
    parts = path.split("/")[:-1]
    return tuple("/".join(parts[: i + 1]) for i in range(len(parts)))
