"""model-mappings.yaml → routes, chains, capabilities and balances."""

from __future__ import annotations

from dataclasses import dataclass

from agent.lab.cursor import Section, Value
from agent.lab.scope import Effectless
from agent.lab.tree import Items
from agent.model.finding import Severity
from agent.model.lab import Balance, Capability, Chain, Reference, Route, Share

_DESCRIBES = ("description", "notes", "tags", "tier", "docs", "metadata")

_PATTERNS = Effectless(
    "the gateway knows models by their exact names only: a name that matches a pattern answers 400",
    "give each name an entry under `exact_matches`",
)
_RULES = Effectless(
    "the gateway cannot choose a provider by metadata, size or header",
    "use `fallback_chains.default` for what has no chain, and capabilities for use cases",
)
_CASES = Effectless(
    "nothing reads these cases",
    "cooldown, retries and timeouts are in lab.yaml under `gateway:`",
)
_PRIORITY = Effectless(
    "every exact match is equal; order comes from chains", "remove it", Severity.NOTE
)
_FALLBACK = Effectless(
    "the name has a chain of its own under `fallback_chains`, which wins", "remove it"
)
_STRATEGY = Effectless(
    "a capability asks its first preferred model and falls back in order",
    "order `preferred_models` as they shall be tried",
)
_THRESHOLDS = Effectless(
    "the gateway does not measure how hard or how long a request is",
    "let clients ask for the model, or for a capability a level",
)
_MINIMUM = Effectless("models are not filtered by size or context", "list the models that fit")
_CONDITION = Effectless(
    "requests are spread by weight alone, whatever they hold",
    "give the case a name of its own under `capabilities`",
)
_SPREAD = Effectless("requests are spread by `weight`, at random", "set the weights")


@dataclass(frozen=True, slots=True)
class Mappings:
    """What model-mappings.yaml says. References are not resolved here."""

    routes: tuple[Route, ...] = ()
    chains: tuple[Chain, ...] = ()
    default_chain: Chain | None = None
    capabilities: tuple[Capability, ...] = ()
    balances: tuple[Balance, ...] = ()


def read_mappings(root: Section) -> Mappings:
    """Read every section; a bad entry keeps its name, so that references to it still hold."""
    root.quiet("version", *_DESCRIBES)
    chains = tuple(_chain(key, value) for key, value in _named(root, "fallback_chains"))
    chained = frozenset(chain.group for chain in chains)
    mappings = Mappings(
        routes=tuple(_route(k, v, chained) for k, v in _named(root, "exact_matches")),
        chains=tuple(chain for chain in chains if chain.group != "default"),
        default_chain=next((chain for chain in chains if chain.group == "default"), None),
        capabilities=tuple(_capability(k, v) for k, v in _named(root, "capabilities")),
        balances=tuple(_balance(k, v) for k, v in _named(root, "load_balancing")),
    )
    root.without_effect("patterns", "model-mappings.yaml", _PATTERNS)
    root.without_effect("routing_rules", "model-mappings.yaml", _RULES)
    root.without_effect("special_cases", "model-mappings.yaml", _CASES)
    root.done({"model_list": "that is a gateway config; labctl writes it from `exact_matches`"})
    return mappings


def _named(root: Section, key: str) -> tuple[tuple[Value, Value], ...]:
    """The entries of a section whose keys are names that clients may ask for."""
    value = root.get(key)
    entries = value.entries() if value else ()
    for name, _ in entries:
        if not name.name.strip() or not name.name.isprintable():
            name.wrong("value", "holds a name that is empty or not printable")
    return entries


def _reference(section: Section, key: str) -> Reference | None:
    value = section.get(key)
    return value.as_reference() if value else None


def _references(value: Value | None) -> tuple[Reference, ...]:
    read = (item.as_reference() for item in (value.items() if value else ()))
    return tuple(reference for reference in read if reference is not None)


def _route(key: Value, value: Value, chained: frozenset[str]) -> Route:
    section = value.section(key.at)
    section.quiet(*_DESCRIBES)
    named = section.required("provider", "name a provider of providers.yaml")
    provider = named.as_reference() if named else None
    backend_model = _reference(section, "backend_model")
    section.without_effect("priority", "exact_matches", _PRIORITY)
    fallback = _reference(section, "fallback")
    if fallback is not None and key.name in chained:
        section.without_effect("fallback", "exact_matches of names with a chain", _FALLBACK)
        fallback = None
    section.done({"model": "did you mean `backend_model`?"})
    return Route(key.name, key.at, provider or Reference("", key.at), backend_model, fallback)


def _chain(key: Value, value: Value) -> Chain:
    if isinstance(value.node, Items):
        return Chain(key.name, key.at, _references(value))
    section = value.section(key.at)
    section.quiet(*_DESCRIBES)
    section.required("chain", "list the names to try; `chain: []` ends the line on purpose")
    members = _references(section.get("chain"))
    section.done({"fallback": "did you mean `chain`?", "models": "did you mean `chain`?"})
    return Chain(key.name, key.at, members)


def _capability(key: Value, value: Value) -> Capability:
    section = value.section(key.at)
    section.quiet(*_DESCRIBES)
    thresholds: list[Reference] = []
    for name in section.found:
        if name.endswith("_thresholds"):
            level = section.get(name)
            for _, model in level.entries() if level else ():
                if (reference := model.as_reference()) is not None:
                    thresholds.append(reference)
            section.without_effect(name, "capabilities", _THRESHOLDS)
    capability = Capability(
        name=key.name,
        at=key.at,
        preferred=_references(section.get("preferred_models")),
        provider=_reference(section, "provider"),
        fallback=_reference(section, "fallback"),
        thresholds=tuple(thresholds),
    )
    section.without_effect("routing_strategy", "capabilities", _STRATEGY)
    section.without_effect("min_model_size", "capabilities", _MINIMUM)
    section.without_effect("min_context", "capabilities", _MINIMUM)
    section.done({"models": "did you mean `preferred_models`?"})
    if not capability.preferred and capability.provider is None:
        message = f"`{value.path}` names neither `preferred_models` nor a `provider`"
        section.scope.error("missing-key", key.at, message, "list the models that it prefers")
    return capability


def _balance(key: Value, value: Value) -> Balance:
    section = value.section(key.at)
    section.quiet(*_DESCRIBES)
    listed = section.required("providers", "list the providers, each with its weight")
    shares = tuple(
        share for item in (listed.items() if listed else ()) if (share := _share(item)) is not None
    )
    section.without_effect("strategy", "load_balancing", _SPREAD)
    section.without_effect("parameters", "load_balancing", _SPREAD)
    section.done()
    return Balance(key.name, key.at, shares)


def _share(item: Value) -> Share | None:
    section = item.section()
    section.quiet(*_DESCRIBES)
    named = section.required("provider", "name a provider of providers.yaml")
    provider = named.as_reference() if named else None
    weighed = section.get("weight")
    weight = weighed.as_number(0, 1_000_000, above=True) if weighed else None
    preferred = _reference(section, "preferred_model")
    section.without_effect("condition", "load_balancing", _CONDITION)
    section.done({"model": "did you mean `preferred_model`?"})
    return Share(provider, weight or 1.0, preferred) if provider else None
