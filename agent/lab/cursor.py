"""A typed cursor over the tree: reads what a schema asks for and reports every problem on its way.

Why not pydantic: importing it and building one model takes about 150 ms on the machines this
was measured on, the whole budget of `labctl check`; and it knows no positions.

Every `as_...` method returns None after it has reported why, so a reader never stops early.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from agent.lab.grammar import VARIABLE_NAME, Bad, duration_s
from agent.lab.scope import Effectless, Scope
from agent.lab.tree import Items, Node, Scalar, Table, quoted
from agent.model.finding import Position
from agent.model.lab import Reference

Choice = TypeVar("Choice", bound=StrEnum)
Parsed = TypeVar("Parsed")

_PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Value:
    """A node with its file and the dotted path that names it in messages."""

    scope: Scope
    node: Node
    path: str

    @property
    def at(self) -> Position:
        return self.scope.at(self.node.line, self.node.column)

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, Scalar) and self.node.value is None

    def wrong(self, rule: str, message: str, hint: str = "") -> None:
        self.scope.error(rule, self.at, f"`{self.path}` {message}", hint)

    def as_text(self, *, show: bool = True) -> str | None:
        """Text on one line. `show=False` keeps the value out of every message."""
        node = self.node
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            shown = kind_of(node, show=show)
            hint = _quotes_hint(node) if show else ""
            self.wrong("type", f"must be text, not {shown}", hint)
            return None
        if not node.value.strip():
            self.wrong("value", "is empty")
            return None
        if not node.value.isprintable() or node.value != node.value.strip():
            self.wrong("value", "holds a line break, a control character or blanks at its ends")
            return None
        return node.value

    def as_literal(self) -> str | None:
        """A word for a program: numbers and booleans count as they are written.

        The value never stands in a message: it may be a key.
        """
        node = self.node
        if not isinstance(node, Scalar) or node.value is None:
            self.wrong("type", f"must be a text or number, not {kind_of(node, show=False)}")
            return None
        if "\n" in node.literal or "\r" in node.literal:
            self.wrong("value", "holds a line break, which an environment file cannot carry")
            return None
        return node.literal

    def as_parsed(self, parse: Callable[[str], Parsed | Bad]) -> Parsed | None:
        """Text in a grammar of `agent.lab.grammar`."""
        text = self.as_text()
        if text is None:
            return None
        parsed = parse(text)
        if isinstance(parsed, Bad):
            self.wrong("value", f"is {quoted(text)}: {parsed.message}", parsed.hint)
            return None
        return parsed

    def as_variable(self) -> str | None:
        """The name of an environment variable. A value in its place is never shown."""
        text = self.as_text(show=False)
        if text is not None and not VARIABLE_NAME.fullmatch(text):
            hint = "write the name of a variable that secrets.env sets, never the key itself"
            self.wrong("value", "is not the name of a variable", hint)
            return None
        return text

    def as_reference(self) -> Reference | None:
        text = self.as_text()
        return None if text is None else Reference(text, self.at)

    def as_integer(self, low: int, high: int, unit: str = "") -> int | None:
        """A whole number within both bounds."""
        node = self.node
        if not isinstance(node, Scalar) or type(node.value) is not int:
            hint = "remove the quotes" if _is_quoted_number(node) else ""
            self.wrong("type", f"must be a whole number, not {kind_of(node)}", hint)
            return None
        if not _PLAIN_INTEGER.fullmatch(node.literal):
            message = f"is {quoted(node.literal)}, which YAML reads as {node.value}"
            self.wrong("value", message, f"write {node.value}")
            return None
        if not low <= node.value <= high:
            self.wrong("value", f"is {node.value}: outside {low:,} to {high:,}{unit}")
            return None
        return node.value

    def as_number(self, low: float, high: float, *, above: bool = False) -> float | None:
        """A number within both bounds; `above` excludes the lower one."""
        node = self.node
        if not isinstance(node, Scalar) or type(node.value) not in (int, float):
            hint = "remove the quotes" if _is_quoted_number(node) else ""
            self.wrong("type", f"must be a number, not {kind_of(node)}", hint)
            return None
        assert isinstance(node.value, int | float)
        # The comparison also refuses NaN, and integers too large for a float.
        if not low <= node.value <= high or (above and node.value <= low):
            bounds = f"above {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}"
            self.wrong("value", f"is {quoted(node.literal)}: must be {bounds}")
            return None
        return float(node.value)

    def as_flag(self) -> bool | None:
        node = self.node
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        self.wrong("type", f"must be true or false, not {kind_of(node)}")
        return None

    def as_seconds(self, low: float, high: float) -> float | None:
        """A duration within both bounds, in seconds."""
        node = self.node
        if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool):
            self.wrong("type", f"must be a duration, not {kind_of(node)}", "write `30s` or `2m`")
            return None
        seconds = duration_s(node.literal)
        if isinstance(seconds, Bad):
            self.wrong("value", f"is {quoted(node.literal)}: {seconds.message}", seconds.hint)
            return None
        if not low <= seconds <= high:
            self.wrong("value", f"is {quoted(node.literal)}: outside {low:g} to {high:g} seconds")
            return None
        return seconds

    def as_choice(self, choices: type[Choice]) -> Choice | None:
        text = self.as_text()
        if text is None:
            return None
        names = [choice.value for choice in choices]
        if text in names:
            return choices(text)
        hint = "" if self.scope.full else did_you_mean(text, names)
        hint = hint or f"one of {', '.join(names)}"
        self.wrong("value", f"is {quoted(text)}, which is none of its values", hint)
        return None

    def items(self) -> tuple[Value, ...]:
        """The values of a list; null is an empty one."""
        if isinstance(self.node, Items):
            named = enumerate(self.node.items)
            return tuple(Value(self.scope, item, f"{self.path}[{i}]") for i, item in named)
        if not self.is_null:
            hint = "write it as a list, one `- ` a line" if isinstance(self.node, Scalar) else ""
            self.wrong("type", f"must be a list, not {kind_of(self.node)}", hint)
        return ()

    def entries(self) -> tuple[tuple[Value, Value], ...]:
        """Key and value pairs of a mapping whose keys are names; null is an empty one."""
        if isinstance(self.node, Table):
            return tuple(
                (Value(self.scope, key, self.path), Value(self.scope, value, _join(self.path, key)))
                for key, value in self.node.entries
            )
        if not self.is_null:
            self.wrong("type", f"must be a mapping, not {kind_of(self.node)}")
        return ()

    @property
    def name(self) -> str:
        """The text of a key."""
        return self.node.literal if isinstance(self.node, Scalar) else ""

    def section(self, at: Position | None = None) -> Section:
        """The settings of a mapping; anything else is reported and reads as an empty one.

        `at` is where a missing key is reported: the key that this value belongs to.
        """
        return Section(self, dict(_keys(self)), at or self.at)


def _keys(value: Value) -> Iterator[tuple[str, tuple[Value, Value]]]:
    for key, child in value.entries():
        yield key.name, (key, child)


@dataclass(slots=True)
class Section:
    """A mapping with known keys. Ask for each key, then call `done`."""

    value: Value
    found: dict[str, tuple[Value, Value]]
    at: Position
    known: set[str] = field(default_factory=set)

    @property
    def scope(self) -> Scope:
        return self.value.scope

    def get(self, key: str) -> Value | None:
        """The value of a key; None when it is not there or null."""
        self.known.add(key)
        _, value = self.found.get(key, (None, None))
        return None if value is None or value.is_null else value

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def key_at(self, key: str) -> Position:
        return self.found[key][0].at if key in self.found else self.at

    def required(self, key: str, hint: str = "") -> Value | None:
        value = self.get(key)
        if value is None and not isinstance(self.value.node, Table) and not self.value.is_null:
            return None  # already reported: it is no mapping at all
        if value is None:
            path = self.value.path
            message = f"`{path}` has no `{key}`" if path else f"`{key}` is missing"
            self.scope.error("missing-key", self.at, message, hint)
        return value

    def subsection(self, key: str) -> Section:
        """A nested mapping; an absent one reads as empty."""
        value = self.get(key)
        if value is None:
            empty = Value(self.scope, Table(self.at.line, self.at.column, ()), key)
            return Section(empty, {}, self.at)
        return value.section(self.key_at(key))

    def quiet(self, *keys: str) -> None:
        """Keys that describe and never act."""
        self.known.update(keys)

    def without_effect(self, key: str, where: str, why: Effectless) -> None:
        """A key that looks as if it acted. Null and false ask for nothing and pass."""
        value = self.get(key)
        if value is not None and not (isinstance(value.node, Scalar) and value.node.value is False):
            self.scope.without_effect(self.key_at(key), f"`{key}`", where, why)

    def done(self, hints: dict[str, str] | None = None) -> None:
        """Report every key that nobody asked for."""
        for key, (at_key, _) in self.found.items():
            if key in self.known:
                continue
            if self.scope.full:
                self.scope.error("unknown-key", at_key.at, "")
                continue
            hint = (hints or {}).get(key) or did_you_mean(key, self.known)
            hint = hint or f"known here: {', '.join(sorted(self.known))}"
            where = f" in `{self.value.path}`" if self.value.path else ""
            message = f"the key {quoted(key)}{where} is unknown"
            self.scope.error("unknown-key", at_key.at, message, hint)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest of the known names; empty when none is close."""
    lowered = {k.lower().replace("-", "_"): k for k in sorted(known)}
    asked = name[:100].lower().replace("-", "_")
    close = difflib.get_close_matches(asked, lowered, n=1, cutoff=0.6)
    return f"did you mean `{lowered[close[0]]}`?" if close else ""


def kind_of(node: Node, *, show: bool = True) -> str:
    """What a node is, in words, with its value where it may be shown."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Table):
        return "a mapping"
    if node.value is None:
        return "nothing"
    kind = {bool: "the boolean", int: "the number", float: "the number", str: "the text"}
    word = kind[type(node.value)]
    return f"{word} {quoted(node.literal)}" if show else f"a {word.removeprefix('the ')}"


def _quotes_hint(node: Node) -> str:
    if isinstance(node, Scalar) and node.value is not None:
        return f'write "{node.literal}" in quotes'
    return ""


def _is_quoted_number(node: Node) -> bool:
    text = node.value if isinstance(node, Scalar) else None
    return isinstance(text, str) and text.replace(".", "", 1).removeprefix("-").isdecimal()


def _join(path: str, key: Scalar) -> str:
    shown = quoted(key.literal)[1:-1]
    return f"{path}.{shown}" if path else shown
