"""The lab's git history, where it has one."""

from __future__ import annotations

import subprocess

from agent.model.errors import Refused

_TIMEOUT_S = 10.0
_LAB_FILES = ("lab.yaml", "providers.yaml", "model-mappings.yaml")


def commit_of(directory: str) -> str | None:
    """The commit that the folder is at, `-dirty` when it differs; None outside git."""
    head = _git(directory, "rev-parse", "HEAD")
    if head is None:
        return None
    changed = _git(directory, "status", "--porcelain", "--", ".")
    return head.decode().strip() + ("-dirty" if changed else "")


def lab_at(directory: str, revision: str) -> tuple[dict[str, bytes], str]:
    """The lab's files as they were at a revision, and its full commit id.

    Raises Refused when there is no such revision or it holds no lab in this folder.
    """
    name = _git(directory, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    if name is None:
        raise Refused(
            f"{directory} has no git revision {revision!r}",
            hint=f"`git -C {directory} log --oneline` lists what there is",
        )
    commit = name.decode().strip()
    found = {file: _git(directory, "show", f"{commit}:./{file}") for file in _LAB_FILES}
    texts = {file: text for file, text in found.items() if text is not None}
    if "providers.yaml" not in texts or "model-mappings.yaml" not in texts:
        raise Refused(
            f"revision {commit[:12]} holds no lab in {directory}",
            hint="a lab has at least providers.yaml and model-mappings.yaml",
        )
    return texts, commit


def _git(directory: str, *words: str) -> bytes | None:
    """git's output; None when it fails, hangs or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", directory, *words],
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
