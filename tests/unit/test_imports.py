"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "agent"

# What a package may import of ours, beside itself. cli wires everything.
ALLOWED: dict[str, frozenset[str]] = {
    "model": frozenset(),
    "lab": frozenset({"agent.model"}),
    "routing": frozenset({"agent.model"}),
    "gpu": frozenset({"agent.model"}),
    "deploy": frozenset({"agent.model"}),
    "host": frozenset({"agent.model"}),
}

# Packages that decide and never act: no clock, no chance, no disk, no process, no network.
PURE = ("model", "lab", "routing", "gpu", "deploy")
EFFECTS = frozenset(
    (
        *("os", "io", "sys", "time", "random", "secrets", "logging", "tempfile", "shutil"),
        *("subprocess", "signal", "socket", "select", "asyncio", "http", "multiprocessing"),
        *("psutil", "pynvml", "pydbus", "gi", "typer", "rich", "urllib.request", "locale"),
    )
)
# `threading` asks several endpoints side by side; the clock and the probes stay behind ports.
THREADS = frozenset({"deploy/judge.py"})

# The only modules that may import these.
SOLE: dict[str, frozenset[str]] = {
    "pydbus": frozenset({"host/systemd.py"}),
    "gi": frozenset({"host/systemd.py"}),
    "psutil": frozenset({"host/processes.py"}),
    "pynvml": frozenset({"host/nvml.py"}),
}

MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _calls(path: Path) -> set[str]:
    """The plain names that a module calls."""
    calls = (node.func for node in ast.walk(_tree(path)) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also of those inside functions; name may be empty."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports out"
            yield from ((node.module or "", alias.name) for alias in node.names)


def _inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _of(package: str) -> list[Path]:
    found = [path for path in MODULES if _inside(path).startswith(f"{package}/")]
    assert found or package == "gpu", f"{package} is gone"  # gpu is still to come
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    may = {*ALLOWED[package], f"agent.{package}"}
    for path in _of(package):
        for module, name in _imports(path):
            if module == "agent" and name in ("__version__", "") and package in ("deploy", "host"):
                continue
            if module.split(".")[0] != "agent":
                continue
            assert ".".join(module.split(".")[:2]) in may, f"{_inside(path)} imports {module}"


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_have_no_effects(package: str) -> None:
    for path in _of(package):
        imported = {module for module, _ in _imports(path)}
        tops = {module.split(".")[0] for module in imported} | imported
        assert not tops & EFFECTS, f"{_inside(path)} imports {tops & EFFECTS}"
        assert "threading" not in tops or _inside(path) in THREADS
        # Paths may be reasoned about, never opened.
        used = {name for module, name in _imports(path) if module == "pathlib"}
        assert used <= {"PurePosixPath"} and "pathlib" not in {
            m for m, n in _imports(path) if not n
        }


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_call_nothing_that_acts(package: str) -> None:
    for path in _of(package):
        assert not _calls(path) & {"open", "input", "breakpoint"}, _inside(path)


@pytest.mark.parametrize("library", SOLE)
def test_a_library_is_used_in_one_place(library: str) -> None:
    users = {_inside(p) for p in MODULES if library in {m.split(".")[0] for m, _ in _imports(p)}}
    assert users <= SOLE[library]


def test_nothing_imports_the_command_line() -> None:
    for path in MODULES:
        if _inside(path).startswith("cli/") or _inside(path) == "__main__.py":
            continue
        assert not any(module.startswith("agent.cli") for module, _ in _imports(path)), path


def test_no_module_prints() -> None:
    """stdout is the command line's, through `agent.cli.output`."""
    for path in MODULES:
        assert "print" not in _calls(path), _inside(path)
