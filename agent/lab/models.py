"""The `models:` of a provider: names, sizes of context, request options and prices."""

from __future__ import annotations

from dataclasses import replace

from agent.lab.cursor import Section, Value, did_you_mean
from agent.lab.scope import Effectless
from agent.lab.tree import Scalar, Table, quoted
from agent.model.lab import ProviderModel, ProviderType

# Ollama's request options (api/types.go, `Options` and `Runner`); it ignores all others.
OLLAMA_OPTIONS = frozenset(
    (
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "num_keep"),
        *("seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n"),
        *("temperature", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop"),
        "draft_num_predict",
    )
)
CONTEXT_MAX = 100_000_000

_DESCRIBES_MODEL = (
    *("description", "notes", "docs", "features", "tags", "tier", "display", "size", "family"),
    *("quantization", "pulled_at", "model_size_gb", "kv_cache_available_gb", "metadata"),
)

_NUM_GPU_LAYERS = Effectless(
    "Ollama ignores options that it does not know, and this one is called `num_gpu`",
    "write `num_gpu`; leave it out to let Ollama decide",
)
_NOT_OLLAMA = Effectless("only Ollama takes options with a request", "remove it")


def read_models(section: Section, type_: ProviderType) -> tuple[ProviderModel, ...]:
    """The models of a provider, with their prices; of two equal names the first."""
    value = section.get("models")
    models: dict[str, ProviderModel] = {}
    for item in value.items() if value else ():
        model = _model(item, type_)
        if model is None:
            continue
        if model.name in models:
            first = models[model.name].at.line
            message = f"the model {quoted(model.name)} is listed twice, first on line {first}"
            item.scope.error("duplicate-key", model.at, message, "keep one of them")
        else:
            models[model.name] = model
    return _with_costs(section, models)


def _model(item: Value, type_: ProviderType) -> ProviderModel | None:
    if not isinstance(item.node, Table):
        name = item.as_text()
        return ProviderModel(name, item.at) if name else None
    section = item.section()
    section.quiet(*_DESCRIBES_MODEL)
    named = section.required("name", "write `- name: MODEL`")
    name = named.as_text() if named else None
    specialty = section.get("specialty")
    context = section.get("context_length")
    prices = {
        key: value.as_number(0, 1) if (value := section.get(key)) else None
        for key in ("input_cost_per_token", "output_cost_per_token")
    }
    model = ProviderModel(
        name=name or "",
        at=named.at if named else item.at,
        specialty=specialty.as_text() if specialty else None,
        context_length=context.as_integer(1, CONTEXT_MAX, " tokens") if context else None,
        options=_options(section, type_),
        **prices,
    )
    section.done()
    return model if name else None


def _options(section: Section, type_: ProviderType) -> tuple[tuple[str, object], ...]:
    """Request options that the backend will really read, sorted by name."""
    value = section.get("options")
    if value is None:
        return ()
    if type_ is not ProviderType.OLLAMA:
        section.without_effect("options", "models of this type of provider", _NOT_OLLAMA)
        return ()
    options: dict[str, object] = {}
    for key, option in value.entries():
        if key.name in OLLAMA_OPTIONS:
            read = _option(key.name, option)
            if read is not None:
                options[key.name] = read
        elif key.name in ("num_gpu_layers", "n_gpu_layers", "gpu_layers"):
            where = "`options` of an Ollama model"
            key.scope.without_effect(key.at, f"`{key.name}`", where, _NUM_GPU_LAYERS)
        else:
            hint = did_you_mean(key.name, OLLAMA_OPTIONS)
            unknown = Effectless("Ollama ignores options that it does not know", hint or "see docs")
            what = quoted(key.name)
            key.scope.without_effect(key.at, what, "`options` of an Ollama model", unknown)
    return tuple(sorted(options.items()))


def _option(name: str, value: Value) -> object | None:
    if name == "stop" and not isinstance(value.node, Scalar):
        return tuple(text for item in value.items() if (text := item.as_text()) is not None)
    if name == "stop":
        return value.as_text()
    if name == "use_mmap":
        return value.as_flag()
    if name.startswith(("num_", "draft_", "seed", "main_gpu", "top_k", "repeat_last_n")):
        return value.as_integer(-(1 << 31), 1 << 31)
    return value.as_number(-1000, 1000)


def _with_costs(section: Section, priced: dict[str, ProviderModel]) -> tuple[ProviderModel, ...]:
    """Prices of `cost_per_1k_tokens`: one number for both directions, or `input` and `output`."""
    costs = section.get("cost_per_1k_tokens")
    for key, value in costs.entries() if costs else ():
        if key.name not in priced:
            hint = did_you_mean(key.name, priced) or "list the model under `models:`"
            key.wrong("value", f"prices {quoted(key.name)}, which the provider does not list", hint)
            continue
        if isinstance(value.node, Table):
            both = value.section(key.at)
            cells = [both.required("input"), both.required("output")]
            both.done()
        else:
            cells = [value]
        prices = [cell.as_number(0, 1000) if cell else None for cell in cells]
        first, last = prices[0], prices[-1]
        if first is not None and last is not None:
            priced[key.name] = replace(
                priced[key.name],
                input_cost_per_token=first / 1000,
                output_cost_per_token=last / 1000,
            )
    return tuple(priced.values())
