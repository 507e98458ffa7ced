"""Real deploys of real llama-servers: what changes, what stays, what comes back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.host.light_host import LightHost
from tests.integration.two_servers import (
    LAB,
    MASTER_KEY,
    STATE,
    assert_whole,
    deployed,
    outcome,
    pids,
    write_lab,
    write_models,
)

FOREIGN_UNIT = b"""\
# my own server, please keep
[Service]
ExecStart=/usr/bin/python3 -m http.server 8080 --bind 127.0.0.1
[Install]
WantedBy=default.target
"""


@pytest.fixture
def lab(host: LightHost) -> LightHost:
    """Two servers, not deployed yet."""
    write_models(host)
    write_lab(host)
    return host


@pytest.fixture
def served(lab: LightHost) -> LightHost:
    """Two servers, deployed as generation 1."""
    lab.labctl("deploy", check=True)
    return lab


def test_only_what_changed_is_restarted(served: LightHost) -> None:
    before = pids(served)
    write_lab(served, alpha=2)
    plan = served.labctl("plan", "--detailed-exitcode")
    assert plan.returncode == 2
    assert "restart alpha.service (environment changed)" in plan.stdout
    assert "beta.service" not in plan.stdout
    done = outcome(served.labctl("deploy", "--json", check=True).stdout)
    assert (done["outcome"], done["from"], done["to"]) == ("committed", 1, 2)
    after = pids(served)
    assert after["beta"] == before["beta"]
    assert after["alpha"] != before["alpha"]
    assert_whole(served, 2)


def test_nothing_to_do_touches_nothing(served: LightHost) -> None:
    def everything() -> dict[str, tuple[int, int]]:
        state = served.home / STATE
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in sorted(state.rglob("*"))}

    before = everything()
    assert served.labctl("plan", "--detailed-exitcode").returncode == 0
    done = outcome(served.labctl("deploy", "--json", check=True).stdout)
    assert (done["outcome"], done["changed"]) == ("nothing to do", False)
    comment = served.home / LAB / "providers.yaml"
    comment.write_text(f"# a comment changes nothing\n{comment.read_text()}")
    served.labctl("deploy", check=True)
    assert everything() == before


def test_two_providers_of_a_chain_are_restarted_one_after_the_other(served: LightHost) -> None:
    write_lab(served, alpha=3, beta=3)
    plan = json.loads(served.labctl("plan", "--json").stdout)
    assert [[step["unit"] for step in wave] for wave in plan["waves"]] == [
        ["alpha.service"],
        ["beta.service"],
    ]
    steps = [
        (step["step"], step.get("service"))
        for line in served.labctl("deploy", "--json", check=True).stdout.splitlines()
        if (step := json.loads(line)).get("step") in ("restart", "answers")
    ]
    assert steps == [
        ("restart", "alpha"),
        ("answers", "alpha"),
        ("restart", "beta"),
        ("answers", "beta"),
    ]


def test_a_changed_model_file_restarts_its_server(served: LightHost) -> None:
    before = pids(served)
    model = served.home / "models/beta.gguf"
    served.write("models/beta.gguf", (served.home / "models/alpha.gguf").read_bytes())
    assert model.exists()
    plan = served.labctl("plan").stdout
    assert "restart beta.service (model file changed)" in plan
    served.labctl("deploy", check=True)
    assert pids(served)["alpha"] == before["alpha"]


def test_a_server_that_refuses_its_arguments_is_rolled_back(served: LightHost) -> None:
    before = pids(served)
    write_lab(served, beta_more=", args: [--no-such-flag]")
    failed = served.labctl("deploy")
    assert failed.returncode == 10, failed.stderr
    lines = failed.stdout.splitlines()
    assert lines[0].startswith("failed: beta.service: ")
    assert "exit status 1" in lines[0]
    assert lines[1] == "  last 20 journal lines of beta:" or "journal lines of beta" in lines[1]
    assert any("no-such-flag" in line for line in lines)
    assert "rolled back: generation 2 failed; generation 1 is restored and proved" in lines
    assert lines[-1].startswith("next: ")
    assert pids(served)["alpha"] == before["alpha"]
    assert_whole(served, 1)
    standings = json.loads(served.labctl("generations", "list", "--json").stdout)["generations"]
    assert [g["standing"] for g in standings] == ["adopted", "good", "bad"]


def test_a_server_that_dies_in_its_soak_is_rolled_back(served: LightHost) -> None:
    """It starts, answers its probe, and is gone a moment later: `active` proves nothing."""
    real = "~/.local/share/labctl/backends/llamacpp-native/bin/llama-server"
    script = f'#!/bin/sh\n(sleep 1.5; kill -9 $$) &\nexec {real} "$@"\n'
    served.write("bin/llama-server", script.replace("~", "/home/lab"), mode=0o755)
    write_lab(served, beta_more=", program: ~/bin/llama-server", soak="4s")
    failed = served.labctl("deploy")
    assert failed.returncode == 10, failed.stdout
    assert "beta.service: " in failed.stdout.splitlines()[0]
    assert_whole(served, 1)


def test_no_rollback_leaves_a_failure_and_a_rollback_undoes_it(served: LightHost) -> None:
    write_lab(served, beta_more=", args: [--no-such-flag]")
    assert served.labctl("deploy", "--no-rollback").returncode == 13
    assert served.labctl("status").returncode == 3
    assert served.labctl("verify").returncode == 3
    assert served.labctl("rollback").returncode == 0
    assert_whole(served, 3)


def test_an_optional_service_may_be_down_and_the_verdict_says_who_is_weaker(
    lab: LightHost,
) -> None:
    write_lab(lab, beta_more=", required: false, args: [--no-such-flag]")
    done = lab.labctl("deploy", "--json")
    assert done.returncode == 0, done.stdout
    last = outcome(done.stdout)
    assert last["outcome"] == "degraded"
    assert last["weaker"] == [
        "alpha: without beta, alpha is left",
        "beta: without beta, nothing is left: it answers no request",
    ]
    shown = lab.labctl("status")
    assert shown.returncode == 0
    assert "beta (optional)" in shown.stdout


def test_rollback_needs_no_lab(served: LightHost) -> None:
    write_lab(served, alpha=2)
    served.labctl("deploy", check=True)
    served.write(f"{LAB}/providers.yaml", "providers: [this is: {broken\n")
    served.run("rm", f"{LAB}/lab.yaml", f"{LAB}/secrets.env")
    back = served.labctl("rollback")
    assert back.returncode == 0, back.stderr
    assert "rolled back: generation 3 restores generation 1, it serves, proved" in back.stdout
    again = outcome(served.labctl("rollback", "--json", check=True).stdout)
    assert (again["to"], again["restores"]) == (4, 2)
    assert served.labctl("rollback", "77").returncode == 15
    assert_whole(served, 4)


def test_the_users_own_unit_is_adopted_and_comes_back_byte_for_byte(lab: LightHost) -> None:
    unit = lab.write(".config/systemd/user/alpha.service", FOREIGN_UNIT, mode=0o640)
    lab.run("systemctl", "--user", "enable", "--now", "alpha.service")
    wants = lab.home / ".config/systemd/user/default.target.wants/alpha.service"
    link = wants.readlink()
    assert "alpha.service" in lab.labctl("plan").stdout
    lab.labctl("deploy", check=True)
    assert unit.is_symlink()
    back = lab.labctl("rollback", "0")
    assert back.returncode == 0, back.stdout
    assert not unit.is_symlink()
    assert unit.read_bytes() == FOREIGN_UNIT
    assert unit.stat().st_mode & 0o777 == 0o640
    assert wants.readlink() == link
    assert lab.run("systemctl", "--user", "is-active", "alpha.service").stdout.strip() == "active"
    assert lab.run("systemctl", "--user", "is-enabled", "alpha.service").stdout.strip() == "enabled"
    active = lab.run("systemctl", "--user", "is-active", "beta.service", check=False)
    assert active.stdout.strip() == "inactive"
    listing = lab.run("python3", "-c", _FETCH, "http://127.0.0.1:8080/").stdout
    assert "Directory listing" in listing
    lab.labctl("rollback", check=True)
    assert_whole(lab, 3)


_FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"


def test_hand_edits_are_seen_and_not_lost(served: LightHost) -> None:
    edited = deployed(served, "env/alpha.env")
    edited.write_text(edited.read_text() + 'LLAMA_ARG_THREADS="1"\n')
    status = served.labctl("status")
    assert "drift: env/alpha.env of the generation was edited by hand" in status.stdout
    refused = served.labctl("deploy")
    assert refused.returncode == 14
    assert str(Path("env/alpha.env")) in refused.stderr
    assert "--discard-edits" in refused.stderr
    served.labctl("deploy", "--discard-edits", check=True)
    assert 'LLAMA_ARG_THREADS="1"' in edited.read_text(), "the edit stays in its generation"
    assert_whole(served, 2)


def test_a_unit_replaced_by_hand_is_put_back_and_kept(served: LightHost) -> None:
    unit = served.home / ".config/systemd/user/beta.service"
    served.run("rm", ".config/systemd/user/beta.service")
    served.write(".config/systemd/user/beta.service", FOREIGN_UNIT)
    assert "beta.service is not what was deployed" in served.labctl("status").stdout
    served.labctl("deploy", check=True)
    assert unit.is_symlink()
    kept = json.loads(served.labctl("generations", "list", "--json").stdout)["generations"]
    assert [g["kind"] for g in kept].count("adopted") == 2
    current = kept[-1]["number"]
    assert_whole(served, current)


def test_from_git_deploys_what_was_committed(served: LightHost) -> None:
    git = ("git", "-C", LAB, "-c", "user.name=lab", "-c", "user.email=lab@localhost")
    served.write(f"{LAB}/.gitignore", "secrets.env\n")
    served.run("git", "init", "-q", LAB)
    served.run(*git, "add", ".")
    served.run(*git, "commit", "-q", "-m", "one slot")
    commit = served.run("git", "-C", LAB, "rev-parse", "HEAD").stdout.strip()
    write_lab(served, alpha=2)
    served.labctl("deploy", check=True)
    done = outcome(served.labctl("deploy", "--from-git", "HEAD", "--json", check=True).stdout)
    assert done["to"] == 3
    shown = json.loads(served.labctl("generations", "show", "3", "--json").stdout)
    assert shown["git_commit"] == commit
    diff = served.labctl("generations", "diff", "1", "3")
    assert "hold the same files" in diff.stdout
    missing = served.labctl("deploy", "--from-git", "nosuchrev")
    assert missing.returncode == 78
    assert "nosuchrev" in missing.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupted_deploy_unwinds(
    served: LightHost, number: signal.Signals, code: int
) -> None:
    write_lab(served, alpha=2, soak="20s")
    deploy = served.spawn_labctl("deploy", "--json")
    assert deploy.process.stdout is not None
    for line in deploy.process.stdout:
        if json.loads(line).get("step") == "judge":
            break
    served.run("pkill", f"-{number.name.removeprefix('SIG')}", "-f", "agent.cli.entry")
    ended = deploy.wait(60)
    assert ended.returncode == code, ended.stderr
    assert "interrupted by" in ended.stderr
    assert "generation 1 serves again" in ended.stderr
    assert served.labctl("recover").stdout.startswith("nothing to recover")
    assert_whole(served, 1)


def test_a_second_deploy_is_told_who_is_at_work(served: LightHost) -> None:
    write_lab(served, alpha=2, soak="5s")
    first = served.spawn_labctl("deploy", "--json")
    assert first.process.stdout is not None
    assert first.process.stdout.readline()
    second = served.labctl("deploy")
    assert second.returncode == 75
    assert "labctl deploy" in second.stderr
    assert "pid " in second.stderr
    assert first.wait(60).returncode == 0
    assert_whole(served, 2)


def test_what_depends_on_a_restarted_unit_runs_again(served: LightHost) -> None:
    served.write(
        ".config/systemd/user/webui.service",
        "[Unit]\nRequires=beta.service\nAfter=beta.service\n"
        "[Service]\nExecStart=/usr/bin/sleep inf\n",
    )
    served.run("systemctl", "--user", "daemon-reload")
    served.run("systemctl", "--user", "start", "webui.service")
    write_lab(served, beta_more=", args: [--no-such-flag]")
    assert served.labctl("deploy").returncode == 10
    active = served.run("systemctl", "--user", "is-active", "webui.service", check=False)
    assert active.stdout.strip() == "active"


def test_what_was_deployed_comes_back_after_a_reboot(served: LightHost) -> None:
    served.reboot()
    for _ in range(50):
        if served.labctl("status").returncode == 0:
            break
    assert served.labctl("verify").returncode == 0
    assert_whole(served, 1)


def test_services_are_stopped_started_and_read(served: LightHost) -> None:
    assert served.labctl("stop", "beta").returncode == 0
    assert served.labctl("status").returncode == 3
    assert served.labctl("start", "beta").returncode == 0
    assert served.labctl("restart").returncode == 0
    assert served.labctl("status").returncode == 0
    assert "llama" in served.labctl("logs", "alpha", "-n", "200").stdout
    wrong = served.labctl("restart", "alhpa")
    assert wrong.returncode == 64
    assert "did you mean alpha?" in wrong.stderr


def test_a_secret_is_shown_nowhere(served: LightHost) -> None:
    write_lab(served, alpha=2)
    said = [
        served.labctl(*verb)
        for verb in (
            ("plan",),
            ("plan", "--json"),
            ("deploy", "--json"),
            ("status", "--json"),
            ("verify", "--json"),
            ("generations", "show", "2", "--json"),
            ("generations", "diff", "0", "2"),
            ("rollback", "--json"),
            ("check", "--json"),
        )
    ]
    shown = "".join(done.stdout + done.stderr for done in said)
    shown += served.run("journalctl", "--user", "--no-pager", "-o", "verbose").stdout
    assert MASTER_KEY not in shown
    state = served.home / STATE
    holding = [p for p in state.rglob("*") if p.is_file() and MASTER_KEY in p.read_text("latin-1")]
    assert {p.name for p in holding} == {"secrets.env"}
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in holding)
    assert (state.stat().st_mode & 0o777) == 0o700


def test_pruning_keeps_what_may_be_needed(served: LightHost) -> None:
    for slots in (2, 3, 4):
        write_lab(served, alpha=slots)
        served.labctl("deploy", check=True)
    dry = served.labctl("generations", "prune", "--keep", "1", "--dry-run")
    assert dry.stdout.splitlines() == [f"would remove generation {n}" for n in (1, 2)]
    served.labctl("generations", "prune", "--keep", "1", check=True)
    left = json.loads(served.labctl("generations", "list", "--json").stdout)["generations"]
    assert [g["number"] for g in left] == [0, 3, 4]
    assert served.labctl("rollback").returncode == 0
