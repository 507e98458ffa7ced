"""Lab → every file of a deploy, byte for byte. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agent.deploy.environment import KEY_VARIABLES, backend_environment, environment_file
from agent.model.generation import (
    GATEWAY_CONFIG,
    SECRETS_FILE,
    CompletionSpec,
    GroupSpec,
    JudgeSettings,
    Link,
    ServiceSpec,
)
from agent.model.host import HostPaths
from agent.model.lab import Lab, Service, ServiceKind
from agent.model.plan import Rendered, RenderedFile
from agent.model.routing import Deployment, GatewayDocument, GroupOrigin, RoutingTable

GATEWAY = "litellm"
INPUTS_VARIABLE = "LABCTL_INPUTS"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rendering takes from the host, already read.

    Attributes:
        unit_texts: by kind, the static unit file.
        program_folders: by service name, the folder of its executable, to put first on PATH.
        fingerprints: by service name, the identity of its model file.
        programs: by service name, the identity of its executable.
        placed: by service name, the variables that carry out its placement.
        gateway_environment: variables that the gateway always needs.
        secrets: the raw secrets file; empty without one.
        secret_values: its variables. Never rendered into anything but secret files.
        digest_key: keys the digests of secrets.
    """

    paths: HostPaths
    unit_texts: Mapping[ServiceKind, str]
    program_folders: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    placed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gateway_environment: tuple[tuple[str, str], ...] = ()
    secrets: bytes = field(default=b"", repr=False)
    secret_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    digest_key: bytes = field(default=b"", repr=False)


def render(
    lab: Lab, table: RoutingTable, document: GatewayDocument, around: Surroundings
) -> Rendered:
    """Every file of a deploy, and what it promises to serve."""
    parts = [_backend(service, lab, around) for service in lab.enabled_services]
    if lab.gateway.enabled:
        parts.append(_gateway(lab, table, document.body, around))
    files = [file for part in parts for file in part.files]
    if lab.gateway.enabled:
        files.append(RenderedFile(GATEWAY_CONFIG, document.text.encode()))
    if around.secrets:
        files.append(RenderedFile(SECRETS_FILE, around.secrets, secret=True))
    services = tuple(part.spec for part in parts)
    groups = tuple(_group_spec(table, name) for name in table.names)
    completions = _completions(lab, table, document) if lab.deploy.prove_completions else ()
    links = tuple(link for spec in services for link in _links(spec, around.paths))
    judge = JudgeSettings(
        soak_s=lab.deploy.soak_s,
        stall_timeout_s=lab.deploy.stall_timeout_s,
        completion_timeout_s=lab.deploy.completion_timeout_s,
    )
    digest = _effective_digest(
        files, document.body, (services, groups, completions), around.digest_key
    )
    sources = [RenderedFile(f"lab/{source.name}", source.text.encode()) for source in lab.sources]
    return Rendered(
        files=(*files, *sources),
        links=links,
        services=services,
        groups=groups,
        completions=completions,
        judge=judge,
        digest=digest,
        lab=lab.directory,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The files of one service, and its spec."""

    spec: ServiceSpec
    files: tuple[RenderedFile, ...]


def _backend(service: Service, lab: Lab, around: Surroundings) -> _Part:
    environment = backend_environment(service, around.placed.get(service.name, {}))
    dropin = _dropin(service.name, service.memory_max, _rivals(service, lab))
    secrets = _service_secrets(service, around)
    timeout_s = service.start_timeout_s or lab.deploy.start_timeout_s
    spec = ServiceSpec(
        name=service.name,
        unit=service.unit,
        kind=service.kind,
        required=service.required,
        host=_reachable(service.host),
        port=service.port,
        serves=_serves(service, lab),
        api_key_variable=service.api_key_variable,
        model_file=service.model_file,
        start_timeout_s=timeout_s,
        exclusive=service.exclusive,
    )
    return _part(spec, environment, dropin, secrets, around)


def _gateway(lab: Lab, table: RoutingTable, body: str, around: Surroundings) -> _Part:
    gateway = lab.gateway
    environment = {
        "CONFIG_FILE_PATH": f"{around.paths.state}/current/{GATEWAY_CONFIG}",
        "HOST": gateway.host,
        "PORT": str(gateway.port),
        "LABCTL_ARGS": "",
        **dict(around.gateway_environment),
        **dict(gateway.environment),
    }
    spec = ServiceSpec(
        name=GATEWAY,
        unit=f"{GATEWAY}.service",
        kind=ServiceKind.LITELLM,
        host=_reachable(gateway.host),
        port=gateway.port,
        serves=table.names,
        api_key_variable=gateway.master_key_variable,
        start_timeout_s=gateway.start_timeout_s or lab.deploy.start_timeout_s,
    )
    dropin = _dropin(GATEWAY, gateway.memory_max, ())
    secrets = around.secrets if around.secrets else b""
    return _part(spec, environment, dropin, secrets, around, config=body)


def _part(
    spec: ServiceSpec,
    environment: dict[str, str],
    dropin: str,
    secrets: bytes,
    around: Surroundings,
    *,
    config: str = "",
) -> _Part:
    """Seal one service's inputs under a digest that its process will carry."""
    folder = around.program_folders.get(spec.name)
    environment.setdefault("PATH", f"{folder}:{SYSTEM_PATH}" if folder else SYSTEM_PATH)
    unit = around.unit_texts[spec.kind or ServiceKind.LITELLM]
    components = [
        ("unit", _sha256(unit)),
        ("drop-in", _sha256(dropin)),
        ("environment", _sha256(environment_file(environment))),
    ]
    if config:
        components.append(("config", _sha256(config)))
    if spec.model_file is not None:
        components.append(("model file", _sha256(around.fingerprints.get(spec.name, ""))))
    if spec.name in around.programs:
        components.append(("program", _sha256(around.programs[spec.name])))
    if secrets:
        keyed = hmac.new(around.digest_key, secrets, hashlib.sha256).hexdigest()
        components.append(("secrets", keyed))
    inputs = _sha256("\n".join(f"{what} {digest}" for what, digest in components))
    environment[INPUTS_VARIABLE] = inputs
    files = [
        RenderedFile(f"units/{spec.unit}", unit.encode()),
        RenderedFile(f"dropins/{spec.name}.conf", dropin.encode()),
        RenderedFile(f"env/{spec.name}.env", environment_file(environment).encode()),
    ]
    if secrets:
        files.append(RenderedFile(f"secrets/{spec.name}.env", secrets, secret=True))
    sealed = replace(spec, inputs=inputs, components=tuple(components))
    return _Part(spec=sealed, files=tuple(files))


# -- the rest of a service -----------------------------------------------------------------


def _dropin(name: str, memory_max: str | None, rivals: Iterable[str]) -> str:
    """Limits and relations that a lab sets; always present, so that its link never dangles."""
    lines = [f"# What the lab sets for {name}. Written by labctl."]
    conflicts = " ".join(sorted(rivals))
    if conflicts:
        lines += ["[Unit]", f"Conflicts={conflicts}"]
    if memory_max:
        lines += ["[Service]", f"MemoryMax={memory_max}"]
    return "\n".join(lines) + "\n"


def _rivals(service: Service, lab: Lab) -> tuple[str, ...]:
    """The other units of its exclusive group: systemd stops them when this one starts."""
    if service.exclusive is None:
        return ()
    group = (s for s in lab.services if s.exclusive == service.exclusive)
    return tuple(other.unit for other in group if other.name != service.name)


def _service_secrets(service: Service, around: Surroundings) -> bytes:
    """The one secret that a backend needs, under the name it reads; no other secret."""
    variable = KEY_VARIABLES.get(service.kind)
    if service.api_key_variable is None or variable is None:
        return b""
    value = around.secret_values.get(service.api_key_variable)
    return environment_file({variable: value}).encode() if value else b""


def _serves(service: Service, lab: Lab) -> tuple[str, ...]:
    """The names that the gateway will ask this backend for."""
    if service.kind.serves_one_model:
        return (service.model_name,) if service.model_name else ()
    names = [
        model.name
        for provider in lab.providers
        if provider.active and provider.service == service.name
        for model in provider.models
    ]
    return tuple(dict.fromkeys(names))


def _reachable(host: str) -> str:
    """Where to probe a listen address: a wildcard is asked on loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)


def _links(spec: ServiceSpec, paths: HostPaths) -> tuple[Link, ...]:
    """What systemd reads, through `current`: one rename switches all of it.

    The `.wants` link is what `systemctl enable` would make. It is made here because `disable`
    deletes a linked unit file together with it.
    """
    current = f"{paths.state}/current"
    return (
        Link(f"{paths.units}/{spec.unit}", f"{current}/units/{spec.unit}"),
        Link(f"{paths.units}/{spec.unit}.d/50-labctl.conf", f"{current}/dropins/{spec.name}.conf"),
        Link(f"{paths.units}/default.target.wants/{spec.unit}", f"../{spec.unit}"),
    )


# -- promises ------------------------------------------------------------------------------


def _group_spec(table: RoutingTable, name: str) -> GroupSpec:
    group = table.group(name)
    assert group is not None
    remote = any(d.service is None for d in group.deployments)
    return GroupSpec(name, tuple(sorted(group.services)), remote, group.chain)


def _completions(
    lab: Lab, table: RoutingTable, document: GatewayDocument
) -> tuple[CompletionSpec, ...]:
    """One proving completion for each local model, through its own group where it has one."""
    best: dict[tuple[str, str], Deployment] = {}
    embeds = _embedding_models(lab)
    for group in sorted(table.groups, key=lambda group: group.origin is not GroupOrigin.MODEL):
        for deployment in group.deployments:
            if deployment.service is not None:
                best.setdefault((deployment.service, deployment.model), deployment)
    return tuple(
        CompletionSpec(
            d.group,
            service,
            model,
            embedding=(d.provider, model) in embeds,
            asks=document.ids.get(d, ""),
            answers_at=document.addresses.get(d.provider, ""),
        )
        for (service, model), d in best.items()
    )


def _embedding_models(lab: Lab) -> set[tuple[str, str]]:
    """Models that make no text: their listing says `specialty: embedding`."""
    return {
        (provider.name, model.name)
        for provider in lab.providers
        for model in provider.models
        if "embedding" in (model.specialty or "")
    }


def _effective_digest(
    files: Iterable[RenderedFile], body: str, promises: tuple[object, ...], key: bytes
) -> str:
    """Over everything that acts. How long a judge waits does not, nor do comments."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        data = body.encode() if file.path == GATEWAY_CONFIG else file.data
        mac = hmac.new(key if file.secret else b"", data, hashlib.sha256).hexdigest()
        total.update(f"{file.path} {file.mode:o} {mac}\n".encode())
    total.update(repr(promises).encode())
    return total.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
