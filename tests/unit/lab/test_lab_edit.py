"""Changing one `model:` of lab.yaml: every other byte stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lab.edit import like, with_model, written_model
from agent.lab.tree import Scalar, Table, parse
from agent.model.errors import Refused

TEXT = """\
# größe: model: ~/a.gguf
services:
  a: {kind: llamacpp-native, port: 8080, model: ~/models/a.gguf,   # the model: of a
      context: 512}
  b:
    model:   "/with blanks/b.gguf"   # keep me
    args: [--model, ~/models/a.gguf]
"""


def test_inside_braces() -> None:
    assert with_model(TEXT, "a", "~/models/x.gguf") == TEXT.replace(
        "model: ~/models/a.gguf,", "model: ~/models/x.gguf,"
    )


def test_in_a_block_with_quotes_and_a_comment() -> None:
    assert with_model(TEXT, "b", "/y.gguf") == TEXT.replace('"/with blanks/b.gguf"', "/y.gguf")
    assert '"/a: b, {c}.gguf"   # keep me' in with_model(TEXT, "b", "/a: b, {c}.gguf")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1))
def test_any_path_reads_back_and_nothing_else_changes(name: str) -> None:
    path = f"/models/{name}.gguf"
    for service, other in (("a", "b"), ("b", "a")):
        edited = with_model(TEXT, service, path)
        assert written_model(edited, service) == path
        assert written_model(edited, other) == written_model(TEXT, other)


@pytest.mark.parametrize(
    "text",
    [
        "services: {a: {port: 1}}",
        "services: {b: {model: /x}}",
        "services:",
        "",
        "services: {z: {model: &m /x}, a: {model: *m}}",
        "services: {a: {model: &m /x}}",
        "services: {a: {model: !!str /x}}",
        "services: {a: {model: [/x]}}",
    ],
)
def test_a_value_that_is_not_written_out_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        with_model(text, "a", "/new")
    assert "nothing was touched" in caught.value.message
    assert "below `a:`" in caught.value.hint


def test_a_merged_mapping_is_edited_at_its_source_and_the_caller_finds_out() -> None:
    """`agent.cli.model_switch` reads the result again and refuses it: two services changed."""
    text = "base: &b {model: /x}\nservices: {a: {<<: *b}, c: {<<: *b}}\n"
    edited = with_model(text, "a", "/new")
    assert (written_model(edited, "a"), written_model(edited, "c")) == ("/new", "/new")


@pytest.mark.parametrize(
    ("old", "path", "written"),
    [
        ("~/models/a.gguf", "/home/me/models/b.gguf", "~/models/b.gguf"),
        ("~/models/a.gguf", "/srv/b.gguf", "/srv/b.gguf"),
        ("models/a.gguf", "/lab/models/b.gguf", "models/b.gguf"),
        ("models/a.gguf", "/home/me/b.gguf", "/home/me/b.gguf"),
        ("/srv/a.gguf", "/home/me/b.gguf", "/home/me/b.gguf"),
    ],
)
def test_the_new_value_is_written_like_the_old(old: str, path: str, written: str) -> None:
    assert like(old, path, "/lab", "/home/me") == written


def test_the_tree_of_the_example_is_what_the_tests_think() -> None:
    root = parse(TEXT).root
    assert isinstance(root, Table)
    assert all(isinstance(key, Scalar) for key, _ in root.entries)
