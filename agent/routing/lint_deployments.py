"""What is wrong with single entries of a `model_list`."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from agent.routing.lint_nodes import Node, Problem
from agent.routing.litellm_keys import LITELLM_PARAMS, PASSED_ON
from agent.routing.names import did_you_mean

# Sent on to Ollama as `options`: that is what they are written for.
OLLAMA_OPTIONS = frozenset(
    [
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "use_mmap",
        "use_mlock",
        "num_thread",
        "num_keep",
        "num_predict",
        "min_p",
        "typical_p",
        "tfs_z",
        "repeat_last_n",
        "repeat_penalty",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "numa",
        "low_vram",
        "penalize_newline",
        "vocab_only",
    ]
)

_NEEDS_PATH = frozenset({"openai", "hosted_vllm", "vllm", "text-completion-openai"})


def lint_deployment(entry: Node) -> Iterator[Problem]:
    """Problems of one deployment."""
    params = entry.get("litellm_params")
    if entry.get("model_name") is None or params is None:
        message = "a deployment needs `model_name` and `litellm_params`"
        yield Problem("missing-key", entry.at, message, "LiteLLM refuses to start")
        return
    model = params.get("model")
    provider = _provider(params, model.text if model is not None else "")
    yield from _address_and_key(params, provider)
    yield from _ollama(entry, params, provider)
    yield from _keys(params, provider)
    for key, value in params.pairs():
        if value.text.startswith("${"):
            why = "LiteLLM sends it as it stands; it expands no `${}`"
            message = f"`{key.text}: {value.text}` is no reference"
            yield Problem("env-ref", value.at, message, why, "write `os.environ/NAME`")


def _provider(params: Node, model: str) -> str:
    named = params.get("custom_llm_provider")
    return named.text if named is not None else model.split("/", 1)[0]


def _address_and_key(params: Node, provider: str) -> Iterator[Problem]:
    base, key = params.get("api_base"), params.get("api_key")
    if base is None or provider not in _NEEDS_PATH:
        return
    if urlsplit(base.text).path in ("", "/"):
        message = f"`api_base: {base.text}` has no `/v1`"
        why = "llama-cpp-python and vLLM answer 404 to every completion"
        yield Problem("missing-v1", base.at, message, why, f"write `{base.text.rstrip('/')}/v1`")
    if provider == "openai" and (key is None or not key.text):
        message = f"no `api_key` for the backend at `{base.text}`"
        why = (
            "without OPENAI_API_KEY every request fails with 500 and nothing reaches the backend;"
            " with it, the backend is sent the real key"
        )
        yield Problem("no-credential", base.at, message, why, "write `api_key: not-needed`")


def _ollama(entry: Node, params: Node, provider: str) -> Iterator[Problem]:
    model, info = params.get("model"), entry.get("model_info")
    mode = info.get("mode") if info is not None else None
    embeds = mode is not None and mode.text == "embedding"
    if provider == "ollama" and model is not None and not embeds:
        message = f"`{model.text}` uses /api/generate with a generic prompt"
        why = "the model's own chat template is not used, and tools do not work"
        hint = f"write `ollama_chat/{model.text.split('/', 1)[-1]}`"
        yield Problem("ollama-generate", model.at, message, why, hint)
    body = params.get("extra_body")
    options = body.get("options") if body is not None else None
    if provider.startswith("ollama") and options is not None:
        message = "`extra_body.options` replaces all options of a request"
        why = "`max_tokens` and `temperature` of the client vanish"
        yield Problem("options-override", options.at, message, why, "write them as parameters")
        for key, _ in options.pairs():
            if key.text == "num_gpu_layers":
                why = "Ollama ignores options that it does not know"
                message = "Ollama has no option `num_gpu_layers`"
                yield Problem("unknown-param", key.at, message, why, "it is called `num_gpu`")


def _keys(params: Node, provider: str) -> Iterator[Problem]:
    """Keys that LiteLLM does not know: it forwards them in the request's body."""
    known = LITELLM_PARAMS | PASSED_ON
    passed = OLLAMA_OPTIONS if provider.startswith("ollama") else frozenset()
    for key, _ in params.pairs():
        name = key.text
        if name in known or name in passed or "cost" in name or "_per_" in name:
            continue
        message = f"LiteLLM does not know the parameter `{name}`"
        why = "it is sent to the backend in the body of every request"
        hint = did_you_mean(name, sorted(known | passed))
        yield Problem("unknown-param", key.at, message, why, hint)
