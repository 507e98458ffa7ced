"""The lab that the demo and the end-to-end tests deploy: two tiny models behind one gateway."""

from __future__ import annotations

from tests.host.light_host import LightHost
from tests.host.tiny_gguf import write_tiny_model

LAB = ".config/labctl"
MASTER_KEY = "sk-only-inside-a-throw-away-host"

LAB_YAML = """\
version: 1
services:
  llamacpp-python:
    port: 8000
    model: ~/models/{python_model}.gguf
    context: 512
  llamacpp-native:
    port: 8080
    model: ~/models/{native_model}.gguf
    context: 512
    slots: {slots}
    args: [{native_args}]
gateway:
  port: 4000
deploy:
  soak: 2s
"""

PROVIDERS = """\
providers:
  llama_python:
    type: llama_cpp
    base_url: http://127.0.0.1:8000
    status: active
    models: [alpha]
  llama_native:
    type: llama_cpp
    base_url: http://127.0.0.1:8080
    status: active
    models: [beta]
"""

MAPPINGS = """\
exact_matches:
  alpha: {{provider: llama_python}}
  beta: {{provider: llama_native}}
fallback_chains:
  alpha: {{chain: [{fallback}]}}
  beta: {{chain: []}}
"""

# Asks the gateway as any client would; prints who answered, and the text.
ASK = """\
import json, sys, urllib.request
body = {"model": sys.argv[1], "prompt": "Say something:", "max_tokens": 12, "temperature": 0}
headers = {"Authorization": "Bearer " + sys.argv[2], "Content-Type": "application/json"}
url = "http://127.0.0.1:4000/v1/completions"
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
with urllib.request.urlopen(request, timeout=60) as answer:
    text = json.load(answer)["choices"][0]["text"].strip()
    print(answer.headers["x-litellm-model-api-base"], text, sep="\\n")
"""


def write_models(host: LightHost) -> None:
    """Two models that load, and one that is whole in its header and cut off in its weights."""
    for seed, name in enumerate(("alpha", "beta"), start=1):
        made = write_tiny_model(host.home.parent / f"{name}.gguf", name, seed)
        data = made.read_bytes()
        made.unlink()
        host.write(f"models/{name}.gguf", data)
    host.write("models/damaged.gguf", data[: len(data) // 2])


def write_lab(
    host: LightHost,
    *,
    python_model: str = "alpha",
    native_model: str = "beta",
    fallback: str = "beta",
    slots: int = 2,
    native_args: str = "",
) -> None:
    """Write the lab's four files, as asked for. `native_args` are words for llama-server."""
    host.write(
        f"{LAB}/lab.yaml",
        LAB_YAML.format(
            python_model=python_model,
            native_model=native_model,
            slots=slots,
            native_args=native_args,
        ),
    )
    host.write(f"{LAB}/providers.yaml", PROVIDERS)
    host.write(f"{LAB}/model-mappings.yaml", MAPPINGS.format(fallback=fallback))
    host.write(f"{LAB}/secrets.env", f"LITELLM_MASTER_KEY={MASTER_KEY}\n", mode=0o600)


def ask(host: LightHost, model: str, key: str = MASTER_KEY) -> tuple[str, str]:
    """One completion through the gateway: the backend's address and the text."""
    lines = host.run("python3", "-c", ASK, model, key).stdout.splitlines()
    return lines[0], " ".join(lines[1:])
