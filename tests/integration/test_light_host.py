"""The test host itself: it isolates, it reboots, it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.host.light_host import LightHost

UNIT = "[Service]\nExecStart=/usr/bin/sleep inf\n[Install]\nWantedBy=default.target\n"


def test_the_user_has_a_manager_and_a_journal_of_its_own(bare_host: LightHost) -> None:
    assert bare_host.run("id", "-un").stdout.strip() == "lab"
    assert bare_host.run("systemctl", "--user", "is-system-running").stdout.strip() == "running"
    bare_host.run("systemd-run", "--user", "--wait", "--unit=said", "echo", "seen")
    journal = bare_host.run("journalctl", "--user", "-u", "said", "-o", "cat").stdout
    assert "seen" in journal.splitlines()


def test_nothing_of_the_machine_is_within_reach(bare_host: LightHost, tmp_path: Path) -> None:
    assert bare_host.run("test", "-e", str(tmp_path), check=False).returncode == 1
    assert bare_host.run("ls", "/home").stdout.split() == ["lab"]
    assert "nvidia" not in bare_host.run("ls", "/dev").stdout
    addresses = bare_host.run("cat", "/proc/net/dev").stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in addresses] == ["lo"]
    assert bare_host.run("touch", "/run/checkout/x", check=False).returncode != 0


def test_enabled_units_come_back_after_a_reboot_and_files_stay(bare_host: LightHost) -> None:
    bare_host.write(".config/systemd/user/sleeper.service", UNIT)
    bare_host.run("systemctl", "--user", "enable", "--now", "sleeper.service")
    show = ("systemctl", "--user", "show", "-P", "InvocationID", "sleeper.service")
    before = bare_host.run(*show).stdout
    bare_host.reboot()
    assert bare_host.run("systemctl", "--user", "is-active", "sleeper").stdout.strip() == "active"
    assert bare_host.run(*show).stdout != before


def test_a_command_that_runs_too_long_is_killed(bare_host: LightHost) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        bare_host.run("sleep", "60", timeout=0.5)
    # What was killed may stand in the table for a moment more, until it is reaped.
    assert bare_host.run(
        *("timeout", "5", "sh", "-c", "while pgrep -x sleep; do read -t 1 _; done; echo gone")
    ).stdout.endswith("gone\n")


def test_a_signal_reaches_the_command_itself(bare_host: LightHost) -> None:
    running = bare_host.spawn(
        "python3", "-c", "import signal, sys; signal.signal(2, lambda *_: sys.exit(7)); "
        "open('up', 'w'); signal.pause()",
    )  # fmt: skip
    for _ in range(100):
        if (bare_host.home / "up").exists():
            break
        time.sleep(0.05)
    running.signal(signal.SIGINT)
    assert running.wait(10).returncode == 7


def test_a_host_whose_owner_was_killed_ends_by_itself_and_a_killed_holder_is_cleaned() -> None:
    LightHost.require()
    host = LightHost(f"orphan{os.getpid()}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(host)
        folder = host.home.parent
        holder = host._holder
        assert holder is not None and holder.stdin is not None
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate(timeout=10)
        assert folder.exists()
        with host:  # the next one of that name cleans up and boots
            assert host.run("true").returncode == 0
    assert not folder.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/labctl-light-*{host.name}*"))
