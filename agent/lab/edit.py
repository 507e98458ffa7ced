"""Change one value in the text of lab.yaml and leave every other byte as it is."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

import yaml

from agent.lab.tree import Node, Scalar, Table, parse
from agent.model.errors import Refused

# Text that YAML reads as itself without quotes, also inside `{...}`.
_PLAIN = re.compile(r"(~/|/|[A-Za-z_])[A-Za-z0-9_./+-]*")


def with_model(text: str, service: str, model: str) -> str:
    """lab.yaml's text with another `model:` of a service.

    Raises `Refused` where the value is not written out at its place: missing, an alias, anchored,
    or part of a merged mapping.
    """
    key = _key(text, service)
    if key is None:
        raise _refused(service, f"`services.{service}` in lab.yaml has no `model:` of its own")
    start, end = _extent(text, key, service)
    return f"{text[:start]}{written(model)}{text[end:]}"


def written(value: str) -> str:
    """Text as a YAML scalar, quoted only where it must be."""
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def like(old: str, path: str, directory: str, home: str) -> str:
    """`path`, absolute, in the style of the value that it replaces: from `~`, relative or whole.

    `old` is the value as it was written.
    """
    target = PurePosixPath(path)
    if old.startswith("~/") and target.is_relative_to(home):
        return f"~/{target.relative_to(home)}"
    if not old.startswith(("/", "~")) and target.is_relative_to(directory):
        return str(target.relative_to(directory))
    return path


def written_model(text: str, service: str) -> str | None:
    """The `model:` of a service as lab.yaml writes it; None where it has none."""
    table = _service(text, service)
    value = _child(table, "model")
    return value.literal if isinstance(value, Scalar) else None


def _service(text: str, service: str) -> Node | None:
    return _child(_child(parse(text).root, "services"), service)


def _child(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, Table):
        return None
    return next((value for name, value in node.entries if name.literal == key), None)


def _key(text: str, service: str) -> Scalar | None:
    """The key `model` of a service."""
    table = _service(text, service)
    if not isinstance(table, Table):
        return None
    return next((name for name, _ in table.entries if name.literal == "model"), None)


def _extent(text: str, key: Scalar, service: str) -> tuple[int, int]:
    """Where the value after a key stands: indexes into the text."""
    events = iter(yaml.parse(text, Loader=yaml.SafeLoader))  # the C loader counts bytes
    next((event for event in events if _stands_at(event, key)), None)
    value = next(events, None)
    if not isinstance(value, yaml.ScalarEvent) or value.anchor or value.tag:
        raise _refused(service, f"`services.{service}.model` in lab.yaml is not written out")
    assert value.start_mark is not None and value.end_mark is not None
    return value.start_mark.index, value.end_mark.index


def _stands_at(event: yaml.Event, key: Scalar) -> bool:
    mark = event.start_mark
    if not isinstance(event, yaml.ScalarEvent) or mark is None:
        return False
    return (mark.line + 1, mark.column + 1) == (key.line, key.column)


def _refused(service: str, message: str) -> Refused:
    return Refused(
        f"{message}; nothing was touched",
        hint=f"write `model: PATH` below `{service}:` in lab.yaml, then try again",
    )
