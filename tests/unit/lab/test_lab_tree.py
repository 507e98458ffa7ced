"""YAML text → tree: positions, YAML 1.1 scalars, and the bounds on what a file may do."""

from __future__ import annotations

import time

import pytest

from agent.lab.tree import DEPTH_MAX, Flaw, Items, Node, Scalar, Table, Tree, decode, parse


def plain(node: Node | None) -> object:
    """A node as Python values."""
    match node:
        case Table():
            return {key.literal: plain(value) for key, value in node.entries}
        case Items():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.value
    return None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: 0x1F", 31),
        ("a: 010", 8),
        ("a: 1:30", 90),
        ("a: 1.0", 1.0),
        ("a: .inf", float("inf")),
        ('a: "1.0"', "1.0"),
        ("a: on", True),
        ("a: 'on'", "on"),
        ("a: ~", None),
        ("a:", None),
        ("a: 2025-10-30", "2025-10-30"),
        ("a: 1.2.3", "1.2.3"),
        ("a: !!str 12", "12"),
        ("a: |\n  x\n  y\n", "x\ny\n"),
        ("a: " + "9" * 5000, "9" * 5000),
        ("a: =", "="),
    ],
)
def test_scalars_are_read_as_the_safe_loader_reads_them(text: str, value: object) -> None:
    assert plain(parse(text).root) == {"a": value}
    assert parse(text).flaws == ()


def test_keys_are_text_as_written() -> None:
    assert plain(parse("on: 1\n8000: 2\n1.0: 3\n").root) == {"on": 1, "8000": 2, "1.0": 3}


def test_aliases_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nmany:\n  <<: [*b, {z: 4}]\nsame: *b\n"
    assert plain(parse(text).root) == {
        "base": {"x": 1, "y": 2},
        "use": {"x": 1, "y": 3},
        "many": {"x": 1, "y": 2, "z": 4},
        "same": {"x": 1, "y": 2},
    }


def test_places_count_from_one_in_characters() -> None:
    root = parse("# c\nü: [é, xyz]\n").root
    assert isinstance(root, Table)
    key, items = root.entries[0]
    assert isinstance(items, Items)
    assert (key.line, key.column) == (2, 1)
    assert [(item.line, item.column) for item in items.items] == [(2, 5), (2, 8)]


@pytest.mark.parametrize(
    ("text", "rule", "line", "column", "part"),
    [
        ("a: [1,\nb: 2\n", "syntax", 3, 1, "not YAML"),
        ("a:\n\tb: 1\n", "syntax", 2, 1, "cannot start any token"),
        ('a: "open\n', "syntax", 2, 1, "quoted scalar that starts on line 1"),
        ("a: 1\n---\nb: 2\n", "syntax", 2, 1, "second YAML document"),
        ("a: *nowhere", "syntax", 1, 4, "no anchor"),
        ("a: &a [*a]", "syntax", 1, 8, "stands inside"),
        ("a: 1\nb: 2\na: 3\n", "duplicate-key", 3, 1, "first on line 1"),
        ("x: {k: 1, k: 2}\n", "duplicate-key", 1, 11, "twice"),
        ("? [a]\n: 1\n", "type", 1, 3, "must be a name"),
        ("~: 1\n", "type", 1, 1, "must be a name"),
        ("a: !!python/name:os.system x\n", "type", 1, 4, "tag"),
        ("a: !!int nope\n", "type", 1, 4, "`int` does not fit"),
        ("a: !!bool nope\n", "type", 1, 4, "`bool` does not fit"),
        ("a: !custom {b: 1}\n", "type", 1, 4, "tags have no meaning"),
        ("<<: 3\n", "type", 1, 5, "merges mappings only"),
        ("[" * (DEPTH_MAX + 1), "too-deep", 1, DEPTH_MAX + 1, "levels deep"),
    ],
)
def test_flaws(text: str, rule: str, line: int, column: int, part: str) -> None:
    flaw = parse(text).flaws[-1]
    assert (flaw.rule, flaw.line, flaw.column) == (rule, line, column), flaw
    assert part in flaw.message


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "[" * 200_000,
        "- " * 200_000,
        "{a: " * 200_000,
        "? " * 200_000,
        "\n".join(" " * i + "a:" for i in range(2000)),
        "a: [" + "x, " * 200_000 + "]",
    ],
    ids=["aliases", "flow", "block", "flow-maps", "complex-keys", "indent", "many"],
)
def test_what_would_exhaust_a_reader_stops_early(text: str) -> None:
    started = time.perf_counter()
    tree: Tree = parse(text)
    assert not tree.complete
    assert tree.flaws[-1].rule == "too-deep"
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("data", "line", "column", "part"),
    [
        (b"a: 1\nb: \xff\n", 2, 4, "0xff"),
        ("é: ".encode() + b"\xc3", 1, 4, "0xc3"),
        (b"a: 1\nb: x\x00y\n", 2, 5, "U+0000"),
        (b"\x1b[31m", 1, 1, "U+001B"),
        ("a: 1".encode("utf-16"), 1, 1, "not UTF-8"),
    ],
)
def test_encoding(data: bytes, line: int, column: int, part: str) -> None:
    flaw = decode(data)
    assert isinstance(flaw, Flaw)
    assert (flaw.rule, flaw.line, flaw.column) == ("encoding", line, column)
    assert part in flaw.message


def test_a_byte_order_mark_is_no_text() -> None:
    assert decode(b"\xef\xbb\xbfa: 1") == "a: 1"
