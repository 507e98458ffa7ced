"""What is wrong with the settings of a LiteLLM config, and with its fallbacks and aliases."""

from __future__ import annotations

from collections.abc import Iterator

from agent.routing.lint_nodes import Node, Problem
from agent.routing.litellm_keys import (
    GENERAL_SETTINGS,
    LITELLM_FUNCTIONS,
    LITELLM_SETTINGS,
    ROUTER_SETTINGS,
)
from agent.routing.names import did_you_mean

_SECTIONS = frozenset(
    (
        *("model_list", "litellm_settings", "router_settings", "general_settings"),
        *("environment_variables", "callback_settings", "credential_list", "guardrails", "include"),
        *("mcp_servers", "mcp_tools", "assistant_settings", "finetune_settings", "files_settings"),
        *("default_vertex_config", "prompts", "agents", "agent_list", "vector_store_registry"),
        *("search_tools", "sandbox_tools", "worker_registry", "policies", "policy_attachments"),
    )
)

_KNOWN = {
    "router_settings": ROUTER_SETTINGS,
    "general_settings": GENERAL_SETTINGS,
    "litellm_settings": LITELLM_SETTINGS,
}

_LIMITS = frozenset({"rate_limit_settings", "rate_limits"})


def lint_sections(document: Node) -> Iterator[Problem]:
    """Sections and settings that LiteLLM does not read, and the ones that do harm."""
    for key, value in document.pairs():
        if key.text in _LIMITS:
            why = "LiteLLM ignores the section: 130 of 130 requests passed a limit of 100"
            hint = "limits go into `litellm_params`, as `rpm` and `tpm`"
            message = f"`{key.text}` limits nothing"
            yield Problem("unenforced-limit", key.at, message, why, hint)
        elif key.text not in _SECTIONS:
            message = f"LiteLLM does not read `{key.text}`"
            why = "it is ignored in silence: port, host and CORS are not set there"
            hint = did_you_mean(key.text, sorted(_SECTIONS)) if len(key.text) > 8 else ""
            yield Problem("unknown-key", key.at, message, why, hint)
        if key.text in _KNOWN:
            yield from _settings(key.text, value)
    yield from _unenforced(document)
    yield from _master_key(document)


def _settings(section: str, settings: Node) -> Iterator[Problem]:
    for key, value in settings.pairs():
        name = key.text
        if section == "litellm_settings" and name in LITELLM_FUNCTIONS:
            message = f"`{section}.{name}` overwrites a function of LiteLLM"
            why = "the setting has no effect, and whatever calls the function fails"
            yield Problem("clobber", key.at, message, why, "write `request_timeout`")
        elif name not in _KNOWN[section]:
            message = f"LiteLLM does not read `{section}.{name}`"
            hint = _where(section, name)
            yield Problem("unknown-key", key.at, message, "it is ignored in silence", hint)
        if value.text.startswith("${"):
            why = "LiteLLM expands no `${}`"
            message = f"`{name}: {value.text}` is no reference"
            yield Problem("env-ref", value.at, message, why, "write `os.environ/NAME`")


def _where(section: str, name: str) -> str:
    """The section that does read a setting, or the closest name."""
    for other, known in _KNOWN.items():
        if other != section and name in known:
            return f"`{other}` has a setting of that name"
    return did_you_mean(name, sorted(_KNOWN[section]))


def _unenforced(document: Node) -> Iterator[Problem]:
    """`rpm` or `tpm` of a deployment without the check that enforces them."""
    router = document.get("router_settings")
    strategy = router.get("routing_strategy") if router is not None else None
    checks = router.get("optional_pre_call_checks") if router is not None else None
    enforced = "enforce_model_rate_limits" in {
        item.text for item in (checks.items() if checks is not None else ())
    }
    if enforced or (strategy is not None and strategy.text == "usage-based-routing-v2"):
        return
    models = document.get("model_list")
    for entry in models.items() if models is not None else ():
        params = entry.get("litellm_params")
        for name in ("rpm", "tpm"):
            key = params.key(name) if params is not None else None
            if key is not None:
                message = f"nothing enforces this `{name}`"
                why = "under the default strategy it is only a hint for the choice of a deployment"
                hint = "`router_settings.optional_pre_call_checks: [enforce_model_rate_limits]`"
                yield Problem("unenforced-limit", key.at, message, why, f"add {hint}")


def _master_key(document: Node) -> Iterator[Problem]:
    general = document.get("general_settings")
    if general is not None and general.get("master_key") is not None:
        return
    at = general.at if general is not None else document.at
    message = "no `general_settings.master_key`"
    why = "without LITELLM_MASTER_KEY in its environment the gateway refuses to start"
    hint = "write `master_key: os.environ/LITELLM_MASTER_KEY`"
    yield Problem("no-master-key", at, message, why, hint)


def lint_fallbacks(document: Node) -> Iterator[Problem]:
    """Fallbacks and aliases that lead nowhere."""
    router = document.get("router_settings")
    if router is None:
        return
    models = document.get("model_list")
    names = [
        name.text
        for entry in (models.items() if models is not None else ())
        if (name := entry.get("model_name")) is not None
    ]
    aliases = router.get("model_group_alias")
    known = {*names}
    for key, value in aliases.pairs() if aliases is not None else ():
        known.add(key.text)
        yield from _alias(key, value, names)
    for section in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
        chains = router.get(section)
        for chain in chains.items() if chains is not None else ():
            for key, value in chain.pairs():
                yield from _chain(key, value, known)
    default = router.get("default_fallbacks")
    for member in default.items() if default is not None else ():
        yield from _member("default_fallbacks", member, known)


def _alias(key: Node, value: Node, names: list[str]) -> Iterator[Problem]:
    target = value.get("model") or value
    if value.is_list or not target.text:
        message = f"the alias `{key.text}` is a list" if value.is_list else "no name"
        why = "its target is never asked and the alias is not listed: requests answer 400"
        yield Problem("alias-type", value.at, message, why, "an alias is one model's name")
    elif target.text not in names:
        message = f"the alias `{key.text}` leads to `{target.text}`, which is no model"
        yield Problem("alias-type", target.at, message, "requests answer 400")


def _chain(key: Node, value: Node, known: set[str]) -> Iterator[Problem]:
    if key.text == "default" and "default" not in known:
        message = "`default` is no model: this chain is never used"
        why = "LiteLLM looks for a model of that name"
        yield Problem("default-key", key.at, message, why, "write `default_fallbacks: [...]`")
    elif key.text != "*" and key.text not in known:
        message = f"fallbacks of `{key.text}`, which is no model"
        hint = did_you_mean(key.text, sorted(known))
        yield Problem("dangling-fallback", key.at, message, "they are never used", hint)
    for member in value.items():
        yield from _member(key.text, member, known)


def _member(chain: str, member: Node, known: set[str]) -> Iterator[Problem]:
    target = member.get("model") or member
    if target.text and target.text not in known:
        message = f"the fallback `{target.text}` of `{chain}` is no model"
        why = "it is skipped; a request that reaches nothing else answers 400"
        hint = did_you_mean(target.text, sorted(known))
        yield Problem("dangling-fallback", target.at, message, why, hint)
