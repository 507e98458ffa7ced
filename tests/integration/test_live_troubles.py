"""Real trouble: a full disk, a read-only state, a damaged record, a bus that goes away."""

from __future__ import annotations

import json

import pytest

from tests.host.light_host import LightHost
from tests.integration.two_servers import (
    STATE,
    assert_whole,
    pids,
    write_lab,
    write_models,
)


@pytest.fixture
def served(host: LightHost) -> LightHost:
    write_models(host)
    write_lab(host)
    host.labctl("deploy", check=True)
    return host


def test_a_full_disk_loses_nothing(host: LightHost) -> None:
    write_models(host)
    write_lab(host)
    host.run("mkdir", "-p", STATE)
    mounted = f"size=512k,mode=700,uid={host.user_id},gid={host.user_id}"
    host.root("mount", "-t", "tmpfs", "-o", mounted, "tmpfs", f"/home/lab/{STATE}")
    host.labctl("deploy", check=True)
    before = pids(host)
    host.run("sh", "-c", f"cat /dev/zero > {STATE}/filler", check=False)
    write_lab(host, alpha=2, beta=2)
    full = host.labctl("deploy")
    assert full.returncode in (1, 10), full.stderr
    assert "No space left on device" in full.stderr
    assert "hint: " in full.stderr
    assert "Traceback" not in full.stderr
    assert pids(host) == before
    assert_whole(host, 1)
    host.run("rm", f"{STATE}/filler")
    host.labctl("deploy", check=True)


def test_a_read_only_state_is_named(served: LightHost) -> None:
    served.run("chmod", "-R", "a-w", STATE)
    write_lab(served, alpha=2)
    refused = served.labctl("deploy")
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr
    assert "Traceback" not in refused.stderr
    served.run("chmod", "-R", "u+w", STATE)
    assert_whole(served, 1)
    served.labctl("deploy", check=True)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"previous": 1}', b"\xff\x00", b"[" * 100_000], ids=repr
)
def test_a_damaged_record_is_kept_aside(served: LightHost, damage: bytes) -> None:
    served.write(f"{STATE}/record.json", damage, mode=0o600)
    recovered = served.labctl("recover")
    assert recovered.returncode == 0, recovered.stderr
    assert "a damaged record was kept" in recovered.stderr
    kept = list((served.home / STATE).glob("record.json.broken-*"))
    assert [path.read_bytes() for path in kept] == [damage]
    assert served.labctl("recover").stdout.startswith("nothing to recover")
    assert_whole(served, 1)


def test_a_damaged_generation_is_passed_over(served: LightHost) -> None:
    for slots in (2, 3):
        write_lab(served, alpha=slots)
        served.labctl("deploy", check=True)
    [second] = (served.home / STATE / "generations").glob("000002-*")
    served.write(f"{STATE}/generations/{second.name}/manifest.json", b"{}", mode=0o600)
    listed = json.loads(served.labctl("generations", "list", "--json").stdout)
    assert [row["folder"] for row in listed["damaged"]] == [second.name]
    assert served.labctl("rollback", "2").returncode == 15
    back = json.loads(served.labctl("rollback", "--json").stdout.splitlines()[-1])
    assert back["restores"] == 1


def test_a_current_link_that_leads_nowhere_is_recovered(served: LightHost) -> None:
    served.run("ln", "-sfn", "generations/000099-20260101T000000Z", f"{STATE}/current")
    shown = served.labctl("status")
    assert shown.returncode == 1
    assert "recover" in shown.stderr
    assert served.labctl("recover").returncode == 0
    assert_whole(served, 1)


def test_a_bus_that_goes_away_midway_is_recovered(served: LightHost) -> None:
    write_lab(served, alpha=2, soak="15s")
    deploy = served.spawn_labctl("deploy", "--json")
    assert deploy.process.stdout is not None
    for line in deploy.process.stdout:
        if json.loads(line).get("step") == "judge":
            break
    served.run("systemctl", "--user", "kill", "-s", "KILL", "dbus.service", check=False)
    ended = deploy.wait(90)
    assert ended.returncode in (10, 11), ended.stderr
    assert "Traceback" not in ended.stderr
    served.labctl("recover")
    assert_whole(served, 1)


def test_no_bus_at_all_is_explained(served: LightHost) -> None:
    nowhere = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere", "XDG_RUNTIME_DIR": "/tmp"}
    answer = served.labctl("status", env=nowhere)
    assert answer.returncode == 1
    assert "hint: " in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_port_held_by_somebody_else_is_named_before_anything_is_touched(
    host: LightHost,
) -> None:
    write_models(host)
    write_lab(host)
    holder = host.spawn("python3", "-m", "http.server", "8081", "--bind", "127.0.0.1")
    host.run(
        "python3",
        "-c",
        "import socket, time\n"
        "for _ in range(100):\n"
        "    if socket.socket().connect_ex(('127.0.0.1', 8081)) == 0: break\n"
        "    time.sleep(0.05)\n",
    )
    refused = host.labctl("deploy")
    assert refused.returncode == 78
    assert "port 8081 of beta is held by python3" in refused.stderr
    assert not (host.home / STATE / "current").exists()
    host.run("pkill", "-f", "http.server")
    holder.wait(10)
