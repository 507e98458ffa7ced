"""Programs, shipped files, model fingerprints, journal texts, unit properties, paths."""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path

import pytest

from agent.host.assets import asset, asset_names
from agent.host.clock import SystemClock
from agent.host.journal import UserJournal, follow_command, plain
from agent.host.model_files import fingerprint
from agent.host.programs import executable_name, find_program
from agent.host.session import bus_address, host_paths, linger_enabled
from agent.host.unit_state import places, unit_state
from agent.model.errors import BusUnavailable, DiskFailure, LabctlError
from agent.model.generation import UNIT_MARKER
from agent.model.lab import ServiceKind


def program(path: Path, text: str = "#!/bin/sh\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# -- programs ------------------------------------------------------------------------------


def test_programs_are_found_in_order(tmp_path: Path) -> None:
    home, kind = tmp_path / "home", ServiceKind.LLAMACPP_NATIVE
    on_path = program(tmp_path / "bin" / "llama-server")
    path = f"relative:{tmp_path}/none:{tmp_path}/bin"
    assert find_program(kind, None, str(home), path) == on_path
    ours = program(home / ".local/share/labctl/backends/llamacpp-native/bin/llama-server")
    assert find_program(kind, None, str(home), path) == ours
    given = program(tmp_path / "own" / "bin" / "llama-server")
    for spelled in (given, f"{tmp_path}/own", f"{tmp_path}/own/bin"):
        assert find_program(kind, spelled, str(home), path) == given
    assert find_program(kind, f"{tmp_path}/typo", str(home), path) is None
    Path(on_path).chmod(0o644)
    assert find_program(kind, on_path, str(home), path) is None


def test_a_python_counts_only_with_llama_cpp(tmp_path: Path) -> None:
    kind, home = ServiceKind.LLAMACPP_PYTHON, str(tmp_path / "home")
    python = program(tmp_path / "venv" / "bin" / "python3")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    assert find_program(kind, python, home, "") is None
    (tmp_path / "home/.local/lib/python3.11/site-packages/llama_cpp").mkdir(parents=True)
    assert find_program(kind, python, home, "") is None  # a venv sees no user packages
    (tmp_path / "venv/lib/python3.11/site-packages/llama_cpp").mkdir(parents=True)
    assert find_program(kind, f"{tmp_path}/venv", home, "") == python


def test_a_linked_program_keeps_its_name(tmp_path: Path) -> None:
    real = program(tmp_path / "store" / "abc")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ollama").symlink_to(real)
    found = find_program(ServiceKind.OLLAMA, None, str(tmp_path), f"{tmp_path}/bin")
    assert found == f"{tmp_path}/bin/ollama"


# -- shipped files: the units --------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ServiceKind))
def test_each_kind_has_a_marked_unit(kind: ServiceKind) -> None:
    lines = asset(f"units/{kind}.service").decode().splitlines()
    assert lines[0] == UNIT_MARKER
    assert "Type=exec" in lines
    assert "EnvironmentFile=%h/.local/state/labctl/current/env/%p.env" in lines
    start = next(line for line in lines if line.startswith("ExecStart="))
    assert start.startswith(f"ExecStart=/usr/bin/env {executable_name(kind)}")
    assert any(line.startswith("TimeoutStopSec=") for line in lines)
    assert max(map(len, lines)) <= 100


def test_gpu_units_do_not_forbid_what_drivers_do() -> None:
    for name in asset_names("units"):
        settings = [s for s in asset(f"units/{name}").decode().splitlines() if s[:1] != "#"]
        assert ("MemoryDenyWriteExecute=yes" in settings) == (name == "litellm.service")
        assert not any(s.startswith(("PrivateDevices", "DeviceAllow")) for s in settings)


def test_a_file_that_does_not_ship_is_an_explained_error() -> None:
    with pytest.raises(LabctlError) as caught:
        asset("units/none.service")
    assert "install" in caught.value.hint
    assert asset_names("none") == ()


# -- model files ---------------------------------------------------------------------------


def test_a_fingerprint_changes_with_content_size_and_time(tmp_path: Path) -> None:
    model, link = tmp_path / "m.gguf", tmp_path / "link"
    with model.open("wb") as file:  # 40 GB that take no space
        file.truncate(40 << 30)
    link.symlink_to(model)
    os.utime(model, ns=(1, 1))
    seen = [fingerprint(str(model))]
    assert fingerprint(str(link)) == seen[0]
    with model.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"x")
    os.utime(model, ns=(1, 1))
    seen.append(fingerprint(str(model)))
    os.utime(model, ns=(2, 2))
    seen.append(fingerprint(str(model)))
    os.truncate(model, 5)
    os.utime(model, ns=(2, 2))
    seen.append(fingerprint(str(model)))
    assert len(set(seen)) == 4


def test_a_model_folder_has_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_text("x")
    assert fingerprint(str(tmp_path)) != before


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("none", "fifo", "loop", "nul\0"):
        with pytest.raises(DiskFailure) as caught:
            fingerprint(str(tmp_path / name))
        assert name in caught.value.message


# -- the journal ---------------------------------------------------------------------------


def journal(tmp_path: Path, script: str, timeout_s: float = 5) -> UserJournal:
    return UserJournal(program(tmp_path / "journalctl", f"#!/bin/sh\n{script}\n"), timeout_s)


ENTRIES = r"""cat <<'EOF'
{"MESSAGE": "an older run", "_SYSTEMD_INVOCATION_ID": "11"}
{"MESSAGE": "Started.", "USER_INVOCATION_ID": "22"}
{"MESSAGE": "\u001b[31mred\u001b[0m\nsecond", "_SYSTEMD_INVOCATION_ID": "22"}
not json
{"MESSAGE": [98, 255, 7, 98]}
{"PRIORITY": "3"}
EOF"""


def test_the_last_lines_of_one_run(tmp_path: Path) -> None:
    tail = journal(tmp_path, ENTRIES).tail
    assert tail("x.service", 9, "22") == ("Started.", "red", "second", "b\ufffdb")
    assert tail("x.service", 2, "22") == ("second", "b\ufffdb")
    assert tail("x.service", 9)[0] == "an older run"


def test_a_journal_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    said = journal(tmp_path, "echo 'No journal files' >&2; exit 1").tail("x.service", 5)
    assert said == ("[the journal cannot be read: No journal files]",)
    said = journal(tmp_path, "exec sleep 20", 0.2).tail("x.service", 5)
    assert said == ("[the journal does not answer within 0.2 s]",)
    (said_once,) = UserJournal(str(tmp_path / "none")).tail("x.service", 5)
    assert "cannot be read" in said_once


def test_the_command_for_a_person_names_the_unit_and_the_user() -> None:
    command = follow_command("x.service", 7, follow=True)
    assert command[:2] == ["journalctl", "--quiet"]
    assert "-f" in command
    assert f"_SYSTEMD_USER_UNIT=x.service _UID={os.getuid()}" in " ".join(command)
    assert "-f" not in follow_command("x.service", 7, follow=False)


def test_a_log_line_cannot_steer_the_terminal() -> None:
    assert plain("\x1b]0;title\x07a\tb\x1b[2Jc\r\x9bd") == "]0;titlea     bcd"
    assert len(plain("x" * 99_999)) == 2000


# -- unit states ---------------------------------------------------------------------------


def test_what_systemd_says_becomes_a_state() -> None:
    read = {
        "MainPID": 7,
        "NRestarts": 2,
        "InvocationID": [1, 255],
        "ActiveEnterTimestamp": 1_700_000_000_500_000,
        "MemoryCurrent": 2**64 - 1,
        "ControlGroup": "/x",
        "FragmentPath": "/u",
    }
    state = unit_state("x.service", ("loaded", "active", "running"), read)
    assert state.running
    assert (state.main_pid, state.restarts, state.invocation) == (7, 2, "01ff")
    assert (state.since, state.memory_bytes) == (1_700_000_000.5, None)
    assert (state.exited_by, state.exit_status, state.ending) == (None, None, "")


@pytest.mark.parametrize(
    ("code", "status", "result", "ending"),
    [
        (1, 3, "exit-code", "exit status 3"),
        (2, 9, "signal", "signal 9"),
        (3, 6, "core-dump", "signal 6"),
        (1, 0, "timeout", "result timeout"),
        (1, 0, "success", ""),
        (0, 0, "success", ""),
        (2, 15, "success", ""),  # a clean stop
    ],
)
def test_how_a_process_ended(code: int, status: int, result: str, ending: str) -> None:
    read = {"ExecMainCode": code, "ExecMainStatus": status, "Result": result}
    state = unit_state("x.service", ("loaded", "failed", "failed"), read)
    assert state.ending == ending
    assert state.broken


def test_a_failed_reading_is_unknown() -> None:
    names = {name for active in ("active", "failed", "activating") for _, name in places(active)}
    state = unit_state("x.service", ("loaded", "active", "running"), dict.fromkeys(names))
    assert (state.main_pid, state.memory_bytes, state.since) == (None, None, None)


# -- session -------------------------------------------------------------------------------


def test_the_bus_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(BusUnavailable) as caught:
        bus_address()
    assert "enable-linger" in caught.value.hint
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/x")
    assert bus_address() == "unix:path=/run/x/bus"
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/y")
    assert bus_address() == "unix:path=/y"


def test_paths_lingering_and_the_clock(tmp_path: Path) -> None:
    assert host_paths("/home/a", "/run/user/1").runtime == "/run/user/1/labctl"
    assert host_paths("/home/a", None).runtime == "/home/a/.local/state/labctl/run"
    (tmp_path / "a").touch()
    assert linger_enabled("a", str(tmp_path))
    assert not linger_enabled("b", str(tmp_path))
    before = SystemClock().monotonic()
    assert SystemClock().now().tzinfo is UTC
    assert SystemClock().monotonic() >= before
