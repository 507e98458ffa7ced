"""One day of a user on a fresh machine: install, deploy, break, go back, uninstall.

Everything is typed as the user types it, on a whole boot of systemd without any network; packages
come from the wheels that `./install.sh test` fetched, LiteLLM and llama-cpp-python from its cache.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.host.demo_lab import LAB, ask, write_lab, write_models
from tests.host.light_host import CHECKOUT, FullHost, LightHost

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/run/wheelhouse"}
INSTALL = f"{CHECKOUT}/install.sh"


@pytest.fixture
def installed(full_host: FullHost, backends: Path) -> FullHost:
    """The machine with labctl and llama-server installed, and the cached backends linked."""
    full_host.run(INSTALL, "--with", "llamacpp-native", env=OFFLINE, timeout=180)
    for kind in ("litellm", "llamacpp-python"):
        full_host.run("ln", "-s", str(backends / kind), f".local/share/labctl/backends/{kind}")
    return full_host


def test_install_deploy_break_go_back_uninstall(installed: FullHost) -> None:
    before = _files(installed)

    again = installed.run(INSTALL, "--with=llamacpp-native", env=OFFLINE, timeout=20)
    assert "labctl is installed" in again.stderr and "llama-server" not in again.stderr
    assert _files(installed) == before

    _the_starter_lab_is_written_once(installed)
    _deploys_and_serves(installed)
    _refuses_what_the_check_sees(installed)
    _comes_back_from_what_only_the_start_sees(installed)
    _goes_back_by_hand(installed)
    _survives_a_reboot(installed)
    _uninstalls(installed)


def _the_starter_lab_is_written_once(host: FullHost) -> None:
    assert host.labctl("init").returncode == 0
    secrets = host.home / LAB / "secrets.env"
    assert secrets.stat().st_mode & 0o777 == 0o600
    written = secrets.read_text(encoding="utf-8")
    assert host.labctl("init").returncode == 78
    assert secrets.read_text(encoding="utf-8") == written


def _deploys_and_serves(host: FullHost) -> None:
    write_models(host)
    write_lab(host)
    assert host.labctl("check").returncode == 0
    assert host.labctl("plan", "--detailed-exitcode").returncode == 2
    _ends(host.labctl("deploy"), 0)
    assert ":8000/" in ask(host, "alpha")[0]
    assert ":8080/" in ask(host, "beta")[0]
    assert host.labctl("plan", "--detailed-exitcode").returncode == 0
    assert host.labctl("status").returncode == 0


def _refuses_what_the_check_sees(host: FullHost) -> None:
    write_lab(host, fallback="bete")
    refused = host.labctl("deploy")
    _ends(refused, 78)
    assert "bete" in refused.stdout + refused.stderr
    assert "model-mappings.yaml:" in refused.stdout + refused.stderr
    assert ":8000/" in ask(host, "alpha")[0]


def _comes_back_from_what_only_the_start_sees(host: FullHost) -> None:
    write_lab(host, native_model="damaged")
    cut_short = host.labctl("deploy")
    _ends(cut_short, 78)
    assert "damaged.gguf" in cut_short.stderr
    write_lab(host, native_args="--no-such-flag")
    failed = host.labctl("deploy")
    _ends(failed, 10)
    assert "llamacpp-native" in failed.stdout
    assert ":8080/" in ask(host, "beta")[0]
    assert host.labctl("verify").returncode == 0


def _goes_back_by_hand(host: FullHost) -> None:
    write_lab(host, slots=3)
    _ends(host.labctl("deploy"), 0)
    assert _slots(host) == 3
    host.write(f"{LAB}/providers.yaml", "providers: [")  # a broken lab does not matter here
    _ends(host.labctl("rollback"), 0)
    assert _slots(host) == 2
    assert ":8080/" in ask(host, "beta")[0]


def _survives_a_reboot(host: FullHost) -> None:
    """Linger and the enabled units bring everything back without anybody logging in."""
    host.reboot()
    waiting = "for _ in $(seq 60); do labctl verify && exit 0; sleep 1; done; exit 1"
    host.run("bash", "-c", waiting, timeout=120)


def _uninstalls(host: FullHost) -> None:
    gone = host.run(INSTALL, "uninstall")
    assert "kept: /home/lab/.config/labctl" in gone.stderr
    assert "kept: /home/lab/.local/state/labctl" in gone.stderr
    left = {name for name in _files(host) if not name.startswith(("models", f"{LAB}/"))}
    assert {name for name in left if not name.startswith(".local/state/labctl/")} <= _FOLDERS
    units = host.run("systemctl", "--user", "list-units", "--all", "--plain", "--no-legend").stdout
    assert "llamacpp" not in units and "litellm" not in units
    assert host.run("ss", "-Hltn").stdout.strip() == ""


_FOLDERS = {".", ".config", LAB, ".local", ".local/state", ".local/state/labctl"}


def test_the_releases_of_the_seed_as_the_user_checks_them(bare_host: LightHost) -> None:
    status, findings = _check_release(bare_host, "v1.7")
    assert any(f["rule"] == "spof" and "last resort" in f["message"] for f in findings)

    status, findings = _check_release(bare_host, "v1.7.1-broken")
    errors = "\n".join(f["message"] for f in findings if f["severity"] == "error")
    assert status == 78
    assert "`llama-cpp-default`" in errors and "`llama-cpp-native`" in errors
    for chain in ("llama3.1:latest", "gpt-oss:20b-cloud", "llama-cpp-default"):
        assert f"the chain of `{chain}` needs" in errors

    assert _check_release(bare_host, "v1.7.1.1-hotfixed")[0] == 78
    assert _check_release(bare_host, "v1.7.1.1-corrected")[0] == 0


def _check_release(host: LightHost, release: str) -> tuple[int, list[dict[str, str]]]:
    """The exit status and the findings of `labctl check --json`."""
    done = host.labctl("check", f"{CHECKOUT}/tests/data/seed/{release}", "--json")
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return done.returncode, findings


def _ends(done: subprocess.CompletedProcess[str], status: int) -> None:
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def _files(host: FullHost) -> set[str]:
    """Every path below the home, without what Python and systemd keep for themselves."""
    found = host.run("find", ".", "-name", "__pycache__", "-prune", "-o", "-printf", "%P\\n").stdout
    return {name or "." for name in found.splitlines()}


def _slots(host: FullHost) -> int:
    """How many requests at a time the running llama-server answers."""
    code = (
        "import json, urllib.request as u; "
        "print(json.load(u.urlopen('http://127.0.0.1:8080/props', timeout=5))['total_slots'])"
    )
    return int(host.run("python3", "-c", code).stdout)
