"""Model files beside those that services use, and the links that services follow to theirs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_SUFFIX = ".gguf"
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf\Z")
_LINKS_MAX = 40


def pinned(path: str) -> str:
    """Where a link such as `current.gguf` leads now: what a generation names.

    A generation must not change when the link does. Only links to other `.gguf` files are followed:
    the blobs of a model hub's cache have no such names, and parts of a split model lie beside the
    link, not beside the blob. What is no link, or leads nowhere, is left as it is.
    """
    for _ in range(_LINKS_MAX):
        try:
            target = os.readlink(path)
        except (OSError, ValueError):
            return path
        target = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if not target.endswith(_SUFFIX) or not os.path.isfile(target):
            return path
        path = target
    return path


def model_folders(used: Iterable[str]) -> tuple[str, ...]:
    """The folders that models are kept in, from the paths of those in use; each once."""
    found: dict[str, None] = {}
    for path in used:
        for place in (path, pinned(path)):
            folder = Path(place).parent
            found |= {str(folder): None, str(folder.parent): None}
    return tuple(found)


def models_beside(used: Iterable[str]) -> tuple[str, ...]:
    """Every model file in the folders of those in use: first parts only, links left out."""
    folders = {Path(place).parent for path in used for place in (path, pinned(path))}
    return tuple(sorted(str(path) for folder in folders for path in _models_in(folder)))


def find_model(places: Iterable[str], folders: Iterable[str]) -> str | None:
    """The first of these relative paths that is a file below one of the folders."""
    places = tuple(places)
    for folder in folders:
        for place in places:
            path = Path(folder) / place
            if path.is_file():
                return str(path)
    return None


def _models_in(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    paths = [folder / n for n in names if n.endswith(_SUFFIX) and not _LATER_PART.search(n)]
    return [path for path in paths if path.is_file() and pinned(str(path)) == str(path)]
