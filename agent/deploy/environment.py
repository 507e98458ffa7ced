"""What each backend reads from its environment, and how systemd reads it back. Pure.

The variables are those of `docs/` and the backends' own sources; units take everything from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from agent.model.lab import Service, ServiceKind

# The variable in which each backend expects the key that it shall demand of its clients.
KEY_VARIABLES = {
    ServiceKind.LLAMACPP_PYTHON: "API_KEY",
    ServiceKind.LLAMACPP_NATIVE: "LLAMA_API_KEY",
    ServiceKind.VLLM: "VLLM_API_KEY",
}


def backend_environment(service: Service, placed: Mapping[str, str]) -> dict[str, str]:
    """The variables of one backend, its own last, so that a lab has the last word.

    `placed` holds those that carry out its placement.
    """
    environment = {**dict(_VARIABLES[service.kind](service)), **placed}
    words = _vllm_words(service) if service.kind is ServiceKind.VLLM else ()
    environment["LABCTL_ARGS"] = join_args((*words, *service.args))
    environment.update(service.environment)
    return environment


def _ollama(service: Service) -> Iterable[tuple[str, str]]:
    yield "OLLAMA_HOST", f"{service.host}:{service.port}"
    if service.context is not None:
        yield "OLLAMA_CONTEXT_LENGTH", str(service.context)
    if service.slots is not None:
        yield "OLLAMA_NUM_PARALLEL", str(service.slots)


def _llamacpp_python(service: Service) -> Iterable[tuple[str, str]]:
    yield "HOST", service.host
    yield "PORT", str(service.port)
    # The server cuts a stream in progress when the next request comes, unless told not to.
    yield "INTERRUPT_REQUESTS", "false"
    if service.model_file is not None:
        yield "MODEL", service.model_file
    if service.model_name is not None:
        yield "MODEL_ALIAS", service.model_name
    if service.context is not None:
        yield "N_CTX", str(service.context)
    if service.threads is not None:
        yield "N_THREADS", str(service.threads)
    if service.gpu_layers is not None:
        # It knows no "auto": all layers, where the build has a GPU at all.
        named = isinstance(service.gpu_layers, str)
        yield "N_GPU_LAYERS", "-1" if named else str(service.gpu_layers)


def _llamacpp_native(service: Service) -> Iterable[tuple[str, str]]:
    yield "LLAMA_ARG_HOST", service.host
    yield "LLAMA_ARG_PORT", str(service.port)
    if service.model_file is not None:
        yield "LLAMA_ARG_MODEL", service.model_file
    if service.model_name is not None:
        yield "LLAMA_ARG_ALIAS", service.model_name
    if service.context is not None:
        yield "LLAMA_ARG_CTX_SIZE", str(service.context)
    if service.slots is not None:
        yield "LLAMA_ARG_N_PARALLEL", str(service.slots)
    if service.threads is not None:
        yield "LLAMA_ARG_THREADS", str(service.threads)
    if service.gpu_layers is not None:
        yield "LLAMA_ARG_N_GPU_LAYERS", str(service.gpu_layers)


def _vllm(service: Service) -> Iterable[tuple[str, str]]:
    yield "VLLM_NO_USAGE_STATS", "1"


def _vllm_words(service: Service) -> tuple[str, ...]:
    """vLLM takes its settings as words, the model first."""
    words = [service.model_file or service.model_name or ""]
    words += ["--host", service.host, "--port", str(service.port)]
    if service.model_name is not None:
        words += ["--served-model-name", service.model_name]
    if service.context is not None:
        words += ["--max-model-len", str(service.context)]
    return tuple(words)


_VARIABLES: Mapping[ServiceKind, Callable[[Service], Iterable[tuple[str, str]]]] = {
    ServiceKind.OLLAMA: _ollama,
    ServiceKind.LLAMACPP_PYTHON: _llamacpp_python,
    ServiceKind.LLAMACPP_NATIVE: _llamacpp_native,
    ServiceKind.VLLM: _vllm,
}


def environment_file(environment: Mapping[str, str]) -> str:
    """An `EnvironmentFile=` text: sorted, every value quoted as systemd reads it back."""
    lines = (f'{name}="{_escape(value)}"' for name, value in sorted(environment.items()))
    return "".join(f"{line}\n" for line in lines)


def _escape(value: str) -> str:
    return re.sub(r'(["\\`$])', r"\\\1", value)


def join_args(args: Iterable[str]) -> str:
    """Words for an unbraced `$LABCTL_ARGS`: systemd splits at spaces and honours quotes."""
    return " ".join(_quote(arg) for arg in args)


def _quote(word: str) -> str:
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'
