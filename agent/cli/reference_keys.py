"""Every key of a lab's files, for the reference. A test compares it with what the readers accept.

Defaults are read from the model, so that they cannot drift; meanings are written here.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields

from agent.model.lab import DeploySettings, Gateway, Redis, Service

Settings = type[Service] | type[Gateway] | type[DeploySettings] | type[Redis]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what it takes, with its unit, and what it does.

    Attributes:
        field: the model's field that holds its default; empty for keys without one.
        default: the default in words, where no field says it.
    """

    name: str
    takes: str
    does: str
    field: str = ""
    default: str = ""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys of one mapping. `path` uses `*` for names that the user chooses.

    Attributes:
        settings: the dataclass that `Key.field` names fields of.
        silent: keys that describe and never act.
        idle: keys that are read only to say that they have no effect.
    """

    file: str
    path: str
    keys: tuple[Key, ...]
    settings: Settings | None = None
    silent: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*(key.name for key in self.keys), *self.silent, *self.idle))


_NOTES = ("description", "notes")
_DESCRIBES = (*_NOTES, "docs", "metadata", "tags", "tier")

LAB_TABLES = (
    KeyTable(
        "lab.yaml",
        "",
        (
            Key("version", "1", "the format of the file", default="1"),
            Key("services", "mapping of names", "the backends of this host, one unit each"),
            Key("gateway", "mapping", "settings of LiteLLM"),
            Key("deploy", "mapping", "how a deploy waits and judges"),
        ),
        silent=_NOTES,
    ),
    KeyTable(
        "lab.yaml",
        "services.*",
        (
            Key("kind", "a kind of service", "which program it is", default="its name"),
            Key("provider", "a provider's name", "which provider leads to it", default="by port"),
            Key("enabled", "true or false", "whether it is deployed", "enabled"),
            Key("required", "true or false", "whether its failure fails a deploy", "required"),
            Key("port", "1 to 65535", "where it listens", default="that of its kind"),
            Key("host", "address or host name", "where it listens", "host"),
            Key("program", "path", "an executable, or a folder that holds it", default="PATH"),
            Key("model", "path, or for vLLM a hub name", "what it serves", "model_file"),
            Key(
                "model_name",
                "text",
                "the name that it answers to",
                default="its provider's",
            ),
            Key("context", "tokens", "size of the context", "context"),
            Key("slots", "count", "requests answered side by side", "slots"),
            Key("threads", "count", "CPU threads", "threads"),
            Key(
                "gpu_layers",
                "count, `auto` or `all`",
                "layers put on GPUs; without it llama-server gets `auto`, llama-cpp-python 0",
                "gpu_layers",
            ),
            Key("environment", "mapping of variables", "passed on as written; never a key"),
            Key("args", "list of words", "further words of its command line"),
            Key("exclusive", "a group's name", "of one group only one may be enabled", "exclusive"),
            Key("memory_max", "bytes, `24G`, `80%`", "`MemoryMax=` of its unit", "memory_max"),
            Key(
                "api_key",
                "a variable's name",
                "the key that it demands, from secrets.env",
                "api_key_variable",
            ),
            Key(
                "exposed",
                "true or false",
                "accept a listener beyond loopback without a key",
                "exposed",
            ),
            Key(
                "start_timeout",
                "duration",
                "hard ceiling of one start",
                default="`deploy.start_timeout`",
            ),
        ),
        settings=Service,
        silent=_NOTES,
    ),
    KeyTable(
        "lab.yaml",
        "gateway",
        (
            Key("enabled", "true or false", "whether LiteLLM is deployed", "enabled"),
            Key("host", "address or host name", "where it listens", "host"),
            Key("port", "1 to 65535", "where it listens", "port"),
            Key("program", "path", "an executable, or a folder that holds it", default="PATH"),
            Key(
                "master_key",
                "a variable's name",
                "the key that clients send, from secrets.env",
                "master_key_variable",
            ),
            Key("request_timeout", "duration", "of one request", "request_timeout_s"),
            Key("stream_timeout", "duration", "until a stream's first byte", "stream_timeout_s"),
            Key("retries", "0 to 20", "where nothing follows a group", "retries"),
            Key("allowed_fails", "count", "failures before a cooldown", "allowed_fails"),
            Key("cooldown", "duration", "how long a deployment is left out", "cooldown_s"),
            Key("max_fallbacks", "1 to 100", "how far a chain is followed", "max_fallbacks"),
            Key("redis", "mapping", "a response cache", "redis"),
            Key("rate_limits", "mapping of model names", "limits by the name clients ask for"),
            Key("environment", "mapping of variables", "passed on as written; never a key"),
            Key("memory_max", "bytes, `24G`, `80%`", "`MemoryMax=` of its unit", "memory_max"),
            Key(
                "start_timeout",
                "duration",
                "hard ceiling of one start",
                default="`deploy.start_timeout`",
            ),
        ),
        settings=Gateway,
        silent=_NOTES,
    ),
    KeyTable(
        "lab.yaml",
        "gateway.redis",
        (
            Key("host", "address or host name", "where it is", default="127.0.0.1"),
            Key("port", "1 to 65535", "where it is", default="6379"),
            Key("ttl", "duration", "how long an answer is kept", "ttl_s"),
        ),
        settings=Redis,
    ),
    KeyTable(
        "lab.yaml",
        "gateway.rate_limits.*",
        (
            Key("rpm", "count", "requests a minute"),
            Key("tpm", "count", "tokens a minute"),
        ),
    ),
    KeyTable(
        "lab.yaml",
        "deploy",
        (
            Key("soak", "duration", "how long each unit must stay up once it answers", "soak_s"),
            Key("start_timeout", "duration", "hard ceiling of one start", "start_timeout_s"),
            Key(
                "stall_timeout",
                "duration",
                "a start without progress for this long has failed",
                "stall_timeout_s",
            ),
            Key(
                "completion_timeout",
                "duration",
                "ceiling of one proving completion",
                "completion_timeout_s",
            ),
            Key("keep_generations", "2 or more", "how many stay", "keep_generations"),
            Key(
                "prove_completions",
                "true or false",
                "one real completion for each local model",
                "prove_completions",
            ),
        ),
        settings=DeploySettings,
    ),
)

PROVIDER_TABLES = (
    KeyTable(
        "providers.yaml",
        "",
        (Key("providers", "mapping of names", "who serves models"),),
        silent=("version", *_NOTES, "metadata"),
        idle=("health_checks",),
    ),
    KeyTable(
        "providers.yaml",
        "providers.*",
        (
            Key("type", "a type of provider", "how LiteLLM speaks to it", default="needed"),
            Key("base_url", "http or https URL", "where it is", default="needed"),
            Key(
                "status", "`active`, `disabled`, `template`", "whether it serves", default="active"
            ),
            Key("models", "list of names or mappings", "what it serves"),
            Key("requires_api_key", "true or false", "needs `env_var` when true", default="false"),
            Key("env_var", "a variable's name", "its key, from secrets.env"),
            Key("rate_limits", "mapping", "limits of each of its deployments"),
            Key("cost_per_1k_tokens", "mapping of models", "US dollars for 1000 tokens"),
            Key("configuration", "mapping", "settings of an inferred service"),
            Key("max_model_len", "tokens", "`--max-model-len` of an inferred vLLM"),
            Key("gpu_memory_utilization", "0 to 1", "the same flag of an inferred vLLM"),
        ),
        silent=(*_NOTES, "docs", "features", "location", "tags", "tier"),
        idle=("health_endpoint", "service_file", "api_format", "hardware_requirements"),
    ),
    KeyTable(
        "providers.yaml",
        "providers.*.models[]",
        (
            Key("name", "text", "the provider's own name of it", default="needed"),
            Key("specialty", "text", "finds the model of a share; `embedding` is proved as one"),
            Key("context_length", "tokens", "size of the context"),
            Key("options", "mapping", "Ollama's request options"),
            Key("input_cost_per_token", "US dollars", "price of a token"),
            Key("output_cost_per_token", "US dollars", "price of a token"),
        ),
        silent=(
            *_DESCRIBES,
            *("features", "display", "size", "family", "quantization", "pulled_at"),
            *("model_size_gb", "kv_cache_available_gb"),
        ),
    ),
    KeyTable(
        "providers.yaml",
        "providers.*.rate_limits",
        (
            Key("requests_per_minute", "count", "requests a minute"),
            Key("tokens_per_minute", "count", "tokens a minute"),
        ),
        silent=(*_NOTES, "hourly", "daily", "details"),
    ),
    KeyTable(
        "providers.yaml",
        "providers.*.configuration",
        (
            Key("n_gpu_layers", "count, -1 for all", "layers offered to the GPU"),
            Key("n_ctx", "tokens, 0 for the model's own", "size of the context"),
            Key("n_parallel", "count", "requests answered side by side"),
            Key("threads", "count", "CPU threads"),
            Key("n_threads", "count", "CPU threads; wins over `threads`"),
        ),
        silent=_NOTES,
    ),
)

MAPPING_TABLES = (
    KeyTable(
        "model-mappings.yaml",
        "",
        (
            Key("exact_matches", "mapping of names", "name that clients use → provider"),
            Key("fallback_chains", "mapping of names", "what is tried when a name fails"),
            Key("capabilities", "mapping of names", "use cases that clients ask for by name"),
            Key("load_balancing", "mapping of names", "one name, several providers"),
        ),
        silent=("version", *_DESCRIBES),
        idle=("patterns", "routing_rules", "special_cases"),
    ),
    KeyTable(
        "model-mappings.yaml",
        "exact_matches.*",
        (
            Key("provider", "a provider's name", "who is asked", default="needed"),
            Key("backend_model", "text", "the provider's own name", default="the same name"),
            Key("fallback", "a name", "the chain of a name without one"),
        ),
        silent=_DESCRIBES,
        idle=("priority",),
    ),
    KeyTable(
        "model-mappings.yaml",
        "fallback_chains.*",
        (Key("chain", "list of names", "tried in order; `[]` ends the line on purpose"),),
        silent=_DESCRIBES,
    ),
    KeyTable(
        "model-mappings.yaml",
        "capabilities.*",
        (
            Key("preferred_models", "list of names", "the first serves, the others follow"),
            Key("provider", "a provider's name", "who is asked, without `preferred_models`"),
            Key("fallback", "a name", "the end of its chain"),
        ),
        silent=_DESCRIBES,
        idle=("routing_strategy", "min_model_size", "min_context"),
    ),
    KeyTable(
        "model-mappings.yaml",
        "load_balancing.*",
        (Key("providers", "list of shares", "who answers", default="needed"),),
        silent=_DESCRIBES,
        idle=("strategy", "parameters"),
    ),
    KeyTable(
        "model-mappings.yaml",
        "load_balancing.*.providers[]",
        (
            Key("provider", "a provider's name", "who answers", default="needed"),
            Key("preferred_model", "text", "which of its models"),
            Key("weight", "above 0", "its relative share", default="1"),
        ),
        silent=_DESCRIBES,
        idle=("condition",),
    ),
)

TABLES = (*LAB_TABLES, *PROVIDER_TABLES, *MAPPING_TABLES)


def default_of(table: KeyTable, key: Key) -> str:
    """A key's default in words; a dash where there is none."""
    if key.default or table.settings is None or not key.field:
        return key.default or "-"
    field = next(field for field in fields(table.settings) if field.name == key.field)
    return _in_words(field)


def _in_words(field: Field[object]) -> str:
    value = field.default
    if value is None or value is MISSING:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g} s" if field.name.endswith("_s") else str(value)
