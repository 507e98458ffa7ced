"""Which service is behind which provider; and the services that lab.yaml does not mention.

The decision for each local, active provider, in this order:

1. a service that names it with `provider:`;
2. a service of a fitting kind on the provider's port;
3. a service that has the name which would be inferred for it;
4. a new, inferred service, for the types that labctl has a unit for.
"""

from __future__ import annotations

from dataclasses import replace

from agent.lab.cursor import did_you_mean
from agent.lab.providers import ProviderDraft, report_unused
from agent.lab.scope import Scope
from agent.lab.services import ServiceDraft
from agent.lab.tree import quoted
from agent.model.finding import Finding, Severity
from agent.model.lab import Provider, ProviderType, Route, Service, ServiceKind

_LLAMA_CPP = frozenset({ServiceKind.LLAMACPP_PYTHON, ServiceKind.LLAMACPP_NATIVE})
_FITTING: dict[ProviderType, frozenset[ServiceKind]] = {
    ProviderType.OLLAMA: frozenset({ServiceKind.OLLAMA}),
    ProviderType.LLAMA_CPP: _LLAMA_CPP,
    ProviderType.VLLM: frozenset({ServiceKind.VLLM}),
    ProviderType.OPENAI_COMPATIBLE: _LLAMA_CPP | {ServiceKind.VLLM, ServiceKind.OLLAMA},
}
_ONLY_KIND = {ProviderType.OLLAMA: ServiceKind.OLLAMA, ProviderType.VLLM: ServiceKind.VLLM}
# A lab without lab.yaml often names the native server and vLLM before they are installed.
_REQUIRED_WHEN_INFERRED = frozenset({ServiceKind.OLLAMA, ServiceKind.LLAMACPP_PYTHON})


def link(
    drafts: tuple[ProviderDraft, ...],
    declared: tuple[ServiceDraft, ...],
    routes: tuple[Route, ...],
    scope: Scope,
    lab_scope: Scope,
) -> tuple[tuple[Provider, ...], tuple[Service, ...]]:
    """Providers with their service, and all services, declared ones first.

    `scope` and `lab_scope` take the findings of providers.yaml and lab.yaml.
    """
    _check_named(drafts, declared, lab_scope)
    services = {draft.service.name: draft.service for draft in declared}
    providers: list[Provider] = []
    for draft in drafts:
        provider = draft.provider
        service = _service_of(provider, declared) if provider.local else None
        kind = _inferred_kind(provider)
        if service is None and provider.active and kind is not None:
            service = services.get(_inferred_name(provider, kind, services))
            if service is None:
                service = _infer(draft, kind, services, scope)
                services[service.name] = service
        if provider.active and (service is None or service.declared):
            report_unused(scope, draft)
        providers.append(replace(provider, service=service.name if service else None))
    named = tuple(_with_model_name(s, tuple(providers), routes) for s in services.values())
    return tuple(providers), named


def _check_named(
    drafts: tuple[ProviderDraft, ...], declared: tuple[ServiceDraft, ...], scope: Scope
) -> None:
    """A `provider:` of a service must name one on this host."""
    known = {draft.provider.name: draft.provider for draft in drafts}
    for draft in declared:
        if draft.provider is None:
            continue
        name, at = draft.provider.name, draft.provider.at
        path = f"`services.{draft.service.name}.provider`"
        if name not in known:
            hint = did_you_mean(name, known) or "name a provider of providers.yaml"
            scope.error("value", at, f"{path} is {quoted(name)}, which is no provider", hint)
        elif not known[name].local:
            message = f"{path} is {quoted(name)}, which is not on this host"
            scope.error("value", at, message, "its base_url must be on 127.0.0.1 or localhost")


def _service_of(provider: Provider, declared: tuple[ServiceDraft, ...]) -> Service | None:
    """The declared service behind a local provider, by name, then by port."""
    for draft in declared:
        if draft.provider is not None and draft.provider.name == provider.name:
            return draft.service
    fitting = _FITTING.get(provider.type, frozenset())
    for draft in declared:
        service = draft.service
        if draft.provider is None and service.port == provider.port and service.kind in fitting:
            return service
    return None


def _inferred_kind(provider: Provider) -> ServiceKind | None:
    """What would have to run here for a provider to answer; None for what has no unit."""
    if not provider.local or provider.port is None:
        return None
    if provider.type is ProviderType.LLAMA_CPP:
        python = "native" not in provider.name and provider.port == 8000
        python = python or "python" in provider.name
        return ServiceKind.LLAMACPP_PYTHON if python else ServiceKind.LLAMACPP_NATIVE
    return _ONLY_KIND.get(provider.type)


def _inferred_name(provider: Provider, kind: ServiceKind, services: dict[str, Service]) -> str:
    """The kind's own name; a second service of that kind carries its port."""
    first = services.get(kind.value)
    if first is None or first.declared or first.port == provider.port:
        return kind.value
    return f"{kind.value}-{provider.port}"


def _infer(
    draft: ProviderDraft, kind: ServiceKind, services: dict[str, Service], scope: Scope
) -> Service:
    provider, hints = draft.provider, draft.hints
    slots = hints.slots
    at = hints.place("n_parallel")
    if kind is ServiceKind.LLAMACPP_PYTHON and at is not None:
        slots = None
        message = "`n_parallel` of a llama-cpp-python provider has no effect"
        why = "that server answers one request at a time"
        hint = "serve the model with llama-server for parallel slots"
        scope.findings.append(Finding("no-effect", Severity.WARNING, at, message, why, hint))
    models = provider.models
    return Service(
        name=_inferred_name(provider, kind, services),
        at=provider.at,
        kind=kind,
        port=provider.port or kind.default_port,
        host="::1" if provider.host == "::1" else "127.0.0.1",
        required=kind in _REQUIRED_WHEN_INFERRED,
        declared=False,
        model_file=models[0].name if kind is ServiceKind.VLLM and models else None,
        context=hints.context,
        slots=slots,
        threads=hints.threads,
        gpu_layers=hints.gpu_layers,
        args=hints.args,
    )


def _with_model_name(
    service: Service, providers: tuple[Provider, ...], routes: tuple[Route, ...]
) -> Service:
    """Give a one-model service the name that the gateway will ask it for, unless it has one."""
    if not service.kind.serves_one_model or service.model_name is not None:
        return service
    names: list[str] = []
    for provider in providers:
        if provider.service != service.name or not provider.active:
            continue
        asked = [r for r in routes if r.provider.name == provider.name]
        backend = [r.backend_model.name for r in asked if r.backend_model is not None]
        listed = [model.name for model in provider.models]
        names += listed[:1] if len(listed) == 1 else [*backend, *listed]
        names += [route.name for route in asked]
    return replace(service, model_name=names[0] if names else None)
