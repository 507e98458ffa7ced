"""What is written is read back the same; what was damaged is named, never a traceback."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deploy.codec import decode, encode
from agent.model.errors import StoreDamaged, UsageProblem
from agent.model.generation import (
    CompletionSpec,
    FileEntry,
    GenerationKind,
    GroupSpec,
    HostFile,
    Judgement,
    JudgeSettings,
    Link,
    Manifest,
    Record,
    ServiceSpec,
    Standing,
)
from agent.model.kinds import ServiceKind

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.lists(texts, max_size=3).map(tuple)
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
finite = st.floats(0, 1e6, allow_nan=False)
numbers = st.integers(0, 2**40)
services = st.builds(
    ServiceSpec,
    name=texts,
    unit=texts,
    kind=st.none() | st.sampled_from(ServiceKind),
    active=st.booleans(),
    required=st.booleans(),
    host=texts,
    port=st.none() | st.integers(1, 65535),
    inputs=texts,
    components=pairs,
    serves=words,
    api_key_variable=st.none() | texts,
    model_file=st.none() | texts,
    start_timeout_s=finite,
    listens=st.lists(st.integers(1, 65535), max_size=2).map(tuple),
)
manifests = st.builds(
    Manifest,
    number=numbers,
    created_at=texts,
    kind=st.sampled_from(GenerationKind),
    reason=texts,
    digest=texts,
    files=st.lists(st.builds(FileEntry, texts, texts, numbers, st.booleans())).map(tuple),
    links=st.lists(st.builds(Link, texts, texts), max_size=2).map(tuple),
    host_files=st.lists(st.builds(HostFile, texts, texts, numbers), max_size=2).map(tuple),
    services=st.lists(services, max_size=2).map(tuple),
    groups=st.lists(st.builds(GroupSpec, texts, words, st.booleans(), words), max_size=2).map(
        tuple
    ),
    completions=st.lists(st.builds(CompletionSpec, texts, texts, texts), max_size=2).map(tuple),
    judge=st.builds(JudgeSettings, finite, finite, finite),
    restores=st.none() | numbers,
    lab=texts,
    git_commit=st.none() | texts,
    labctl_version=texts,
    format=st.just(1),
)
judgements = st.builds(Judgement, st.sampled_from(Standing), texts, words)
records = st.builds(
    Record, numbers, numbers, numbers, texts, texts, words, st.booleans(), st.just(1)
)

RECORD = Record(1, 2, 1, "deploy", "2026-01-01T00:00:00+00:00")
MANIFEST = Manifest(1, "2026-01-01T00:00:00+00:00", GenerationKind.DEPLOY, "why", "digest")


@given(manifests)
def test_manifests_come_back(manifest: Manifest) -> None:
    assert decode(Manifest, encode(manifest), "") == manifest


@given(judgements, records)
def test_judgements_and_records_come_back(judgement: Judgement, record: Record) -> None:
    assert decode(Judgement, encode(judgement), "") == judgement
    assert decode(Record, encode(record), "") == record


def test_people_can_read_what_is_written() -> None:
    assert encode(replace(RECORD, running_before=("web.service",))).decode() == (
        "{\n"
        ' "previous": 1,\n'
        ' "target": 2,\n'
        ' "fallback": 1,\n'
        ' "verb": "deploy",\n'
        ' "started_at": "2026-01-01T00:00:00+00:00",\n'
        ' "running_before": [\n'
        '  "web.service"\n'
        " ],\n"
        ' "keep_target": false,\n'
        ' "format": 1\n'
        "}\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 400,
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"previous": "\xff"}',
        b"[" * 100_000,
        encode(RECORD)[:-4],
        encode(RECORD) + encode(RECORD),
        encode(RECORD).replace(b'"target": 2', b'"target": "2"'),
        encode(RECORD).replace(b'"target": 2', b'"target": 2.5'),
        encode(RECORD).replace(b'"target": 2', b'"target": null'),
        encode(RECORD).replace(b'"keep_target": false', b'"keep_target": "no"'),
        encode(RECORD).replace(b'"target": 2,', b""),
        encode(RECORD).replace(b'"format": 1', b'"format": 2'),
    ],
    ids=str,
)
def test_a_damaged_record_is_named(data: bytes) -> None:
    with pytest.raises(StoreDamaged, match=r"record\.json") as raised:
        decode(Record, data, "record.json")
    assert raised.value.hint


@given(st.data())
def test_no_damage_to_a_manifest_is_a_traceback(data: st.DataObject) -> None:
    """Any byte changed, cut or put in gives a manifest or the one error, never another."""
    whole = encode(MANIFEST)
    at = data.draw(st.integers(0, len(whole) - 1))
    until = data.draw(st.integers(at, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=4)) + whole[until:]
    try:
        manifest = decode(Manifest, damaged, "manifest")
    except StoreDamaged:
        return
    assert isinstance(manifest.number, int)
    assert isinstance(manifest.kind, GenerationKind)
    assert isinstance(manifest.files, tuple)


@pytest.mark.parametrize("value", ["no-such-kind", 7, None, ["deploy"]])
def test_a_kind_that_does_not_exist_is_damage(value: object) -> None:
    document = json.loads(encode(MANIFEST)) | {"kind": value}
    with pytest.raises(StoreDamaged):
        decode(Manifest, json.dumps(document).encode(), "manifest")


def test_another_format_says_what_to_do() -> None:
    with pytest.raises(StoreDamaged, match="has format 2") as raised:
        decode(Manifest, encode(replace(MANIFEST, format=2)), "000001")
    assert "another version of labctl" in raised.value.hint


def test_text_that_is_not_utf_8_is_refused_by_name() -> None:
    with pytest.raises(UsageProblem, match="not UTF-8"):
        encode(replace(MANIFEST, reason="\udcff"))
