"""What `labctl check` says about services: ports, files, programs, secrets, exposure.

Each rule is one function. What a host lacks is an error for a lab that is meant for this host
(it has a lab.yaml, or is being deployed); a bare folder may describe another one, so there it is
a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.finding import Position, Severity
from agent.model.lab import Lab, Provider, Service, ServiceKind
from agent.model.rule import Complaint, Rule, Subject, rule

_WILDCARDS = "every address of this host"


@rule("port-clash", Severity.ERROR, "the second program to start finds the port taken and fails")
def port_clash(subject: Subject) -> Iterator[Complaint]:
    """Two enabled services share a port, or a provider calls another port than its service's."""
    lab = subject.lab
    owners: dict[int, str] = {}
    listeners = [(s.port, f"`{s.name}`", s.at) for s in lab.enabled_services]
    if lab.gateway.enabled:
        listeners.insert(0, (lab.gateway.port, "the gateway", lab.gateway.at))
    for port, name, at in listeners:
        first = owners.setdefault(port, name)
        if first != name:
            message = f"{name} and {first} both listen on port {port}"
            yield Complaint(_place(at, lab), message, "give one of them another port")
    for provider in _active_local(lab):
        service = lab.service(provider.service or "")
        if service is not None and service.port != provider.port:
            message = (
                f"provider `{provider.name}` calls port {provider.port}, "
                f"but its service `{service.name}` listens on {service.port}"
            )
            yield Complaint(provider.at, message, f"write `base_url: {_url(provider, service)}`")
        elif service is None and lab.gateway.enabled and provider.port == lab.gateway.port:
            message = f"provider `{provider.name}` is the gateway itself, on port {provider.port}"
            yield Complaint(provider.at, message, "a gateway that asks itself never answers")


@rule("missing-model-file", Severity.ERROR, "the service exits as soon as it is started")
def missing_model_file(subject: Subject) -> Iterator[Complaint]:
    """A service that serves one model names no model file, or one that is not there."""
    for service in subject.lab.enabled_services:
        if not service.kind.serves_one_model:
            continue
        severity = _severity(subject, service)
        if service.model_file is None:
            message = f"service `{service.name}` names no model file"
            hint = f"write `model: PATH` under `services.{service.name}` in lab.yaml"
            yield Complaint(service.at, message, hint, severity)
        elif service.model_file in subject.facts.missing_files:
            message = f"the model of `{service.name}` is not there: {service.model_file}"
            hint = "download it there, or write another `model:`"
            yield Complaint(service.at, message, hint, severity)


@rule("missing-program", Severity.ERROR, "systemd has nothing to start: status 203 or 127")
def missing_program(subject: Subject) -> Iterator[Complaint]:
    """The program of an enabled service is not installed, or not where lab.yaml says."""
    programs, lab = subject.facts.programs, subject.lab
    for service in lab.enabled_services:
        if service.name in programs and programs[service.name] is None:
            where = service.program or "PATH"
            message = f"no program for `{service.name}` ({service.kind}) in {where}"
            hint = f"{_install_hint(service.kind)}, or write `program: PATH`"
            yield Complaint(service.at, message, hint, _severity(subject, service))
    name = ServiceKind.LITELLM.value
    if lab.gateway.enabled and name in programs and programs[name] is None:
        message = f"no program for the gateway (litellm) in {lab.gateway.program or 'PATH'}"
        hint = f"{_install_hint(ServiceKind.LITELLM)}, or write `program: PATH` under `gateway:`"
        yield Complaint(_place(lab.gateway.at, lab), message, hint, _severity(subject, None))


@rule("missing-secret", Severity.ERROR, "the gateway refuses to start, or asks without a key")
def missing_secret(subject: Subject) -> Iterator[Complaint]:
    """A key that the lab names is not set in secrets.env."""
    lab = subject.lab
    wanted: list[tuple[str, Position, str, Severity]] = []
    if lab.gateway.enabled:
        at = _place(lab.gateway.at, lab)
        variable = lab.gateway.master_key_variable
        wanted.append((variable, at, "the gateway's master key", _severity(subject, None)))
    for provider in lab.providers:
        if provider.active and provider.api_key_variable is not None:
            of = f"the key of provider `{provider.name}`"
            wanted.append((provider.api_key_variable, provider.at, of, _severity(subject, None)))
    for service in lab.enabled_services:
        if service.api_key_variable is not None:
            of = f"the key of service `{service.name}`"
            severity = _severity(subject, service)
            wanted.append((service.api_key_variable, service.at, of, severity))
    for variable, at, what, severity in wanted:
        if variable not in (lab.secret_names or ()):
            lacks = "does not exist" if lab.secret_names is None else "does not set it"
            hint = f"write `{variable}=...` into {lab.secrets_at.file}, mode 0600"
            yield Complaint(at, f"{what}, `{variable}`: secrets.env {lacks}", hint, severity)


@rule("exposure", Severity.ERROR, "anybody on the network can use the models and this host's GPU")
def exposure(subject: Subject) -> Iterator[Complaint]:
    """Something listens beyond loopback without a key; a warning where the lab accepts it."""
    lab = subject.lab
    gateway = lab.gateway
    if gateway.enabled and not gateway.loopback:
        variable = gateway.master_key_variable
        if variable not in (lab.secret_names or ()):
            message = f"the gateway listens on {_listen(gateway.host)} without a master key"
            hint = f"set `{variable}` in secrets.env, or write `host: 127.0.0.1`"
            yield Complaint(_place(gateway.at, lab), message, hint)
    for service in lab.enabled_services:
        keyed = service.api_key_variable in (lab.secret_names or ())
        if service.loopback or (service.api_key_variable is not None and keyed):
            continue
        message = f"service `{service.name}` listens on {_listen(service.host)} without a key"
        if service.exposed:
            yield Complaint(service.at, message, "accepted by `exposed: true`", Severity.WARNING)
            continue
        hint = "write `host: 127.0.0.1`; the gateway reaches it there"
        if service.kind is not ServiceKind.OLLAMA:
            hint += ". Or name a key with `api_key: VARIABLE`"
        yield Complaint(service.at, message, hint)


@rule("exclusive-clash", Severity.ERROR, "services of one exclusive group do not fit side by side")
def exclusive_clash(subject: Subject) -> Iterator[Complaint]:
    """Two enabled services belong to one `exclusive` group."""
    first: dict[str, Service] = {}
    for service in subject.lab.enabled_services:
        if service.exclusive is None:
            continue
        other = first.setdefault(service.exclusive, service)
        if other is not service:
            message = (
                f"`{service.name}` and `{other.name}` are both enabled, "
                f"and both in the exclusive group `{service.exclusive}`"
            )
            yield Complaint(service.at, message, "write `enabled: false` at one of them")


@rule("disabled-service", Severity.ERROR, "the gateway would list models that nothing serves")
def disabled_service(subject: Subject) -> Iterator[Complaint]:
    """An active provider belongs to a service that lab.yaml disables."""
    for provider in _active_local(subject.lab):
        service = subject.lab.service(provider.service or "")
        if service is not None and not service.enabled:
            message = f"provider `{provider.name}` is active, its service `{service.name}` disabled"
            hint = "write `status: disabled` at the provider, or `enabled: true` at the service"
            yield Complaint(provider.at, message, hint)


@rule("service-without-provider", Severity.WARNING, "it takes memory, and no request reaches it")
def service_without_provider(subject: Subject) -> Iterator[Complaint]:
    """An enabled service has no active provider, so the gateway never asks it."""
    linked = {provider.service for provider in subject.lab.providers if provider.active}
    for service in subject.lab.enabled_services:
        if service.name not in linked:
            message = f"no active provider of providers.yaml leads to service `{service.name}`"
            hint = f"add one with `base_url: http://127.0.0.1:{service.port}`, or disable it"
            yield Complaint(service.at, message, hint)


@rule(
    "model-name-mismatch",
    Severity.ERROR,
    "a backend that is asked for another name answers 404, or serves its only model in silence",
)
def model_name_mismatch(subject: Subject) -> Iterator[Complaint]:
    """A provider lists another model than the one that its service answers to."""
    for provider in _active_local(subject.lab):
        service = subject.lab.service(provider.service or "")
        if service is None or not service.kind.serves_one_model or service.model_name is None:
            continue
        for model in provider.models:
            if model.name != service.model_name:
                message = (
                    f"provider `{provider.name}` lists `{model.name}`, "
                    f"but service `{service.name}` serves `{service.model_name}` alone"
                )
                hint = "use one name in both, and `exact_matches` for other names of it"
                yield Complaint(model.at, message, hint)


RULES: tuple[Rule, ...] = (
    port_clash,
    missing_model_file,
    missing_program,
    missing_secret,
    exposure,
    exclusive_clash,
    disabled_service,
    service_without_provider,
    model_name_mismatch,
)


def _severity(subject: Subject, service: Service | None) -> Severity:
    """How much it matters that the host lacks something; `None` stands for the gateway."""
    meant_for_this_host = subject.facts.deploying or (
        subject.lab.declared if service is None else service.declared
    )
    required = service is None or service.required
    return Severity.ERROR if meant_for_this_host and required else Severity.WARNING


def _active_local(lab: Lab) -> Iterator[Provider]:
    return (provider for provider in lab.providers if provider.active and provider.local)


def _place(at: Position, lab: Lab) -> Position:
    """A gateway without lab.yaml has no line; the routing file speaks for it."""
    return at if lab.declared else Position("model-mappings.yaml")


def _url(provider: Provider, service: Service) -> str:
    host = f"[{provider.host}]" if ":" in provider.host else provider.host
    return provider.base_url.replace(f"{host}:{provider.port}", f"{host}:{service.port}")


def _listen(host: str) -> str:
    return _WILDCARDS if host in ("0.0.0.0", "::") else host


def _install_hint(kind: ServiceKind) -> str:
    if kind in (ServiceKind.OLLAMA, ServiceKind.VLLM):
        return f"install {kind}"
    return f"`./install.sh --with {kind}` installs it"
