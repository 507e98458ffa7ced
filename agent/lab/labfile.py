"""lab.yaml → services, gateway and deploy settings. Every key is optional."""

from __future__ import annotations

from dataclasses import dataclass

from agent.lab.cursor import Section, Value
from agent.lab.grammar import DAY_S, listen_host
from agent.lab.providers import LIMIT_MAX
from agent.lab.services import (
    Places,
    ServiceDraft,
    as_memory,
    as_port,
    flag,
    get,
    read_environment,
    read_services,
)
from agent.model.finding import Position
from agent.model.lab import DeploySettings, Gateway, RateLimit, Redis, Reference

_TOP_HINTS = {
    "litellm": "did you mean `gateway:`?",
    "providers": "providers stand in providers.yaml",
    "defaults": "settings are written at each service",
}


@dataclass(frozen=True, slots=True)
class LabFile:
    """What lab.yaml says, or would say when it is not there."""

    services: tuple[ServiceDraft, ...]
    gateway: Gateway
    deploy: DeploySettings


def no_lab_file() -> LabFile:
    """A folder with only the two routing files: every setting at its default."""
    return LabFile((), Gateway(at=Position("lab.yaml")), DeploySettings())


def read_lab_file(root: Section, places: Places) -> LabFile:
    version = root.get("version")
    if version is not None:
        version.as_integer(1, 1)
    root.quiet("description", "notes")
    lab_file = LabFile(
        services=read_services(root.get("services"), places),
        gateway=_gateway(root, places),
        deploy=_deploy(root.subsection("deploy")),
    )
    root.done(_TOP_HINTS)
    return lab_file


def _gateway(root: Section, places: Places) -> Gateway:
    section = root.subsection("gateway")
    default = Gateway(at=root.key_at("gateway"))
    retries = get(section, "retries", lambda v: v.as_integer(0, 20))
    fails = get(section, "allowed_fails", lambda v: v.as_integer(0, 10_000))
    gateway = Gateway(
        at=default.at,
        enabled=flag(section, "enabled", True),
        host=get(section, "host", lambda v: v.as_parsed(listen_host)) or default.host,
        port=get(section, "port", as_port) or default.port,
        program=get(section, "program", lambda v: v.as_parsed(places.program)),
        master_key_variable=get(section, "master_key", Value.as_variable)
        or default.master_key_variable,
        request_timeout_s=get(section, "request_timeout", lambda v: v.as_seconds(1, DAY_S))
        or default.request_timeout_s,
        stream_timeout_s=get(section, "stream_timeout", lambda v: v.as_seconds(1, DAY_S)),
        retries=default.retries if retries is None else retries,
        allowed_fails=default.allowed_fails if fails is None else fails,
        cooldown_s=_seconds(section, "cooldown", 0, DAY_S, default.cooldown_s),
        max_fallbacks=get(section, "max_fallbacks", lambda v: v.as_integer(1, 100))
        or default.max_fallbacks,
        redis=_redis(section),
        rate_limits=_rate_limits(section.get("rate_limits")),
        environment=read_environment(section),
        memory_max=get(section, "memory_max", as_memory),
        start_timeout_s=get(section, "start_timeout", lambda v: v.as_seconds(1, DAY_S)),
    )
    section.quiet("description", "notes")
    section.done({"timeout": "did you mean `request_timeout`?"})
    return gateway


def _redis(section: Section) -> Redis | None:
    if not section.has("redis"):
        return None
    redis = section.subsection("redis")
    host = get(redis, "host", lambda v: v.as_parsed(listen_host)) or "127.0.0.1"
    port = get(redis, "port", as_port) or 6379
    ttl_s = _seconds(redis, "ttl", 1, 30 * DAY_S, 3600)
    redis.done()
    return Redis(host, port, round(ttl_s))


def _rate_limits(value: Value | None) -> tuple[tuple[Reference, RateLimit], ...]:
    limits = []
    for key, item in value.entries() if value else ():
        section = item.section(key.at)
        requests = get(section, "rpm", lambda v: v.as_integer(1, LIMIT_MAX))
        tokens = get(section, "tpm", lambda v: v.as_integer(1, LIMIT_MAX))
        if not section.found:
            section.required("rpm", "write `rpm: N` or `tpm: N`")
        section.done({"requests_per_minute": "write `rpm`", "tokens_per_minute": "write `tpm`"})
        limits.append((Reference(key.name, key.at), RateLimit(requests, tokens)))
    return tuple(limits)


def _deploy(section: Section) -> DeploySettings:
    default = DeploySettings()
    keep = get(section, "keep_generations", lambda v: v.as_integer(2, 10_000))
    settings = DeploySettings(
        soak_s=_seconds(section, "soak", 0, 3600, default.soak_s),
        start_timeout_s=_seconds(section, "start_timeout", 1, DAY_S, default.start_timeout_s),
        stall_timeout_s=_seconds(section, "stall_timeout", 1, DAY_S, default.stall_timeout_s),
        completion_timeout_s=_seconds(
            section, "completion_timeout", 1, DAY_S, default.completion_timeout_s
        ),
        keep_generations=default.keep_generations if keep is None else keep,
        prove_completions=flag(section, "prove_completions", default.prove_completions),
    )
    section.done()
    return settings


def _seconds(section: Section, key: str, low: float, high: float, default: float) -> float:
    read = get(section, key, lambda v: v.as_seconds(low, high))
    return default if read is None else read
