"""The `services:` of lab.yaml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeVar

from agent.lab.cursor import Section, Value
from agent.lab.grammar import DAY_S, SERVICE_NAME, Bad, listen_host, memory_size
from agent.lab.models import CONTEXT_MAX
from agent.lab.providers import LAYERS_MAX, THREADS_MAX
from agent.lab.scope import Effectless
from agent.lab.tree import Scalar, quoted
from agent.model.lab import Reference, Service, ServiceKind

Read = TypeVar("Read")
SLOTS_MAX = 1024
_KINDS = {kind.value for kind in ServiceKind if kind is not ServiceKind.LITELLM}

# Settings that a kind has no way to take, and what does instead.
_IGNORED: dict[ServiceKind, dict[str, str]] = {
    ServiceKind.OLLAMA: {
        "model": "Ollama keeps its own models: `ollama pull NAME`",
        "model_name": "Ollama answers to the names that it has pulled",
        "gpu_layers": "write `options: {num_gpu: N}` at the model in providers.yaml",
        "threads": "write `options: {num_thread: N}` at the model in providers.yaml",
        "args": "`ollama serve` takes none; use `environment`",
        "api_key": "Ollama knows no key; keep it on loopback",
    },
    ServiceKind.LLAMACPP_PYTHON: {
        "slots": "it serves one request at a time; use `llamacpp-native` for parallel slots",
    },
    ServiceKind.LLAMACPP_NATIVE: {},
    ServiceKind.VLLM: {
        "gpu_layers": "vLLM holds the whole model on the GPU",
        "threads": "write `environment: {OMP_NUM_THREADS: N}`",
        "slots": "write `args: [--max-num-seqs, N]`",
    },
}


@dataclass(frozen=True, slots=True)
class Places:
    """What relative paths and `~` of a lab stand for. Both absolute."""

    directory: str
    home: str

    def resolve(self, text: str) -> str | Bad:
        """A path as written → absolute; links are not followed."""
        if text == "~" or text.startswith("~/"):
            return str(PurePosixPath(self.home) / text[2:])
        if text.startswith("~"):
            return Bad("the home of another user", "write the path out")
        return str(PurePosixPath(self.directory) / text)

    def program(self, text: str) -> str | Bad:
        if "/" not in text and text != "~":
            return Bad("a bare name", "write a path, or leave `program` out to look on PATH")
        return self.resolve(text)


@dataclass(frozen=True, slots=True)
class ServiceDraft:
    """A declared service and the provider that it names."""

    service: Service
    provider: Reference | None


def read_services(value: Value | None, places: Places) -> tuple[ServiceDraft, ...]:
    drafts = (_service(key, item, places) for key, item in (value.entries() if value else ()))
    return tuple(draft for draft in drafts if draft is not None)


def _service(key: Value, value: Value, places: Places) -> ServiceDraft | None:
    section = value.section(key.at)
    kind = _kind(key, section)
    if kind is None:
        return None
    provider = get(section, "provider", Value.as_reference)
    service = Service(
        name=key.name,
        at=key.at,
        kind=kind,
        port=get(section, "port", as_port) or kind.default_port,
        host=get(section, "host", lambda v: v.as_parsed(listen_host)) or "127.0.0.1",
        enabled=flag(section, "enabled", True),
        required=flag(section, "required", True),
        program=get(section, "program", lambda v: v.as_parsed(places.program)),
        model_file=get(section, "model", lambda v: _model_file(v, kind, places)),
        model_name=get(section, "model_name", Value.as_text),
        context=get(section, "context", lambda v: v.as_integer(1, CONTEXT_MAX, " tokens")),
        slots=get(section, "slots", lambda v: v.as_integer(1, SLOTS_MAX)),
        threads=get(section, "threads", lambda v: v.as_integer(1, THREADS_MAX)),
        gpu_layers=_gpu_layers(section),
        environment=read_environment(section),
        args=_args(section),
        exclusive=get(section, "exclusive", lambda v: v.as_parsed(_group_name)),
        memory_max=get(section, "memory_max", as_memory),
        api_key_variable=get(section, "api_key", Value.as_variable),
        exposed=flag(section, "exposed", False),
        start_timeout_s=get(section, "start_timeout", lambda v: v.as_seconds(1, DAY_S)),
    )
    section.quiet("description", "notes")
    section.done({"models": "did you mean `model`?", "gpu": "did you mean `gpu_layers`?"})
    return ServiceDraft(_without_ignored(service, section), provider)


def _kind(key: Value, section: Section) -> ServiceKind | None:
    """What program a service is: its `kind`, or its name where that is one."""
    name = key.name
    written = section.get("kind")
    kind = written.as_choice(ServiceKind) if written else None
    if name == ServiceKind.LITELLM or kind is ServiceKind.LITELLM:
        hint = "move its settings to `gateway:` at the top level"
        key.wrong("value", f"holds {quoted(name)}: the gateway is not one of the services", hint)
        return None
    if not SERVICE_NAME.fullmatch(name):
        hint = "lower-case letters, digits and `-`, beginning with a letter, at most 41"
        key.wrong("value", f"holds {quoted(name)}: it cannot name a unit", hint)
    if written is not None:
        return kind
    if name in _KINDS:
        return ServiceKind(name)
    message = f"`{section.value.path}` has no `kind`, and its name is none"
    hint = f"write `kind:` and one of {', '.join(sorted(_KINDS))}"
    section.scope.error("missing-key", key.at, message, hint)
    return None


def _without_ignored(service: Service, section: Section) -> Service:
    """Report and drop the settings that this kind has no way to take."""
    given = [key for key in _IGNORED[service.kind] if section.has(key)]
    for key in given:
        why = Effectless(f"{service.kind} has no way to take it", _IGNORED[service.kind][key])
        section.without_effect(key, f"a service of kind `{service.kind}`", why)
    return replace(
        service,
        model_file=None if "model" in given else service.model_file,
        model_name=None if "model_name" in given else service.model_name,
        slots=None if "slots" in given else service.slots,
        threads=None if "threads" in given else service.threads,
        gpu_layers=None if "gpu_layers" in given else service.gpu_layers,
        args=() if "args" in given else service.args,
        api_key_variable=None if "api_key" in given else service.api_key_variable,
    )


def as_port(value: Value) -> int | None:
    return value.as_integer(1, 65535)


def as_memory(value: Value) -> str | None:
    """A memory limit; a bare number is bytes, as in systemd."""
    if isinstance(value.node, Scalar) and type(value.node.value) is int:
        number = value.as_integer(1 << 20, 1 << 50, " bytes; write `24G`")
        return None if number is None else str(number)
    return value.as_parsed(memory_size)


def read_environment(section: Section) -> tuple[tuple[str, str], ...]:
    """`environment:` → sorted pairs. Values never stand in a message."""
    value = section.get("environment")
    pairs: dict[str, str] = {}
    for key, item in value.entries() if value else ():
        literal = item.as_literal()
        if not key.name.isascii() or not key.name.isidentifier():
            key.wrong("value", f"holds {quoted(key.name)}: that is no name of a variable")
        elif key.name.startswith("LABCTL_"):
            hint = "choose another name"
            key.wrong("value", f"holds {quoted(key.name)}: LABCTL_ names are labctl's own", hint)
        elif literal is not None:
            pairs[key.name] = literal
    return tuple(sorted(pairs.items()))


def _args(section: Section) -> tuple[str, ...]:
    value = section.get("args")
    read = (item.as_literal() for item in (value.items() if value else ()))
    return tuple(word for word in read if word is not None)


def _model_file(value: Value, kind: ServiceKind, places: Places) -> str | None:
    text = value.as_text()
    if text is not None and kind is ServiceKind.VLLM and not text.startswith(("/", "~", ".")):
        return text  # a name on the model hub, which vLLM resolves itself
    return None if text is None else value.as_parsed(places.resolve)


def _gpu_layers(section: Section) -> int | str | None:
    value = section.get("gpu_layers")
    if value is None:
        return None
    node = value.node
    if isinstance(node, Scalar) and node.value in ("auto", "all"):
        return str(node.value)
    if isinstance(node, Scalar) and type(node.value) is int and node.value != -1:
        return value.as_integer(0, LAYERS_MAX)
    shown = quoted(node.literal) if isinstance(node, Scalar) else "no scalar"
    value.wrong("value", f"is {shown}: no number of layers", "write a count, `auto` or `all`")
    return None


def _group_name(text: str) -> str | Bad:
    if SERVICE_NAME.fullmatch(text):
        return text
    return Bad("no name of a group", "lower-case letters, digits and `-`, such as `gpu0`")


def flag(section: Section, key: str, default: bool) -> bool:
    read = get(section, key, Value.as_flag)
    return default if read is None else read


def get(section: Section, key: str, read: Callable[[Value], Read | None]) -> Read | None:
    value = section.get(key)
    return read(value) if value else None
