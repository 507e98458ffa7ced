"""providers.yaml → providers, and what they say about the service behind them."""

from __future__ import annotations

from dataclasses import dataclass

from agent.lab.cursor import Section, Value
from agent.lab.grammar import base_url, has_credentials
from agent.lab.models import CONTEXT_MAX, read_models
from agent.lab.scope import Effectless, Scope
from agent.lab.tree import quoted
from agent.model.finding import Position, Severity
from agent.model.lab import Provider, ProviderStatus, ProviderType, RateLimit

LIMIT_MAX = 1_000_000_000
LAYERS_MAX = 10_000
THREADS_MAX = 4096

_DESCRIBES_PROVIDER = ("description", "notes", "docs", "features", "location", "tags", "tier")
_KEY_HINT = "put the key into secrets.env and the variable's name into `env_var`"
_PROVIDER_HINTS = {
    "api_key": _KEY_HINT,
    "key": _KEY_HINT,
    "token": _KEY_HINT,
    "url": "did you mean `base_url`?",
    "api_base": "did you mean `base_url`?",
    "enabled": "did you mean `status: active` or `status: disabled`?",
}

_HEALTH = Effectless(
    "each kind of backend is probed in the one way that is known not to load or interrupt it"
)
_HEALTH_CHECKS = Effectless(
    "a deploy and `labctl verify` probe every service; nothing polls these endpoints",
    "deadlines are in lab.yaml under `deploy:`",
)
_LIMITS = Effectless(
    "a limit without numbers limits nothing",
    "write `requests_per_minute` or `tokens_per_minute`",
)
_HARDWARE = Effectless(
    "nothing compares it with this host's GPU", "keep it as a comment", Severity.NOTE
)
_SERVICE_FILE = Effectless("labctl writes the unit itself", "see `units/`", Severity.NOTE)
_API_FORMAT = Effectless("the provider's `type` decides it", "remove it", Severity.NOTE)
_NO_SERVICE = Effectless(
    "only a local service that is inferred from this provider reads it",
    "set it in lab.yaml, under the service",
)


@dataclass(frozen=True, slots=True)
class ServiceHints:
    """Settings of the service behind a provider, and where each stands."""

    context: int | None = None
    slots: int | None = None
    threads: int | None = None
    gpu_layers: int | str | None = None
    args: tuple[str, ...] = ()
    places: tuple[tuple[str, Position], ...] = ()

    def place(self, key: str) -> Position | None:
        return next((at for name, at in self.places if name == key), None)


@dataclass(frozen=True, slots=True)
class ProviderDraft:
    """A provider before it is linked to its service."""

    provider: Provider
    hints: ServiceHints


def read_providers(root: Section) -> tuple[ProviderDraft, ...]:
    """The providers of a file; bad ones keep their name, so that references to it still hold."""
    root.quiet("version", "description", "notes", "metadata")
    root.without_effect("health_checks", "providers.yaml", _HEALTH_CHECKS)
    found = root.required("providers", "a mapping of provider names")
    drafts = tuple(_provider(key, value) for key, value in (found.entries() if found else ()))
    root.done()
    return drafts


def report_unused(scope: Scope, draft: ProviderDraft) -> None:
    """Say that no service reads a provider's settings."""
    for key, at in draft.hints.places:
        scope.without_effect(at, f"`{key}`", "a provider without an inferred service", _NO_SERVICE)


def _provider(key: Value, value: Value) -> ProviderDraft:
    section = value.section(key.at)
    section.quiet(*_DESCRIBES_PROVIDER)
    if not key.name.strip() or not key.name.isprintable():
        key.wrong("value", "holds a provider without a readable name")
    status_value = section.get("status")
    status = status_value.as_choice(ProviderStatus) if status_value else None
    status = status or ProviderStatus.ACTIVE
    type_value = section.required("type", "one of " + ", ".join(ProviderType))
    type_ = (type_value.as_choice(ProviderType) if type_value else None) or (
        ProviderType.OPENAI_COMPATIBLE
    )
    url = _base_url(section, status)
    provider = Provider(
        name=key.name,
        at=key.at,
        type=type_,
        base_url=url,
        status=status,
        models=read_models(section, type_),
        api_key_variable=_api_key(section, status),
        rate_limit=_rate_limit(section),
    )
    hints = _hints(section, type_)
    section.without_effect("health_endpoint", "providers", _HEALTH)
    section.without_effect("service_file", "providers", _SERVICE_FILE)
    section.without_effect("api_format", "providers", _API_FORMAT)
    section.without_effect("hardware_requirements", "providers", _HARDWARE)
    section.done(_PROVIDER_HINTS)
    return ProviderDraft(provider, hints)


def _base_url(section: Section, status: ProviderStatus) -> str:
    value = section.required("base_url", "write `base_url: http://127.0.0.1:PORT`")
    text = value.as_text(show=False) if value else None
    if value is None or text is None:
        return ""
    if has_credentials(text):
        value.wrong("value", "holds a user name or password", _KEY_HINT)
        return ""
    if status is not ProviderStatus.TEMPLATE and (bad := base_url(text)):
        value.wrong("value", f"is {quoted(text)}: {bad.message}", bad.hint)
        return ""
    return text.rstrip("/")


def _api_key(section: Section, status: ProviderStatus) -> str | None:
    value = section.get("env_var")
    needed = section.get("requires_api_key")
    wants = needed.as_flag() if needed else None
    if value is None and wants and status is ProviderStatus.ACTIVE:
        at = section.key_at("requires_api_key")
        message = f"`{section.value.path}` requires a key but has no `env_var`"
        section.scope.error("missing-key", at, message, _KEY_HINT)
    return value.as_variable() if value else None


def _rate_limit(section: Section) -> RateLimit:
    if not section.has("rate_limits"):
        return RateLimit()
    limits = section.subsection("rate_limits")
    limits.quiet("description", "notes")
    numbers: dict[str, int | None] = {}
    for key in ("requests_per_minute", "tokens_per_minute"):
        value = limits.get(key)
        numbers[key] = value.as_integer(1, LIMIT_MAX) if value else None
    limits.quiet("hourly", "daily", "details")
    if not any(numbers.values()):
        section.without_effect("rate_limits", "providers", _LIMITS)
    limits.done({"rpm": "write `requests_per_minute`", "tpm": "write `tokens_per_minute`"})
    return RateLimit(numbers["requests_per_minute"], numbers["tokens_per_minute"])


def _hints(section: Section, type_: ProviderType) -> ServiceHints:
    """What a provider's `configuration`, or vLLM's own keys, say about its service."""
    places: list[tuple[str, Position]] = []

    def number(part: Section, key: str, low: int, high: int) -> int | None:
        value = part.get(key)
        if value is None:
            return None
        places.append((key, part.key_at(key)))
        return value.as_integer(low, high)

    config = section.subsection("configuration")
    layers = number(config, "n_gpu_layers", -1, LAYERS_MAX)
    context = number(config, "n_ctx", 0, CONTEXT_MAX)
    slots = number(config, "n_parallel", 1, 1024)
    threads = number(config, "threads", 1, THREADS_MAX)
    threads = number(config, "n_threads", 1, THREADS_MAX) or threads
    config.quiet("description", "notes")
    config.done()
    args: list[str] = []
    length = number(section, "max_model_len", 1, CONTEXT_MAX)
    if length is not None:
        args += ["--max-model-len", str(length)]
    if share := section.get("gpu_memory_utilization"):
        places.append(("gpu_memory_utilization", section.key_at("gpu_memory_utilization")))
        fraction = share.as_number(0, 1, above=True)
        args += ["--gpu-memory-utilization", f"{fraction:g}"] if fraction is not None else []
    return ServiceHints(
        context=context or None,
        slots=slots,
        threads=threads,
        gpu_layers="all" if layers == -1 else layers,
        args=tuple(args) if type_ is ProviderType.VLLM else (),
        places=tuple(places),
    )
