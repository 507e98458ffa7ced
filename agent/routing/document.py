"""Lab → the gateway's config file. Every line of it is measured against LiteLLM 1.106.2.

`docs/gateway.md` has the measurements. The rules that are easy to get wrong:

- A local `openai/` backend without a key of its own is sent the real OPENAI_API_KEY, and a local
  Ollama the real OLLAMA_API_KEY: every deployment has its own key, if only a dummy.
- LiteLLM adds `/v1` to no OpenAI-like address, and a second one to Anthropic's.
- Ollama options are plain parameters: `extra_body.options` would replace the client's, and so
  would `num_predict` and `repeat_penalty`, which have names of LiteLLM's own.
- A group of one deployment must not cool down: it would answer 429 for a backend that is down.
- `enable_weighted_failover` moves a failed request to the group's other deployments at once,
  which `num_retries` does not: a retry may pick the dead one again.
- `fallbacks: [{group: []}]` ends a chain; a group without an entry has the default chain.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TypedDict
from urllib.parse import urlsplit

import yaml

from agent.model.lab import Gateway, Lab, Provider, ProviderModel, ProviderType
from agent.model.routing import Deployment, Group, RoutingTable
from agent.routing.limits import deployment_limits
from agent.routing.options import backend_options

DUMMY_KEY = "not-needed"


class Entry(TypedDict):
    """One deployment as LiteLLM's `model_list` has it."""

    model_name: str
    litellm_params: dict[str, object]
    model_info: dict[str, object]


GATEWAY_ENVIRONMENT: tuple[tuple[str, str], ...] = (
    # Else the start waits for a download of the price table, and fails slowly without network.
    ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
    # Else the first Anthropic request downloads a list of beta headers.
    ("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True"),
    # Else the proxy may fetch the vendor's blog for its admin page.
    ("LITELLM_LOCAL_BLOG_POSTS", "True"),
    # Else LiteLLM loads a `.env` from the working folder and from every folder above it.
    ("LITELLM_MODE", "PRODUCTION"),
    # Nobody signs in to the admin page: it needs a database, which a lab does not have.
    ("DISABLE_ADMIN_UI", "True"),
)

_PREFIXES = {
    ProviderType.OLLAMA: "ollama_chat",
    ProviderType.LLAMA_CPP: "openai",
    ProviderType.VLLM: "hosted_vllm",
    ProviderType.OPENAI: "openai",
    ProviderType.ANTHROPIC: "anthropic",
    ProviderType.OPENAI_COMPATIBLE: "openai",
}

_OPENAI_LIKE = frozenset(_PREFIXES) - {ProviderType.OLLAMA, ProviderType.ANTHROPIC}

# A group that nothing follows may try again: a restart of its backend takes seconds. Only for
# failures that pass by themselves; a hanging backend would cost the timeout once more each time.
_NEVER_AGAIN = (
    "TimeoutErrorRetries",
    "RateLimitErrorRetries",
    "BadRequestErrorRetries",
    "AuthenticationErrorRetries",
    "NotFoundErrorRetries",
    "ContentPolicyViolationErrorRetries",
)


def render_document(lab: Lab, table: RoutingTable) -> str:
    """The gateway's config as YAML text, the same bytes for the same lab.

    The header names the lab's files and the digest of the body, nothing else: a comment that
    changes in a source changes nothing here, and no time of writing makes two renders differ.
    """
    body = _dumped(_body(lab, table))
    digest = sha256(body.encode()).hexdigest()
    sources = ", ".join(source.name for source in lab.sources)
    header = (
        "# Written by labctl; a deploy writes it again. Change the lab instead of this file.\n"
        f"# Sources: {sources}\n"
        f"# sha256 of what follows the empty line: {digest}\n\n"
    )
    return header + body


def document_body(text: str) -> str:
    """The document without its header."""
    return text.split("\n\n", 1)[-1]


def deployment_ids(table: RoutingTable) -> dict[Deployment, str]:
    """The id of each deployment, `group@provider`; LiteLLM accepts it in place of a model name.

    A request for an id reaches that one deployment, whatever the weights are, and the answer's
    `x-litellm-model-id` header repeats it.
    """
    ids: dict[Deployment, str] = {}
    taken = set(table.names)
    for group in table.groups:
        for deployment in group.deployments:
            name = plain = f"{deployment.group}@{deployment.provider}"
            number = 1
            while name in taken:
                number += 1
                name = f"{plain}#{number}"
            taken.add(name)
            ids[deployment] = name
    return ids


def _body(lab: Lab, table: RoutingTable) -> dict[str, object]:
    ids = deployment_ids(table)
    entries = [entry for group in table.groups for entry in _entries(lab, group, ids)]
    body: dict[str, object] = {
        "model_list": entries,
        "general_settings": {"master_key": f"os.environ/{lab.gateway.master_key_variable}"},
        "router_settings": _router_settings(lab, table, entries),
        "litellm_settings": _litellm_settings(lab.gateway),
    }
    return body


def _entries(lab: Lab, group: Group, ids: dict[Deployment, str]) -> list[Entry]:
    entries: list[Entry] = []
    limits = deployment_limits(lab, group)
    for deployment, limit in zip(group.deployments, limits, strict=True):
        provider = lab.provider(deployment.provider)
        model = provider.model(deployment.model) if provider is not None else None
        if provider is None or model is None:
            continue  # a table is built from this lab: it names no other provider or model
        params = _params(lab, provider, model, deployment)
        if limit.requests_per_minute is not None:
            params["rpm"] = limit.requests_per_minute
        if limit.tokens_per_minute is not None:
            params["tpm"] = limit.tokens_per_minute
        entries.append(
            {
                "model_name": group.name,
                "litellm_params": params,
                "model_info": _model_info(lab.gateway, group, model, ids[deployment]),
            }
        )
    return entries


def _params(
    lab: Lab, provider: Provider, model: ProviderModel, deployment: Deployment
) -> dict[str, object]:
    params: dict[str, object] = {
        "model": f"{_prefix(provider, model)}/{model.name}",
        "api_base": api_base(provider),
        "api_key": _key(lab, provider),
    }
    if deployment.weight is not None:
        params["weight"] = deployment.weight
    if model.input_cost_per_token is not None:
        params["input_cost_per_token"] = model.input_cost_per_token
    if model.output_cost_per_token is not None:
        params["output_cost_per_token"] = model.output_cost_per_token
    # Last, but never in place of an address, a key or a price.
    options = backend_options(provider, model)
    return params | {name: value for name, value in options.items() if name not in params}


def _prefix(provider: Provider, model: ProviderModel) -> str:
    """LiteLLM's name of the provider. `ollama_chat` cannot embed, `ollama` cannot chat well."""
    if provider.type is ProviderType.OLLAMA and is_embedding(model):
        return "ollama"
    return _PREFIXES[provider.type]


def is_embedding(model: ProviderModel) -> bool:
    """Whether a model turns texts into vectors, as its specialty says."""
    return (model.specialty or "").casefold().startswith("embed")


def api_base(provider: Provider) -> str:
    """The address for LiteLLM: with `/v1` where it expects one, without where it adds one."""
    base = provider.base_url.rstrip("/")
    if provider.type in _OPENAI_LIKE:
        return base if urlsplit(base).path else f"{base}/v1"
    if provider.type is ProviderType.ANTHROPIC:
        return base.removesuffix("/v1")
    return base


def _key(lab: Lab, provider: Provider) -> str:
    service = lab.service(provider.service) if provider.service is not None else None
    variable = provider.api_key_variable or (service.api_key_variable if service else None)
    return f"os.environ/{variable}" if variable else DUMMY_KEY


def _model_info(
    gateway: Gateway, group: Group, model: ProviderModel, name: str
) -> dict[str, object]:
    info: dict[str, object] = {"id": name}
    if len(group.deployments) > 1:
        info["allowed_fails"] = gateway.allowed_fails
        info["cooldown_time"] = gateway.cooldown_s
    else:
        info["cooldown_time"] = 0
    if model.context_length is not None:
        info["max_input_tokens"] = model.context_length
    if is_embedding(model):
        info["mode"] = "embedding"
    return info


def _router_settings(lab: Lab, table: RoutingTable, entries: list[Entry]) -> dict[str, object]:
    gateway = lab.gateway
    settings: dict[str, object] = {
        "num_retries": 0,
        "max_fallbacks": gateway.max_fallbacks,
    }
    if any(len(group.deployments) > 1 for group in table.groups):
        settings["enable_weighted_failover"] = True
    if gateway.stream_timeout_s is not None:
        settings["stream_timeout"] = gateway.stream_timeout_s
    if any({"rpm", "tpm"} & entry["litellm_params"].keys() for entry in entries):
        settings["optional_pre_call_checks"] = ["enforce_model_rate_limits"]
    ends = [g.name for g in table.groups if not g.chain and len(g.deployments) == 1]
    if gateway.retries > 0 and ends:
        policy = {"DefaultRetries": gateway.retries, **dict.fromkeys(_NEVER_AGAIN, 0)}
        settings["model_group_retry_policy"] = {name: dict(policy) for name in ends}
    fallbacks = [
        {group.name: list(group.chain)}
        for group in table.groups
        if not group.inherits and (group.chain or table.default_chain)
    ]
    if fallbacks:
        settings["fallbacks"] = fallbacks
    default = [name for name in table.default_chain if table.group(name) is not None]
    if default:
        settings["default_fallbacks"] = default
    return settings


def _litellm_settings(gateway: Gateway) -> dict[str, object]:
    settings: dict[str, object] = {"request_timeout": gateway.request_timeout_s}
    if gateway.redis is not None:
        settings["cache"] = True
        settings["cache_params"] = {
            "type": "redis",
            "host": gateway.redis.host,
            "port": gateway.redis.port,
            "ttl": gateway.redis.ttl_s,
        }
    return settings


class _Dumper(yaml.CSafeDumper):
    """libyaml's emitter: 3 ms for a lab of 12 models, where the one in Python takes 25."""

    def ignore_aliases(self, data: object) -> bool:
        """Never anchors: two groups that share a policy each spell it out."""
        return True


def _dumped(body: dict[str, object]) -> str:
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
