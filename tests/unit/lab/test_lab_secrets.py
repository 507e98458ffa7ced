"""secrets.env is read as systemd 252 reads an EnvironmentFile; no message ever shows a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lab.secrets import parse_secrets, secret_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("  A = 1  \n", {"A": "1"}),
        ("A=a b  c \n", {"A": "a b  c"}),
        ("A=x # no comment\n", {"A": "x # no comment"}),
        ("# c\n; c\n\nA=1\n", {"A": "1"}),
        ("A=\n", {"A": ""}),
        ("A=1\nA=2\n", {"A": "2"}),
        ('A="x y"\n', {"A": "x y"}),
        ("A='x \"y\" \\n'\n", {"A": 'x "y" \\n'}),
        ('A="a\\"b\\$c\\\\d\\e"\n', {"A": 'a"b$c\\d\\e'}),
        ('A="a" "b"\n', {"A": "ab"}),
        ("A='a'b\n", {"A": "ab"}),
        ('A=a"b"\n', {"A": 'a"b"'}),
        ("A=a\\ b\\\\c\n", {"A": "a b\\c"}),
        ("A=a\\\nb\n", {"A": "ab"}),
        ("A=x=y==\n", {"A": "x=y=="}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("# c \\\nA=1\nB=2\n", {"B": "2"}),
        ("no assignment\nA=1\n", {"A": "1"}),
        ('="\nB=1\n', {"B": "1"}),
        ("A=\\\n é=\n", {"A": " é="}),
        ('A="x\\', {"A": "x"}),
        ("1A=x\nexport B=y\n", {}),
    ],
)
def test_values(text: str, values: dict[str, str]) -> None:
    assert secret_values(text) == values


@pytest.mark.parametrize(
    ("text", "line", "column", "part"),
    [
        ("A=1\n  hunter2\n", 2, 3, "no `NAME=value`"),
        ("hunter2-x=y\n", 1, 1, "no variable name"),
        ("export A=hunter2\n", 1, 1, "`export`"),
        ("A=1\nB='hunter2\nC=2\n", 2, 3, "never closed"),
        ('A="hunter2\nx"\n', 1, 1, "more than one line"),
        ("A=1\n# c \\\nB=hunter2\n", 2, 1, "skips the next line"),
    ],
)
def test_bad_lines_have_a_place_and_no_value(text: str, line: int, column: int, part: str) -> None:
    bad = parse_secrets(text).bad
    assert (bad[0].line, bad[0].column) == (line, column)
    assert part in bad[0].message and bad[0].hint
    assert "hunter2" not in repr(bad)


@given(st.text(alphabet="A=\"'\\ \n#;é\t", max_size=60))
def test_any_text_is_read(text: str) -> None:
    read = parse_secrets(text)
    assert all(secret.name.isidentifier() for secret in read.secrets)
    assert all(1 <= bad.line <= text.count("\n") + 1 for bad in read.bad)


@given(st.from_regex(r"[A-Za-z0-9_/+=.:-]{0,60}", fullmatch=True))
def test_a_usual_key_comes_back_as_it_is(value: str) -> None:
    assert secret_values(f"KEY={value}\n") == {"KEY": value}
