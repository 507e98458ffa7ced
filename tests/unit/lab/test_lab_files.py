"""Loading a lab's files: what is refused, and what must not hang."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.host.lab_files import LAB_FILES, SIZE_MAX, gateway_files, lab_directory, load_lab
from agent.lab.read import LAB_FILES as READER_FILES
from agent.model.errors import ExitCode, LabctlError


def refusal(folder: Path) -> LabctlError:
    with pytest.raises(LabctlError) as caught:
        load_lab(str(folder))
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.hint
    return caught.value


def test_the_loader_and_the_reader_know_the_same_files() -> None:
    assert LAB_FILES == READER_FILES


def test_files_that_are_there_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_bytes(b"a: \xff")
    (tmp_path / "elsewhere").write_bytes(b"b")
    (tmp_path / "lab.yaml").symlink_to("elsewhere")
    (tmp_path / "other.yaml").write_bytes(b"c")
    assert load_lab(str(tmp_path)) == {"providers.yaml": b"a: \xff", "lab.yaml": b"b"}


def test_a_missing_folder_names_init(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert "labctl init" in error.hint and "nowhere" in error.message


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    assert "is not a folder" in refusal(tmp_path / "x").message


def test_what_stands_in_a_files_place(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    os.mkfifo(lab)
    assert "not a regular file" in refusal(tmp_path).message
    lab.unlink()
    lab.mkdir()
    assert "not a regular file" in refusal(tmp_path).message
    lab.rmdir()
    lab.symlink_to("/dev/zero")
    assert "not a regular file" in refusal(tmp_path).message
    lab.unlink()
    lab.symlink_to("nothing")
    assert "link to nothing" in refusal(tmp_path).message
    lab.unlink()
    lab.symlink_to("lab.yaml")
    assert "cannot be read" in refusal(tmp_path).message


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "lab.yaml").open("wb") as file:
        file.truncate(SIZE_MAX + 1)
    assert "larger than 4 MiB" in refusal(tmp_path).message


def test_gateway_configs_beside_the_lab(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text("model_list: []\n")
    (tmp_path / "ports.yaml").write_text("a: 1\n  model_list: x\n")
    (tmp_path / "unified.yaml").write_text("# c\nmodel_list:\n  - a\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    assert gateway_files(str(tmp_path)) == {"unified.yaml": b"# c\nmodel_list:\n  - a\n"}


@pytest.mark.parametrize(
    ("explicit", "environ", "expected"),
    [
        (None, {}, "/home/u/.config/labctl"),
        (None, {"XDG_CONFIG_HOME": "/etc/x"}, "/etc/x/labctl"),
        (None, {"XDG_CONFIG_HOME": "relative"}, "/home/u/.config/labctl"),
        (None, {"LABCTL_LAB": "/srv/lab"}, "/srv/lab"),
        ("~/lab", {"LABCTL_LAB": "/srv/lab"}, "/home/u/lab"),
    ],
)
def test_which_folder(explicit: str | None, environ: dict[str, str], expected: str) -> None:
    assert lab_directory(explicit, environ, "/home/u") == expected


def test_a_relative_folder_is_below_the_working_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lab_directory("lab", {}, "/home/u") == str(tmp_path / "lab")
