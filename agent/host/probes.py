"""Probes over HTTP that harm nothing: which endpoint answers without loading a model, waking it
or interrupting a generation is measured for each backend (`_CHEAP`, `_LISTS`).
"""

from __future__ import annotations

import json
import secrets as randomness
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from agent.host.http import Answer, NoAnswer, ask, knock
from agent.model.generation import CompletionSpec, ServiceSpec
from agent.model.kinds import ServiceKind
from agent.model.verdict import Health, ProbeKind, Sample

_CHEAP = {
    ServiceKind.LITELLM: "/health/readiness",  # not /health: that one calls every model
    ServiceKind.OLLAMA: "/api/version",
    ServiceKind.LLAMACPP_NATIVE: "/health",
    ServiceKind.LLAMACPP_PYTHON: "/openapi.json",  # it has no /health; /v1/models cuts streams
    ServiceKind.VLLM: "/health",
}
_LISTS = {kind: "/v1/models" for kind in ServiceKind} | {ServiceKind.OLLAMA: "/api/tags"}
# The member that tells the backend's own answer from another program's.
_TELLTALE = {
    ServiceKind.LITELLM: "status",
    ServiceKind.OLLAMA: "version",
    ServiceKind.LLAMACPP_NATIVE: "status",
    ServiceKind.LLAMACPP_PYTHON: "openapi",
}
_MASTER_KEY = "LITELLM_MASTER_KEY"
_DETAIL_LIMIT = 400


class Secrets(Protocol):
    """Values of a secrets file."""

    def get(self, name: str) -> str | None: ...


class HttpProber:
    """Asks endpoints and turns what they do into samples. Never raises for what they do.

    Timeouts are seconds and bound the whole request. No detail ever holds a secret's value.
    """

    def health(self, service: ServiceSpec, timeout_s: float) -> Sample:
        """The cheap probe of a service; for a foreign unit, whether its ports accept."""
        blank = Sample(
            ProbeKind.HEALTH, service.name, Health.UNVERIFIABLE, "", required=service.required
        )
        if service.kind is None:
            return _foreign(blank, service, timeout_s)
        kind = service.kind
        return _sampled(
            blank,
            lambda: _ask(service, _CHEAP[kind], timeout_s),
            lambda answer: _judge_health(kind, answer),
        )

    def health_all(self, services: Sequence[ServiceSpec], timeout_s: float) -> tuple[Sample, ...]:
        """The cheap probes of several services side by side, in the order given."""
        if not services:
            return ()
        with ThreadPoolExecutor(max_workers=min(16, len(services))) as pool:
            return tuple(pool.map(lambda service: self.health(service, timeout_s), services))

    def models(self, service: ServiceSpec, secrets: Secrets, timeout_s: float) -> Sample:
        """Whether the service's own model list holds every name in `service.serves`.

        Ask a llama-cpp-python server only while it is idle: its list cuts a running stream.
        """
        blank = Sample(
            ProbeKind.MODELS, service.name, Health.UNVERIFIABLE, "", required=service.required
        )
        if service.kind is None:
            return replace(blank, detail="not a kind of service whose models labctl can list")
        kind = service.kind
        name, key = _key(service, secrets)
        if name is not None and key is None:
            return _keyless(blank, name)
        return _sampled(
            blank,
            lambda: _ask(service, _LISTS[kind], timeout_s, key=key),
            lambda answer: _judge_models(service, kind, answer),
            key,
        )

    def completion(
        self, gateway: ServiceSpec, spec: CompletionSpec, secrets: Secrets, timeout_s: float
    ) -> Sample:
        """One short completion through the gateway, without fallbacks and past the cache."""
        blank = Sample(ProbeKind.COMPLETION, spec.group, Health.UNVERIFIABLE, "")
        name, key = _key(gateway, secrets)
        if name is not None and key is None:
            return _keyless(blank, name)
        path, body = completion_request(spec, nonce=randomness.token_hex(4))
        return _sampled(
            blank,
            lambda: _ask(gateway, path, timeout_s, key=key, body=body),
            lambda answer: _judge_completion(spec, answer),
            key,
        )


_Judgement = tuple[Health, str, tuple[str, ...]]


def _sampled(
    blank: Sample,
    request: Callable[[], Answer],
    judge: Callable[[Answer], _Judgement],
    key: str | None = None,
) -> Sample:
    try:
        answer = request()
    except NoAnswer as none:
        health = Health.TIMED_OUT if none.timed_out else Health.UNHEALTHY
        return replace(blank, health=health, detail=none.detail)
    health, detail, models = judge(answer)
    detail = scrubbed(detail, [key])[:_DETAIL_LIMIT]  # in this order: a cut key is a key shown
    return replace(
        blank, health=health, detail=detail, models=models, ttfb_ms=round(answer.ttfb_ms, 3)
    )


def _ask(
    service: ServiceSpec,
    path: str,
    timeout_s: float,
    *,
    key: str | None = None,
    body: bytes | None = None,
) -> Answer:
    if service.port is None:
        raise NoAnswer("no port is known for it")
    return ask(service.host, service.port, path, timeout_s=timeout_s, key=key, body=body)


def _foreign(blank: Sample, service: ServiceSpec, timeout_s: float) -> Sample:
    if not service.listens:
        return replace(blank, detail="a foreign unit without a port that could be asked")
    try:
        for port in service.listens:
            knock(service.host, port, timeout_s)
    except NoAnswer as none:
        health = Health.TIMED_OUT if none.timed_out else Health.UNHEALTHY
        return replace(blank, health=health, detail=none.detail)
    ports = ", ".join(map(str, service.listens))
    return replace(blank, health=Health.HEALTHY, detail=f"accepts connections on {ports}")


def _key(service: ServiceSpec, secrets: Secrets) -> tuple[str | None, str | None]:
    """The variable and the value of the key that the service demands; (None, None) for no key."""
    if service.api_key_variable is not None:
        return service.api_key_variable, secrets.get(service.api_key_variable) or None
    # An adopted gateway may want a key that nobody declared.
    return None, (secrets.get(_MASTER_KEY) or None) if service.is_gateway else None


def _keyless(blank: Sample, name: str) -> Sample:
    return replace(blank, health=Health.UNHEALTHY, detail=f"secrets.env sets no {name}")


def _judge_health(kind: ServiceKind, answer: Answer) -> _Judgement:
    if answer.status == 503 and kind in (ServiceKind.LLAMACPP_NATIVE, ServiceKind.VLLM):
        return Health.UNHEALTHY, "loading the model (HTTP 503)", ()
    if answer.status != 200:
        return Health.UNHEALTHY, _refused(answer), ()
    telltale = _TELLTALE.get(kind)
    if telltale is not None and telltale not in _json_object(answer):
        return Health.UNHEALTHY, f"something answers that is not {kind}: check the port", ()
    return Health.HEALTHY, f"answers on {_CHEAP[kind]}", ()


def _judge_models(service: ServiceSpec, kind: ServiceKind, answer: Answer) -> _Judgement:
    if answer.status != 200:
        return Health.UNHEALTHY, _refused(answer), ()
    listed = _listed(_json_object(answer), "models" if kind is ServiceKind.OLLAMA else "data")
    if listed is None:
        return Health.UNHEALTHY, "the model list is not one", ()
    known = {_full(kind, name) for name in listed}
    missing = [name for name in service.serves if _full(kind, name) not in known]
    models = tuple(dict.fromkeys(listed))
    if not missing:
        return Health.HEALTHY, f"lists {len(models)} models, none is missing", models
    held = _some(models) or "no model at all"
    detail = f"its model list lacks {', '.join(missing)}; it holds {held}"
    if kind is ServiceKind.OLLAMA:
        detail += f": `ollama pull {missing[0]}`"
    return Health.UNHEALTHY, detail, models


def _judge_completion(spec: CompletionSpec, answer: Answer) -> _Judgement:
    if answer.status != 200:
        return Health.UNHEALTHY, _refused(answer), ()
    group = answer.headers.get("x-litellm-model-group", spec.asked_for)
    if group != spec.asked_for:
        return Health.UNHEALTHY, f"{group} answered in the place of {spec.asked_for}", ()
    address = answer.headers.get("x-litellm-model-api-base", spec.answers_at)
    if spec.answers_at and address != spec.answers_at:
        return Health.UNHEALTHY, f"{address} answered in the place of {spec.answers_at}", ()
    if "x-litellm-cache-key" in answer.headers:
        return Health.UNHEALTHY, "the answer came from the cache and proves nothing", ()
    document = _json_object(answer)
    well_formed = _embeds(document) if spec.embedding else _completes(document)
    if not well_formed:
        wanted = "embedding" if spec.embedding else "completion"
        return Health.UNHEALTHY, f"the answer is no {wanted}: {_excerpt(answer)}", ()
    what = "embeds" if spec.embedding else "completes"
    return Health.HEALTHY, f"{what} through {spec.service} as {spec.model}", ()


def completion_request(spec: CompletionSpec, nonce: str) -> tuple[str, bytes]:
    """Path and JSON body of a proving request.

    `disable_fallbacks` keeps the group's chain out of it; the nonce and `no-cache` keep a cached
    answer from hiding an outage. Without retries a dead backend is known in 50 ms.
    """
    common = {
        "model": spec.asked_for,
        "disable_fallbacks": True,
        "num_retries": 0,
        "cache": {"no-cache": True},
    }
    if spec.embedding:
        return "/v1/embeddings", json.dumps({**common, "input": f"ok {nonce}"}).encode()
    body = {**common, "prompt": f"{nonce} Say one word.", "max_tokens": 4, "temperature": 0}
    return "/v1/completions", json.dumps(body).encode()


def _completes(document: Mapping[str, object]) -> bool:
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    return "text" in choices[0] or isinstance(choices[0].get("message"), dict)


def _embeds(document: Mapping[str, object]) -> bool:
    data = document.get("data")
    if not isinstance(data, list) or not data or not isinstance(data[0], dict):
        return False
    return bool(data[0].get("embedding"))


def _listed(document: Mapping[str, object], member: str) -> list[str] | None:
    """The names in a model list, aliases included; None when it is not a model list."""
    rows = document.get(member)
    if not isinstance(rows, list):
        return None
    names: list[str] = []
    for row in rows:
        if isinstance(row, dict):
            aliases = row.get("aliases")
            rest = aliases if isinstance(aliases, list) else []
            found = (row.get("id") or row.get("name"), *rest)
            names += [name for name in found if isinstance(name, str)]
    return names


def _full(kind: ServiceKind, name: str) -> str:
    """Ollama's `name` means `name:latest`; the others' names stand for themselves."""
    if kind is ServiceKind.OLLAMA and ":" not in name.rpartition("/")[2]:
        return f"{name}:latest"
    return name


def _json_object(answer: Answer) -> Mapping[str, object]:
    """The answer's JSON object; empty when it is none."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _refused(answer: Answer) -> str:
    text = _excerpt(answer)
    # LiteLLM without a database says "No connected db." to a wrong key, with 400.
    if answer.status in (401, 403) or "No connected db" in text:
        text = f"the key is not accepted ({text})"
    return f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}"


def _excerpt(answer: Answer) -> str:
    """The error's own words, or the start of the body, as one printable line."""
    document = _json_object(answer)
    error = document.get("error", document.get("detail"))
    words = error.get("message") if isinstance(error, dict) else error
    text = words if isinstance(words, str) else answer.body.decode(errors="replace")
    return printable(text[: 10 * _DETAIL_LIMIT])


def printable(text: str) -> str:
    """One line without control characters: an endpoint must not steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def scrubbed(text: str, values: Iterable[str | None]) -> str:
    """The text without these secret values, in their JSON spelling too."""
    for value in values:
        if value:
            text = text.replace(value, "***").replace(json.dumps(value)[1:-1], "***")
    return text


def _some(names: Sequence[str], count: int = 8) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
