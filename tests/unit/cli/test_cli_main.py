"""The error boundary, `labctl init` and `labctl check`, through the one entry that a user has."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from agent import __version__
from agent.cli.main import run

SEED = Path(__file__).parents[2] / "data" / "seed"
LAB_FILES = ["lab.yaml", "model-mappings.yaml", "providers.yaml", "secrets.env"]


class Typed:
    """What a command line returned and printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Shell:
    """A user with an empty home who types command lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str], home: Path) -> None:
        self._capsys = capsys
        self.home = home

    def __call__(self, *words: str) -> Typed:
        self._capsys.readouterr()
        code = run(list(words))
        printed = self._capsys.readouterr()
        return Typed(code, printed.out, printed.err)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    for name in ("XDG_CONFIG_HOME", "LABCTL_LAB", "LABCTL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return Shell(capsys, tmp_path)


# -- the boundary --------------------------------------------------------------------------------


def test_version_and_help(shell: Shell) -> None:
    assert (shell("--version").code, shell("--version").out) == (0, f"labctl {__version__}\n")
    assert shell("--help").code == 0
    assert "rollback" in shell("-h").out


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-verb",),
        ("check", "--no-such-option"),
        ("check", "a", "b"),
        ("rollback", "seven"),
        ("generations", "prune", "--keep", "0"),
        ("logs",),
    ],
)
def test_a_wrong_command_line_is_64_and_points_at_the_help(
    shell: Shell, words: tuple[str, ...]
) -> None:
    typed = shell(*words)
    assert typed.code == 64
    assert typed.out == ""
    assert typed.err.startswith("labctl: ")
    assert "--help`" in typed.err
    assert "Traceback" not in typed.err


def test_an_error_of_ours_has_a_message_a_hint_and_its_code(shell: Shell) -> None:
    typed = shell("check", "/no/such/lab")
    assert typed.code == 78
    assert typed.err.splitlines()[0].startswith("labctl: ")
    assert typed.err.splitlines()[1].startswith("  hint: ")
    assert typed.out == ""


@pytest.mark.parametrize("verb", [("status",), ("rollback",), ("verify",), ("logs", "litellm")])
def test_before_the_first_deploy_there_is_no_target(shell: Shell, verb: tuple[str, ...]) -> None:
    typed = shell(*verb)
    assert typed.code == 15
    assert "nothing was deployed yet" in typed.err
    assert "labctl deploy" in typed.err


def test_generations_of_nothing(shell: Shell) -> None:
    assert shell("generations", "list").out == "nothing was deployed yet\n"
    value = json.loads(shell("generations", "list", "--json").out)
    assert value == {"current": None, "generations": [], "damaged": []}
    assert shell("generations", "show", "3").code == 15
    assert shell("recover").out == "nothing to recover: the last change was completed\n"


class Breaking(io.StringIO):
    """A stream that raises when something is written to it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("of ours"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(32, "Broken pipe"), 0),
    ],
    ids=repr,
)
def test_whatever_breaks_is_explained_without_a_traceback(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    shell("init")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Breaking(error))
        typed = shell("check")
    assert typed.code == code
    assert "Traceback" not in typed.err
    if code == 1:
        assert typed.err == (
            "labctl: unexpected RuntimeError: of ours\n"
            "  hint: this is a defect of labctl: run again with LABCTL_DEBUG=1 and report"
            " what it prints\n"
        )


def test_with_debug_a_defect_shows_itself(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_DEBUG", "1")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Breaking(RuntimeError("of ours")))
        with pytest.raises(RuntimeError, match="of ours"):
            run(["--version"])


# -- init ----------------------------------------------------------------------------------------


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_writes_a_lab_that_only_the_user_can_read_the_keys_of(shell: Shell) -> None:
    previous = os.umask(0)
    try:
        typed = shell("init")
    finally:
        os.umask(previous)
    lab = shell.home / ".config" / "labctl"
    assert typed.code == 0
    assert sorted(path.name for path in lab.iterdir()) == LAB_FILES
    assert _mode(lab / "secrets.env") == 0o600
    assert {_mode(lab / name) for name in LAB_FILES[:-1]} == {0o644}
    key = _key(lab)
    assert key.startswith("sk-") and len(key) == 51
    assert key not in typed.out + typed.err
    assert typed.out.splitlines()[-1].startswith("next: edit them")


def _key(lab: Path) -> str:
    lines = (lab / "secrets.env").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("LITELLM_MASTER_KEY="))
    return line.partition("=")[2]


def test_each_init_makes_a_key_of_its_own(shell: Shell) -> None:
    one, two = shell.home / "one" / "deep", shell.home / "two"
    assert shell("init", str(one)).code == shell("init", str(two)).code == 0
    assert _key(one) != _key(two)


@pytest.mark.parametrize("standing", LAB_FILES)
def test_init_never_overwrites(shell: Shell, standing: str) -> None:
    lab = shell.home / "lab"
    lab.mkdir()
    (lab / standing).write_text("mine\n")
    typed = shell("init", str(lab))
    assert typed.code == 78
    assert f"already holds {standing}; nothing was written" in typed.err
    assert [path.name for path in lab.iterdir()] == [standing]
    assert (lab / standing).read_text() == "mine\n"


def test_init_takes_a_dangling_link_for_something_that_stands(shell: Shell) -> None:
    lab = shell.home / "lab"
    lab.mkdir()
    (lab / "lab.yaml").symlink_to(shell.home / "elsewhere")
    assert shell("init", str(lab)).code == 78
    assert not (shell.home / "elsewhere").exists()


def test_what_init_wrote_is_read_by_check(shell: Shell) -> None:
    shell("init")
    typed = shell("check", "--json")
    value = json.loads(typed.out)
    assert value["lab"] == str(shell.home / ".config" / "labctl")
    rules = {f["rule"] for f in value["findings"] if f["severity"] == "error"}
    assert rules <= {"missing-program", "missing-model-file"}, "only what this host lacks"


# -- check ---------------------------------------------------------------------------------------


def test_the_broken_release_is_refused_naming_both_models_and_their_chains(shell: Shell) -> None:
    typed = shell("check", str(SEED / "v1.7.1-broken"))
    assert typed.code == 78
    lines = typed.out.splitlines()
    assert lines[-1].startswith("refused: ")
    missing = [line.split("`")[1] for line in lines if "[model-without-provider]" in line]
    assert missing == ["llama-cpp-default", "llama-cpp-native"]
    needing = "\n".join(line for line in lines if "[dangling-fallback]" in line)
    assert "the chain of `llama3.1:latest` needs `llama-cpp-default`" in needing
    assert "the chain of `gpt-oss:20b-cloud` needs `llama-cpp-native`" in needing


def test_the_hotfix_is_refused_for_the_fallback_to_a_provider(shell: Shell) -> None:
    typed = shell("check", str(SEED / "v1.7.1.1-hotfixed"), "--json")
    assert typed.code == 78
    value = json.loads(typed.out)
    assert value["ok"] is False
    (error,) = (f for f in value["findings"] if f["severity"] == "error")
    assert (error["rule"], error["file"], error["line"], error["column"]) == (
        "dangling-fallback",
        "model-mappings.yaml",
        250,
        9,
    )
    assert error["hint"] == "its model is `llama-cpp-default`"


def test_the_corrected_release_passes(shell: Shell) -> None:
    typed = shell("check", str(SEED / "v1.7.1.1-corrected"))
    assert typed.code == 0
    assert typed.out.splitlines()[-1].startswith("ok: 0 errors, ")


def test_v1_7_says_its_single_point_of_failure(shell: Shell) -> None:
    typed = shell("check", "--lab", str(SEED / "v1.7"))
    (line,) = (line for line in typed.out.splitlines() if "[spof]" in line)
    assert "single provider `ollama`" in line
