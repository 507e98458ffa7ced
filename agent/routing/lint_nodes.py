"""Composed YAML with places: what the linter reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from agent.model.finding import Position


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding before it has its severity."""

    rule: str
    at: Position
    message: str
    why: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A YAML node of a file; None stands for an empty document."""

    file: str
    node: yaml.Node | None

    @property
    def at(self) -> Position:
        if self.node is None:
            return Position(self.file)
        mark = self.node.start_mark
        return Position(self.file, mark.line + 1, mark.column + 1)

    @property
    def text(self) -> str:
        """A scalar as it is written; empty for anything else."""
        return self.node.value if isinstance(self.node, yaml.ScalarNode) else ""

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag.endswith(":null")

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """Keys and values of a mapping; nothing for anything else."""
        if isinstance(self.node, yaml.MappingNode):
            for key, value in self.node.value:
                yield Node(self.file, key), Node(self.file, value)

    def items(self) -> Iterator[Node]:
        """Members of a list; nothing for anything else."""
        if isinstance(self.node, yaml.SequenceNode):
            for item in self.node.value:
                yield Node(self.file, item)

    def get(self, name: str) -> Node | None:
        """The value of a key; the last one, as YAML loaders have it."""
        found = [value for key, value in self.pairs() if key.text == name]
        return found[-1] if found else None

    def key(self, name: str) -> Node | None:
        found = [key for key, _ in self.pairs() if key.text == name]
        return found[-1] if found else None
