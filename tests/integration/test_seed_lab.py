"""The corrected seed lab, deployed: a real user's routing files as they are.

LiteLLM and both llama.cpp servers are real. Ollama is the stand-in; vLLM is not installed, and
its service may be down; the clouds are out of reach.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.host.demo_lab import ask
from tests.host.light_host import CHECKOUT, LightHost
from tests.integration.two_servers import assert_whole, outcome, write_models

SEED = Path(__file__).resolve().parents[1] / "data" / "seed"
KEY = "sk-seed-lab"
LAB_YAML = """\
version: 1
services:
  ollama: {program: ~/bin}
  llamacpp-python: {provider: llama_cpp_python, model: ~/models/alpha.gguf, context: 512}
  llamacpp-native: {provider: llama_cpp_native, model: ~/models/beta.gguf, context: 512}
  vllm: {provider: vllm-qwen, required: false}
deploy: {soak: 1s}
"""
OLLAMA_MODELS = "llama3.1:latest qwen2.5-coder:7b mythomax-l2-13b-q5_k_m"


def _write_release(host: LightHost, release: str) -> None:
    for name in ("providers.yaml", "model-mappings.yaml"):
        host.write(f".config/labctl/{name}", (SEED / release / name).read_bytes())


@pytest.fixture
def seed(host: LightHost) -> LightHost:
    write_models(host)
    stand_in = f"{CHECKOUT}/tests/host/ollama_standin.py"
    host.write("bin/ollama", f'#!/bin/sh\nexec python3 {stand_in} "$@"\n', mode=0o755)
    host.write(".ollama/stand-in-models", OLLAMA_MODELS)
    host.write(".config/labctl/lab.yaml", LAB_YAML)
    secrets = f"LITELLM_MASTER_KEY={KEY}\nOLLAMA_API_KEY=no-cloud-is-reached\n"
    host.write(".config/labctl/secrets.env", secrets, mode=0o600)
    return host


def test_the_seed_lab_is_refused_until_corrected_and_then_serves(seed: LightHost) -> None:
    for release, named in (
        ("v1.7.1-broken", ("llama-cpp-default", "llama-cpp-native")),
        ("v1.7.1.1-hotfixed", ("llama_cpp_python",)),
    ):
        _write_release(seed, release)
        refused = seed.labctl("deploy")
        assert refused.returncode == 78
        assert all(name in refused.stderr for name in named)
    _write_release(seed, "v1.7.1.1-corrected")
    done = seed.labctl("deploy", "--json", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    last = outcome(done.stdout)
    assert last["outcome"] == "degraded"
    weaker = last["weaker"]
    assert isinstance(weaker, list)
    assert any(line.startswith("qwen-coder-vllm: without vllm") for line in weaker)
    samples = json.loads(seed.labctl("verify", "--json").stdout)["samples"]
    proved = {s["subject"] for s in samples if s["probe"] == "completion"}
    assert {*OLLAMA_MODELS.split(), "llama-cpp-default", "llama-cpp-native"} <= proved
    assert ask(seed, "chat", KEY) == ("http://127.0.0.1:11434", "llama3.1:latest says ok")
    # vLLM is down and the clouds are out of reach: its chain ends at a model of this host.
    base, text = ask(seed, "qwen-coder-vllm", KEY)
    assert base.startswith("http://127.0.0.1:")
    assert text
    assert_whole_but_vllm(seed)


def assert_whole_but_vllm(seed: LightHost) -> None:
    shown = json.loads(seed.labctl("status", "--json").stdout)
    health = {row["name"]: row["healthy"] for row in shown["services"]}
    assert health.pop("vllm") is False
    assert all(health.values())
    assert shown["healthy"] is True


def test_a_stopped_ollama_fails_the_deploy_and_says_so(seed: LightHost) -> None:
    """A required service that cannot start: the first deploy goes back to what was there."""
    _write_release(seed, "v1.7.1.1-corrected")
    seed.write("bin/ollama", "#!/bin/sh\necho cannot start >&2\nexit 7\n", mode=0o755)
    failed = seed.labctl("deploy", timeout=300)
    assert failed.returncode == 10, failed.stdout + failed.stderr
    assert "ollama.service" in failed.stdout
    assert "exit status 7" in failed.stdout
    assert "cannot start" in failed.stdout
    assert_whole(seed, 0)
