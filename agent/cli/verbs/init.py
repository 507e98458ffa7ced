"""`labctl init`: write the commented starter lab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.output import say

if TYPE_CHECKING:
    from agent.host.disk import LocalDisk


def init(
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="Where to; ~/.config/labctl by default.")
    ] = None,
) -> None:
    """Write the commented starter lab. Never overwrites a file."""
    import os
    import secrets

    from agent.cli.checked import directory_of
    from agent.host.assets import asset, asset_names
    from agent.host.disk import LocalDisk
    from agent.model.errors import Refused
    from agent.model.generation import SECRETS_FILE

    target = os.path.abspath(os.path.expanduser(directory)) if directory else directory_of(None)
    disk = LocalDisk()
    _make_folders(disk, target)
    names = [name for name in asset_names("config") if name.endswith((".yaml", ".env"))]
    standing = [name for name in names if disk.entry(f"{target}/{name}") is not None]
    if standing:
        raise Refused(
            f"{target} already holds {', '.join(standing)}; nothing was written",
            hint="give another folder: `labctl init DIR`",
        )
    for name in names:
        data = asset(f"config/{name}")
        if name == SECRETS_FILE:
            key = f"LITELLM_MASTER_KEY=sk-{secrets.token_hex(24)}"
            data = data.replace(b"LITELLM_MASTER_KEY=", key.encode(), 1)
        disk.create(f"{target}/{name}", data, 0o600 if name == SECRETS_FILE else 0o644)
        say(f"wrote {target}/{name}")
    disk.sync_folder(target)
    say("next: edit them, then `labctl check`, `labctl plan` and `labctl deploy`")


def _make_folders(disk: LocalDisk, path: str) -> None:
    parent = path.rsplit("/", 1)[0] or "/"
    if disk.entry(path) is None:
        _make_folders(disk, parent)
    disk.make_folder(path, 0o755)
