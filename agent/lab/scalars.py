"""What YAML 1.1 makes of a scalar, as PyYAML's SafeLoader decides it."""

from __future__ import annotations

import re

import yaml

_PREFIX = "tag:yaml.org,2002:"
# Longer scalars are never numbers: a number of a million digits would take minutes to convert.
NUMBER_LENGTH_MAX = 64
_IMPLICIT: dict[str | None, list[tuple[str, re.Pattern[str]]]] = (
    yaml.SafeLoader.yaml_implicit_resolvers
)
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
# A date or a lone `=` is text to us: no setting is one.
_TEXT_TAGS = frozenset({"!", _PREFIX + "str", _PREFIX + "timestamp", _PREFIX + "value"})


def resolve(event: yaml.ScalarEvent) -> str:
    """The tag that YAML 1.1 gives a scalar without one."""
    if not event.implicit[0] or len(event.value) > NUMBER_LENGTH_MAX:
        return _PREFIX + "str"
    first = event.value[0] if event.value else ""
    for tag, pattern in _IMPLICIT.get(first, ()):
        if pattern.match(event.value):
            return tag
    return _PREFIX + "str"


def construct(tag: str, literal: str) -> str | int | float | bool | None:
    """A scalar's value by SafeLoader's own constructors.

    Raises KeyError for a tag that is none of ours, ValueError or IndexError for a value that does
    not fit its tag.
    """
    if tag in _TEXT_TAGS or tag == _PREFIX + "merge":
        return literal
    node = yaml.ScalarNode(tag, literal)
    if len(literal) > NUMBER_LENGTH_MAX:
        raise ValueError(tag)
    match tag.removeprefix(_PREFIX):
        case "int":
            return int(_CONSTRUCTOR.construct_yaml_int(node))
        case "float":
            return float(_CONSTRUCTOR.construct_yaml_float(node))
        case "bool":
            return bool(_CONSTRUCTOR.construct_yaml_bool(node))
        case "null":
            return None
    raise KeyError(tag)
