"""What differs between two sets of files. Secrets are compared, never shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.plan import ChangeKind, FileChange, RenderedFile


def file_changes(
    before: Iterable[RenderedFile], after: Iterable[RenderedFile]
) -> tuple[FileChange, ...]:
    """The files that were added, changed or removed, by path."""
    old = {file.path: file for file in before}
    new = {file.path: file for file in after}
    changes = (_change(path, old.get(path), new.get(path)) for path in sorted(old | new))
    return tuple(change for change in changes if change is not None)


def _change(path: str, old: RenderedFile | None, new: RenderedFile | None) -> FileChange | None:
    if old is not None and new is not None:
        if old.data == new.data:
            return None
        kind = ChangeKind.CHANGED
    else:
        kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED
    if any(file is not None and file.secret for file in (old, new)):
        return FileChange(path, kind, secret=True)
    return FileChange(path, kind, _text(old), _text(new))


def _text(file: RenderedFile | None) -> str:
    return file.data.decode("utf-8", "replace") if file is not None else ""
