"""The catalogue of llama.cpp models: the seed's as it is, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.lab.catalogue import check_claims, read_catalogue

SEED = Path(__file__).parents[2] / "data/seed"


@pytest.mark.parametrize("release", sorted(path.name for path in SEED.iterdir()))
def test_the_seed_is_read_as_it_is(release: str) -> None:
    read = read_catalogue((SEED / release / "llamacpp-models.yaml").read_bytes())
    assert read.findings == ()
    assert len(read.models) == 6
    model = read.named("llama-cpp-llama3.1")
    assert model is not None
    assert (model.layers, model.context, model.quantization) == (40, 131072, "Q4_K_M")
    assert model.places == (
        "Meta-Llama-3.1-8B-Instruct-Q4_K_M/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
    )


def test_what_the_seed_recommends_is_not_believed() -> None:
    read = read_catalogue((SEED / "v1.7" / "llamacpp-models.yaml").read_bytes())
    model = read.named("llama-cpp-llama3.1")
    assert model is not None
    assert check_claims(model, 41, 131072, "Q4_K_M") == ()
    layers, context, label = check_claims(model, 33, 8192, "Q4_K_S")
    assert str(layers.at) == "llamacpp-models.yaml:12:29"
    assert "is 40, but its file has 33 layers" in layers.message
    assert "131072, but its file was trained for 8192" in context.message
    assert "`Q4_K_M`, but its file is Q4_K_S" in label.message


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("", "x.yaml:1:1", "`models` is missing"),
        ("models: 5", "x.yaml:1:9", "must be a list"),
        ("models:\n- alias: a\n", "x.yaml:2:3", "has no `filename`"),
        ("models:\n- {alias: a, filename: ../b}", "x.yaml:2:24", "stay below the folder"),
        ("models:\n- {alias: a, filename: /b}", "x.yaml:2:24", "stay below the folder"),
        (
            "models:\n- {alias: a, filename: b, recommended_gpu_layers: -3}",
            "x.yaml:2:51",
            "outside 0 to",
        ),
        ("models:\n- {alias: a, filename: b, filname: c}", "x.yaml:2:27", "`filname`"),
        (
            "models:\n- {alias: a, filename: b}\n- {alias: a, filename: c}",
            "x.yaml:3:11",
            "twice, first on line 2",
        ),
        ("models: [", "x.yaml", "not YAML"),
        ("- a", "x.yaml:1:1", "must be a mapping"),
    ],
)
def test_every_mistake_has_its_place(text: str, at: str, words: str) -> None:
    findings = read_catalogue(text.encode(), "x.yaml").findings
    assert any(str(f.at).startswith(at) and words in f.message for f in findings), findings


def test_bytes_that_are_no_text() -> None:
    (finding,) = read_catalogue(b"models:\xff", "x.yaml").findings
    assert finding.rule == "encoding"
