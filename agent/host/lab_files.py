"""Loading a lab's files from the disk. Parsing them is `agent.lab.read`'s part."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from agent.model.errors import ExitCode, LabctlError

LAB_FILES = ("lab.yaml", "providers.yaml", "model-mappings.yaml", "secrets.env")
SIZE_MAX = 4 << 20
_GATEWAY_CONFIG = re.compile(rb"^model_list\s*:", re.MULTILINE)


def lab_directory(explicit: str | None, environ: Mapping[str, str], home: str) -> str:
    """The lab's folder, absolute: the command line's, else `LABCTL_LAB`, else the default."""
    chosen = explicit or environ.get("LABCTL_LAB") or ""
    if not chosen:
        base = environ.get("XDG_CONFIG_HOME", "")
        # The XDG specification: a relative path there is to be ignored.
        config = Path(base) if base.startswith("/") else Path(home) / ".config"
        return str(config / "labctl")
    if chosen == "~" or chosen.startswith("~/"):
        chosen = home + chosen[1:]
    return str(Path(chosen).absolute())


def load_lab(directory: str) -> dict[str, bytes]:
    """The lab's files that are there, by bare name.

    Raises `LabctlError` (refused) when the folder or a file of it cannot be read as such.
    """
    _names(directory)
    read = ((name, _read(Path(directory) / name)) for name in LAB_FILES)
    return {name: data for name, data in read if data is not None}


def gateway_files(directory: str) -> dict[str, bytes]:
    """Other YAML files in the lab's folder that look like a LiteLLM config, by bare name.

    They are looked at out of courtesy: one that cannot be read is left out.
    """
    found: dict[str, bytes] = {}
    for name in _names(directory):
        if name in LAB_FILES or not name.endswith((".yaml", ".yml")):
            continue
        try:
            data = _read(Path(directory) / name)
        except LabctlError:
            continue
        if data is not None and _GATEWAY_CONFIG.search(data):
            found[name] = data
    return found


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        hint = f"`labctl init {directory}` writes a starter lab there"
        raise _refused(f"there is no lab at {directory}", hint) from None
    except NotADirectoryError:
        raise _refused(f"{directory} is not a folder", "name the folder of the lab") from None
    except OSError as error:
        raise _refused(f"{directory}: {error.strerror}", "check its permissions") from None


def _read(path: Path) -> bytes | None:
    """A regular file's bytes; None when nothing is there.

    Opened without blocking: a FIFO in a file's place must not hang the check.
    """
    try:
        # Looked at first: opening a device can already do harm.
        _require_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            _require_regular(path, os.fstat(descriptor))
            data = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        if path.is_symlink():
            hint = "repair or remove the link"
            raise _refused(f"{path} is a link to nothing", hint) from None
        return None
    except OSError as error:
        hint = "check its permissions and what stands there"
        raise _refused(f"{path} cannot be read: {error.strerror}", hint) from None
    if len(data) > SIZE_MAX:
        raise _refused(f"{path} is larger than {SIZE_MAX >> 20} MiB", "no lab file is that large")
    return data


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"{path} is not a regular file", "put the file itself there")


def _refused(message: str, hint: str) -> LabctlError:
    return LabctlError(message, hint=hint, exit_code=ExitCode.REFUSED)
