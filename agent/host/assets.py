"""The files that ship with labctl: the starter lab of `config/` and the units of `units/`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import agent
from agent.model.errors import LabctlError


def asset(name: str) -> bytes:
    """The bytes of a shipped file, e.g. `units/litellm.service`."""
    path = _root() / PurePosixPath(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabctlError(
            f"labctl's own file {name} is missing from {_root()}",
            hint="install labctl again with ./install.sh",
        ) from error


def asset_names(folder: str) -> tuple[str, ...]:
    """The names of the shipped files of a folder, `config` or `units`, sorted."""
    found = sorted(path.name for path in (_root() / folder).glob("*") if path.is_file())
    return tuple(found)


def _root() -> Path:
    """Beside the installed package, or the root of a checkout."""
    package = Path(agent.__file__).parent
    installed = package / "_assets"
    return installed if installed.is_dir() else package.parent
