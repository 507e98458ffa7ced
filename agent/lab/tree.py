"""YAML text → a tree of nodes that know their line and column.

The tree is built from parser events, not by `yaml.compose`: that one recurses in C and ends the
process on deep nesting, and keeps only the last of two equal keys. Depth and size are bounded
while reading, aliases counted at their full size, so no text can take long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from agent.lab import scalars

DEPTH_MAX = 64
NODES_MAX = 100_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"
_LIST_TAGS = frozenset({None, "!", _PREFIX + "seq"})
_TABLE_TAGS = frozenset({None, "!", _PREFIX + "map"})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """One plain value. `literal` is what stands in the file, after quotes and escapes."""

    line: int
    column: int
    value: str | int | float | bool | None
    literal: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    line: int
    column: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping. Keys are the text as written, each once; merge keys are resolved."""

    line: int
    column: int
    entries: tuple[tuple[Scalar, Node], ...]


Node = Scalar | Items | Table


class Flaw(NamedTuple):
    """Something wrong with the text itself. Lines and columns count from 1."""

    rule: str
    line: int
    column: int
    message: str
    hint: str = ""


class Tree(NamedTuple):
    """What was read: `root` is None for an empty document and where reading had to stop."""

    root: Node | None
    flaws: tuple[Flaw, ...]
    complete: bool


class _Stop(Exception):
    """Reading cannot go on."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open."""

    line: int
    column: int
    is_table: bool
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    merged: list[Node] = field(default_factory=list)
    key: Scalar | None = None
    key_repeats: bool = False
    value_due: bool = False
    size: int = 1


def decode(data: bytes) -> str | Flaw:
    """Bytes of a file → text, or what is wrong with its encoding."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        return Flaw(
            "encoding",
            line,
            column,
            f"the byte 0x{data[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
        )
    found = _CONTROL.search(text)
    if found is None:
        return text
    line, column = _place(text, found.start())
    return Flaw(
        "encoding",
        line,
        column,
        f"the control character U+{ord(found.group()):04X} may not stand in a lab file",
        "remove it; the file may be damaged",
    )


def parse(text: str) -> Tree:
    """Text of one YAML document → its tree and every flaw. Never raises for bad text."""
    composer = _Composer()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except _Stop as stop:
        return Tree(None, (*composer.flaws, stop.flaw), complete=False)
    except yaml.YAMLError as error:
        return Tree(None, (*composer.flaws, _syntax(error, text)), complete=False)
    return Tree(composer.root, tuple(composer.flaws), complete=True)


class _Composer:
    """Turns parser events into nodes, without recursion."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.flaws: list[Flaw] = []
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._documents = 0
        self._nodes = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                message = "a second YAML document starts here; a lab file is one document"
                raise _Stop(Flaw("syntax", *_at(event), message, "remove the `---` line"))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line, column = _at(event)
        tag = event.tag or scalars.resolve(event)
        value: str | int | float | bool | None
        try:
            value = scalars.construct(tag, event.value)
        except (ValueError, KeyError, IndexError):
            kind = tag.removeprefix(_PREFIX)
            self.flaws.append(Flaw("type", line, column, f"the YAML tag `{kind}` does not fit"))
            value = event.value
        node = Scalar(line, column, value, event.value)
        if event.anchor:
            self._anchors[event.anchor] = (node, 1)
        self._add(node, 1, merge=event.value == "<<" and event.implicit[0])

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        line, column = _at(event)
        if len(self._stack) >= DEPTH_MAX:
            message = f"nested more than {DEPTH_MAX} levels deep"
            raise _Stop(Flaw("too-deep", line, column, message, "no lab needs more than eight"))
        is_table = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (_TABLE_TAGS if is_table else _LIST_TAGS):
            self.flaws.append(_bad_tag(line, column))
        self._stack.append(_Frame(line, column, is_table, event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _close(self) -> None:
        frame = self._stack.pop()
        node: Node
        if frame.is_table:
            self._merge(frame)
            node = Table(frame.line, frame.column, tuple(frame.entries.values()))
        else:
            node = Items(frame.line, frame.column, tuple(frame.items))
        if frame.anchor:
            self._anchors[frame.anchor] = (node, frame.size)
        self._add(node, frame.size)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line, column = _at(event)
        if any(frame.anchor == event.anchor for frame in self._stack):
            message = f"the alias `*{event.anchor}` stands inside the value that it repeats"
            raise _Stop(Flaw("syntax", line, column, message, "write the value out"))
        if event.anchor not in self._anchors:
            message = f"the alias `*{event.anchor}` has no anchor before it"
            hint = "quote the value if its star belongs to it"
            raise _Stop(Flaw("syntax", line, column, message, hint))
        self._add(*self._anchors[event.anchor])

    def _add(self, node: Node, size: int, *, merge: bool = False) -> None:
        self._nodes += 1
        frame = self._stack[-1] if self._stack else None
        if frame is not None:
            frame.size += size
        if self._nodes > NODES_MAX or (frame is not None and frame.size > NODES_MAX):
            message = f"holds more than {NODES_MAX:,} values"
            hint = "a lab is some hundred values; aliases count at their full size"
            raise _Stop(Flaw("too-deep", node.line, node.column, message, hint))
        if frame is None:
            self.root = node
        elif not frame.is_table:
            frame.items.append(node)
        elif frame.value_due:
            _add_entry(frame, node)
        else:
            self._add_key(frame, node, merge)

    def _add_key(self, frame: _Frame, node: Node, merge: bool) -> None:
        """Take a key: it must be a scalar, not null, and new in its mapping."""
        frame.value_due, frame.key, frame.key_repeats = True, None, merge
        if merge:
            return
        if not isinstance(node, Scalar) or (node.value is None and node.literal in ("", "~")):
            self.flaws.append(Flaw("type", node.line, node.column, "a key must be a name"))
        elif node.literal in frame.entries:
            first = frame.entries[node.literal][0].line
            message = f"the key {quoted(node.literal)} is here twice, first on line {first}"
            hint = "keep one of them"
            self.flaws.append(Flaw("duplicate-key", node.line, node.column, message, hint))
        else:
            frame.key = node

    def _merge(self, frame: _Frame) -> None:
        """Add the entries of `<<:` mappings; the mapping's own entries win."""
        for node in frame.merged:
            for source in node.items if isinstance(node, Items) else (node,):
                if isinstance(source, Table):
                    for key, value in source.entries:
                        frame.entries.setdefault(key.literal, (key, value))
                else:
                    message = "`<<:` merges mappings only"
                    self.flaws.append(Flaw("type", source.line, source.column, message))


def _add_entry(frame: _Frame, node: Node) -> None:
    if frame.key is not None:
        frame.entries[frame.key.literal] = (frame.key, node)
    elif frame.key_repeats:
        frame.merged.append(node)
    frame.value_due = False


def quoted(text: str) -> str:
    """Text of a file for a message: short, on one line, without control characters."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:60])
    return f"`{shown}…`" if len(text) > 60 else f"`{shown}`"


def _bad_tag(line: int, column: int) -> Flaw:
    return Flaw("type", line, column, "YAML tags have no meaning in a lab", "remove the tag")


def _at(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1


def _place(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, index - before.rfind("\n")


def _syntax(error: yaml.YAMLError, text: str) -> Flaw:
    """A parser's complaint as a flaw, at the place where it stopped."""
    if isinstance(error, yaml.reader.ReaderError):
        line, column = _place(text, min(error.position, len(text)))
        return Flaw("encoding", line, column, str(error.reason))
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Flaw("syntax", 1, 1, "not YAML")
    mark = error.problem_mark
    message = f"not YAML: {error.problem}"
    if error.context and error.context_mark is not None:
        message += f" ({error.context} that starts on line {error.context_mark.line + 1})"
    hint = "check indentation, colons and quotes on this line and the one before"
    if "\t" in text.split("\n")[min(mark.line, text.count("\n"))]:
        hint = "YAML indents with spaces: replace the tab"
    return Flaw("syntax", mark.line + 1, mark.column + 1, message, hint)
