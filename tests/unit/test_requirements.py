"""The pins that install.sh installs are the ones that pyproject.toml asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_every_dependency_is_pinned_within_its_range(line: str) -> None:
    wanted = Requirement(line)
    assert wanted.specifier.contains(_pins("labctl")[canonicalize_name(wanted.name)])


@pytest.mark.parametrize("line", PROJECT["optional-dependencies"]["test"])
def test_every_test_dependency_is_pinned_within_its_range(line: str) -> None:
    wanted = Requirement(line)
    assert wanted.specifier.contains(_pins("test")[canonicalize_name(wanted.name)])


def test_the_tests_run_on_the_versions_that_are_installed() -> None:
    tested = _pins("test")
    assert {name: tested[name] for name in _pins("labctl")} == _pins("labctl")
