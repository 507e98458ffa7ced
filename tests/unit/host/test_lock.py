"""HostLock between real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.host.lock import HostLock
from agent.model.errors import DiskFailure, ExitCode, LabctlError, LockHeld

ROOT = Path(agent.__file__).parents[1]  # where a new Python finds the package
HOLDER = """
import sys
from agent.host.lock import HostLock
with HostLock(sys.argv[1], "deploy", "2025-11-11T23:11:20+00:00"):
    sys.stdout.write("held\\n"); sys.stdout.flush()
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_and_kill_9_frees_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "labctl"
    holder = hold(folder)
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(LockHeld) as caught, HostLock(str(folder), "rollback"):
            pass
        assert caught.value.exit_code is ExitCode.LOCKED
        assert caught.value.message == (
            f"`labctl deploy` (pid {holder.pid}, since 2025-11-11T23:11:20+00:00) "
            "works on this host right now"
        )
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with HostLock(str(folder), "rollback"):  # the dead one's note does not matter
            note = json.loads((folder / "lock-holder.json").read_text())
        assert (note["pid"], note["verb"]) == (os.getpid(), "rollback")
    finally:
        holder.kill()
        holder.communicate()
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("note", [None, b"", b"{}", b"[1]", b'{"pid": "x"}', b"\xff"])
def test_a_missing_or_damaged_note_still_refuses(tmp_path: Path, note: bytes | None) -> None:
    with HostLock(str(tmp_path), "deploy"):
        path = tmp_path / "lock-holder.json"
        path.unlink() if note is None else path.write_bytes(note)
        with pytest.raises(LockHeld, match="another labctl works"), HostLock(str(tmp_path), "x"):
            pass


def test_it_can_be_taken_again_after_its_end_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), HostLock(str(tmp_path), "deploy"):
        raise KeyError
    with HostLock(str(tmp_path), "deploy"):
        assert (tmp_path / "lock-holder.json").exists()
    assert not (tmp_path / "lock-holder.json").exists()


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(DiskFailure, match="cannot open the lock"), HostLock(str(tmp_path), "x"):
        pass
    assert not (tmp_path / "other").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(LabctlError, match="not a folder of yours"):
        HostLock(str(tmp_path / "run"), "x").__enter__()
