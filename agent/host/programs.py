"""Where the programs of the services are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent.model.kinds import ServiceKind

_EXECUTABLES = {
    ServiceKind.LITELLM: "litellm",
    ServiceKind.OLLAMA: "ollama",
    ServiceKind.LLAMACPP_PYTHON: "python3",
    ServiceKind.LLAMACPP_NATIVE: "llama-server",
    ServiceKind.VLLM: "vllm",
}
_LIBRARIES = (
    "lib/python3*/site-packages/llama_cpp",
    "lib64/python3*/site-packages/llama_cpp",
    "lib/python3*/dist-packages/llama_cpp",
    "local/lib/python3*/dist-packages/llama_cpp",
)


def executable_name(kind: ServiceKind) -> str:
    """What the unit of a kind starts: the word after `/usr/bin/env`."""
    return _EXECUTABLES[kind]


def find_program(kind: ServiceKind, program: str | None, home: str, path: str) -> str | None:
    """The executable that a service's unit would start, absolute, links unresolved.

    1. `program` from the lab, an executable or a folder that holds it (or its `bin`); nothing
       else is tried then.
    2. `~/.local/share/labctl/backends/<kind>/bin`, where `install.sh --with` puts backends.
    3. `path`, as PATH spells it.

    A Python counts only when llama_cpp is installed beside it.
    """
    name = _EXECUTABLES[kind]
    for candidate in _candidates(kind, name, program, home, path):
        if _runs(candidate) and (name != "python3" or _has_llama_cpp(candidate, home)):
            return os.path.abspath(candidate)
    return None


def _candidates(
    kind: ServiceKind, name: str, program: str | None, home: str, path: str
) -> Iterator[Path]:
    if program is not None:
        given = Path(program)
        yield from (given / name, given / "bin" / name) if given.is_dir() else (given,)
        return
    yield Path(home) / ".local/share/labctl/backends" / kind.value / "bin" / name
    for folder in path.split(os.pathsep):
        if folder.startswith("/"):  # a relative folder means another one to systemd
            yield Path(folder) / name


def _runs(candidate: Path) -> bool:
    return shutil.which(str(candidate)) is not None


def _has_llama_cpp(python: Path, home: str) -> bool:
    """Whether llama_cpp lies in the packages of this Python; looked up, not imported (0.5 s)."""
    prefix = python.parent.parent
    if any(True for pattern in _LIBRARIES for _ in prefix.glob(pattern)):
        return True
    user_packages = Path(home) / ".local"
    return not (prefix / "pyvenv.cfg").exists() and any(user_packages.glob(_LIBRARIES[0]))
