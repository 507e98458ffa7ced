"""A lab of two real llama-servers in one chain, without a gateway: it deploys in two seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.host.light_host import CHECKOUT, LightHost
from tests.host.tiny_gguf import write_tiny_model

LAB = ".config/labctl"
STATE = ".local/state/labctl"
MASTER_KEY = "sk-this-value-must-never-be-shown"

LAB_YAML = """\
version: 1
services:
  alpha: {{kind: llamacpp-native, provider: alpha, port: 8080, model: ~/models/alpha.gguf,
          context: 512, slots: {alpha}, start_timeout: 60s{alpha_more}}}
  beta: {{kind: llamacpp-native, provider: beta, port: 8081, model: ~/models/beta.gguf,
         context: 512, slots: {beta}, start_timeout: 60s{beta_more}}}
gateway: {{enabled: false}}
deploy: {{soak: {soak}, stall_timeout: 20s}}
"""
PROVIDERS = """\
providers:
  alpha: {type: llama_cpp, base_url: "http://127.0.0.1:8080", status: active, models: [alpha]}
  beta: {type: llama_cpp, base_url: "http://127.0.0.1:8081", status: active, models: [beta]}
"""
MAPPINGS = """\
exact_matches:
  alpha: {provider: alpha}
  beta: {provider: beta}
fallback_chains:
  alpha: {chain: [beta]}
  beta: {chain: []}
"""


def write_models(host: LightHost) -> None:
    for seed, name in enumerate(("alpha", "beta"), start=1):
        made = write_tiny_model(host.home.parent / f"{name}.gguf", name, seed)
        host.write(f"models/{name}.gguf", made.read_bytes())
        made.unlink()


def write_lab(
    host: LightHost,
    *,
    alpha: int = 1,
    beta: int = 1,
    alpha_more: str = "",
    beta_more: str = "",
    soak: str = "0.2s",
) -> None:
    """`alpha` and `beta` are parallel slots; `..._more` is appended to a service's mapping."""
    text = LAB_YAML.format(
        alpha=alpha, beta=beta, alpha_more=alpha_more, beta_more=beta_more, soak=soak
    )
    host.write(f"{LAB}/lab.yaml", text)
    host.write(f"{LAB}/providers.yaml", PROVIDERS)
    host.write(f"{LAB}/model-mappings.yaml", MAPPINGS)
    host.write(f"{LAB}/secrets.env", f"LITELLM_MASTER_KEY={MASTER_KEY}\n", mode=0o600)


def whole(host: LightHost) -> tuple[int | None, list[str]]:
    """(current generation, every way in which the host is not wholly that generation)."""
    done = host.run(
        sys.executable,
        *("-m", "tests.integration.whole"),
        env={"PYTHONPATH": CHECKOUT, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    answer = json.loads(done.stdout)
    return answer["current"], answer["troubles"]


def assert_whole(host: LightHost, generation: int) -> None:
    assert whole(host) == (generation, [])


def pids(host: LightHost) -> dict[str, int]:
    """Service → main PID, as status tells them."""
    done = host.labctl("status", "--json")
    return {row["name"]: row["pid"] for row in json.loads(done.stdout)["services"]}


def outcome(stdout: str) -> dict[str, object]:
    """The last object of a `--json` stream."""
    last = json.loads(stdout.splitlines()[-1])
    assert isinstance(last, dict)
    return last


def deployed(host: LightHost, path: str) -> Path:
    """A file of the current generation, seen from outside."""
    state = host.home / STATE
    return state / (state / "current").readlink() / path
