"""LocalDisk on a real file system: what it promises, and what it says when it cannot."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.host.disk import READ_LIMIT_BYTES, LocalDisk
from agent.model.errors import DiskFailure
from agent.model.host import Entry, EntryKind

disk = LocalDisk()
ROOT = Path(agent.__file__).parents[1]  # where a new Python finds the package


def test_create_writes_exactly_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        disk.create(str(path), b"data", 0o644)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"data"
    assert disk.entry(str(path)) == Entry(EntryKind.FILE, 0o644, 4)


@pytest.mark.parametrize("standing", ["file", "link", "folder"])
def test_create_refuses_what_stands_and_leaves_it(tmp_path: Path, standing: str) -> None:
    path, elsewhere = tmp_path / "x", tmp_path / "elsewhere"
    if standing == "file":
        path.write_bytes(b"old")
    elif standing == "link":
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
    before = disk.entry(str(path))
    with pytest.raises(DiskFailure, match="File exists"):
        disk.create(str(path), b"new", 0o600)
    assert disk.entry(str(path)) == before
    assert not elsewhere.exists()


def test_a_file_that_does_not_fit_is_not_left_half_written(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from agent.host.disk import LocalDisk
from agent.model.errors import DiskFailure
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    LocalDisk().create(sys.argv[1], b"x" * 100_000, 0o600)
except DiskFailure as failure:
    sys.stdout.write(f"{failure.message}|{failure.hint}")
"""
    path = tmp_path / "big"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    message, hint = done.stdout.split("|")
    assert message == f"cannot create {path}: File too large"
    assert "ulimit -f" in hint
    assert not path.exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFailure) as caught:
        disk.create(str(tmp_path / "none" / "file"), b"", 0o600)
    assert caught.value.message.endswith("No such file or directory")
    assert caught.value.hint


def test_a_folder_that_takes_no_files_is_named() -> None:
    with pytest.raises(DiskFailure) as caught:
        disk.create("/proc/labctl-test", b"", 0o600)
    assert "/proc/labctl-test" in caught.value.message


def test_missing_paths_are_told_apart_from_failures(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert disk.entry(gone) is None
    for operation in (disk.read, disk.target, disk.names, disk.remove, disk.remove_folder):
        with pytest.raises(FileNotFoundError):
            operation(gone)
    with pytest.raises(DiskFailure):
        disk.sync_folder(gone)
    with pytest.raises(DiskFailure):
        disk.rename(gone, gone + "2")


def test_entry_tells_kinds_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    kinds = {name: disk.entry(str(tmp_path / name)) for name in disk.names(str(tmp_path))}
    assert {name: entry and entry.kind for name, entry in kinds.items()} == {
        "fifo": EntryKind.OTHER,
        "folder": EntryKind.FOLDER,
        "link": EntryKind.LINK,
    }
    assert disk.entry(str(tmp_path / "folder" / "x")) is None
    (tmp_path / "file").touch()
    with pytest.raises(DiskFailure, match="Not a directory"):
        disk.entry(str(tmp_path / "file" / "x"))


def test_read_follows_links_and_refuses_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    assert disk.read(str(tmp_path / "link")) == b"x"
    for name in ("fifo", "."):
        with pytest.raises(DiskFailure, match="not a regular file"):
            disk.read(str(tmp_path / name))
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(READ_LIMIT_BYTES + 1)
    with pytest.raises(DiskFailure, match="larger than 64 MiB"):
        disk.read(str(tmp_path / "huge"))


def test_links_and_renames_replace_atomically(tmp_path: Path) -> None:
    one, two = str(tmp_path / "current"), str(tmp_path / "draft")
    disk.link(one, "generations/1")
    disk.link(two, "generations/2")
    with pytest.raises(DiskFailure, match="File exists"):
        disk.link(two, "generations/3")
    disk.rename(two, one)
    assert disk.target(one) == "generations/2"
    assert disk.names(str(tmp_path)) == ("current",)
    disk.sync_folder(str(tmp_path))
    disk.remove(one)
    assert disk.names(str(tmp_path)) == ()


def test_folders(tmp_path: Path) -> None:
    folder = str(tmp_path / "folder")
    disk.make_folder(folder, 0o700)
    disk.make_folder(folder, 0o755)  # it exists: left as it is
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    disk.create(f"{folder}/file", b"", 0o600)
    with pytest.raises(DiskFailure, match="Directory not empty"):
        disk.remove_folder(folder)
    with pytest.raises(DiskFailure):
        disk.remove(folder)
    with pytest.raises(DiskFailure, match="File exists"):
        disk.make_folder(f"{folder}/file", 0o700)
    disk.remove(f"{folder}/file")
    disk.remove_folder(folder)
    assert disk.entry(folder) is None


def test_no_descriptor_is_left_open_by_failures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for path in ("fifo", "."):
            with pytest.raises(DiskFailure):
                disk.read(str(tmp_path / path))
        with pytest.raises(DiskFailure):
            disk.create(str(tmp_path / "file"), b"", 0o600)
    assert len(os.listdir("/proc/self/fd")) == before
