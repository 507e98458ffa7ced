"""Model files on a disk: split ones, wrong ones, and one of 40 GB."""

from __future__ import annotations

import os
import time
from pathlib import Path

import gguf
import pytest

from agent.cli.model_facts import read_model
from agent.gpu.gguf_cursor import DamagedGguf
from agent.model.errors import DiskFailure
from tests.host.synthetic_gguf import RECIPES, tensors, write_model
from tests.unit.gpu import gguf_bytes

RECIPE = {recipe.name: recipe for recipe in RECIPES}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The first of four parts."""
    write_model(tmp_path / "small.gguf", RECIPE["llama-f32"], most_tensors=16)
    return tmp_path / "small-00001-of-00004.gguf"


@pytest.mark.parametrize("name", RECIPE)
def test_reads_what_the_public_writer_wrote(name: str, tmp_path: Path) -> None:
    recipe = RECIPE[name]
    path = write_model(tmp_path / "m.gguf", recipe)
    facts = read_model(str(path))
    assert (facts.name, facts.architecture) == (recipe.name, recipe.architecture)
    assert facts.block_count == recipe.layers
    assert facts.vocabulary == recipe.vocabulary
    assert facts.tied == recipe.tied
    assert {t.name: t.shape for t in facts.tensors} == dict(tensors(recipe))
    assert facts.file_bytes == path.stat().st_size
    reader = gguf.GGUFReader(path)
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors}
    assert {tensor.name: tensor.size_bytes for tensor in facts.tensors} == sizes


def test_a_split_model_is_one_model(split: Path, tmp_path: Path) -> None:
    whole = read_model(str(write_model(tmp_path / "whole.gguf", RECIPE["llama-f32"])))
    facts = read_model(str(split))
    assert facts.files == 4
    assert facts.file_bytes == sum(p.stat().st_size for p in tmp_path.glob("small-*.gguf"))
    assert sorted(t.name for t in facts.tensors) == sorted(t.name for t in whole.tensors)
    assert facts.layers == whole.layers


def test_a_link_to_a_split_model_finds_its_parts(split: Path, tmp_path: Path) -> None:
    link = tmp_path / "links/current.gguf"
    link.parent.mkdir()
    link.symlink_to(split)
    assert read_model(str(link)).files == 4


def test_a_later_part_is_no_model(split: Path) -> None:
    second = split.with_name("small-00002-of-00004.gguf")
    with pytest.raises(DamagedGguf, match="not the first part") as caught:
        read_model(str(second))
    assert "-00001-of-00004.gguf" in caught.value.hint


def test_a_missing_part_is_named(split: Path) -> None:
    split.with_name("small-00003-of-00004.gguf").unlink()
    with pytest.raises(DiskFailure, match=r"small-00003-of-00004\.gguf: No such file"):
        read_model(str(split))


def test_a_part_of_another_place_is_refused(split: Path) -> None:
    third = split.with_name("small-00003-of-00004.gguf")
    split.with_name("small-00002-of-00004.gguf").replace(third)
    split.with_name("small-00004-of-00004.gguf").replace(
        split.with_name("small-00002-of-00004.gguf")
    )
    with pytest.raises(DamagedGguf, match="is not part 2 of 4"):
        read_model(str(split))


def test_a_renamed_first_part_is_refused(split: Path) -> None:
    renamed = split.with_name("model.gguf")
    split.replace(renamed)
    with pytest.raises(DamagedGguf, match="its name does not say so"):
        read_model(str(renamed))


def test_a_part_of_another_model_is_refused(split: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_model(other / "small.gguf", RECIPE["mamba"], most_tensors=16)
    (other / "small-00004-of-00004.gguf").replace(split.with_name("small-00004-of-00004.gguf"))
    with pytest.raises(DamagedGguf):
        read_model(str(split))


def test_no_file_a_folder_and_a_pipe_are_no_models(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (("absent", "No such file"), ("", "it is no file"), ("pipe", "it is no")):
        with pytest.raises(DiskFailure, match=words):
            read_model(str(tmp_path / path))
    with pytest.raises(DiskFailure, match="null"):
        read_model("bad\0name")


def test_the_header_of_40_gb_takes_milliseconds(tmp_path: Path) -> None:
    """A vocabulary of 128,000 tokens with 280,000 merges before 722 tensors of 55 MB each."""
    path = tmp_path / "large.gguf"
    rows, row_bytes = 12_000, 4608
    infos = [
        gguf_bytes.info(f"blk.{n // 9}.t{n}.weight", (8192, rows), 12, n * rows * row_bytes)
        for n in range(722)
    ]
    head = gguf_bytes.header(
        [
            gguf_bytes.string("general.architecture", "llama"),
            gguf_bytes.u32("llama.block_count", 80),
            gguf_bytes.u32("llama.embedding_length", 8192),
            gguf_bytes.u32("llama.attention.head_count", 64),
            gguf_bytes.strings("tokenizer.ggml.tokens", [f"token{n}" for n in range(128_256)]),
            gguf_bytes.numbers("tokenizer.ggml.token_type", [1] * 128_256),
            gguf_bytes.strings("tokenizer.ggml.merges", [f"a{n} b{n}" for n in range(280_147)]),
        ],
        infos,
    )
    path.write_bytes(head)
    os.truncate(path, len(head) + 722 * rows * row_bytes)
    started = time.process_time()
    facts = read_model(str(path))
    took_s = time.process_time() - started
    assert facts.file_bytes > 39_000_000_000
    assert facts.vocabulary == 128_256
    assert took_s < 0.5  # measured: 0.04 s
