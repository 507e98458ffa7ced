"""The lab: the desired state of one host, typed. Readers in `agent.lab` build it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from agent.model.finding import Position
from agent.model.kinds import ServiceKind as ServiceKind

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


class ProviderType(StrEnum):
    """The `type:` of a provider in providers.yaml."""

    OLLAMA = "ollama"
    LLAMA_CPP = "llama_cpp"
    VLLM = "vllm"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OPENAI_COMPATIBLE = "openai_compatible"

    @property
    def serves_one_model(self) -> bool:
        """Whether one process of this type serves exactly one model."""
        return self in (ProviderType.LLAMA_CPP, ProviderType.VLLM)


class ProviderStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    TEMPLATE = "template"


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that a lab file mentions, and where it does."""

    name: str
    at: Position


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Requests and tokens a minute; None means not limited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """One model that a provider serves, as listed in providers.yaml.

    `options` are request options of the backend (Ollama's `num_gpu`, `num_ctx`, ...), sorted.
    Costs are US dollars a token.
    """

    name: str
    at: Position
    specialty: str | None = None
    context_length: int | None = None
    options: tuple[tuple[str, object], ...] = ()
    input_cost_per_token: float | None = None
    output_cost_per_token: float | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """An endpoint that serves models: a local service or a cloud API."""

    name: str
    at: Position
    type: ProviderType
    base_url: str
    status: ProviderStatus
    models: tuple[ProviderModel, ...] = ()
    api_key_variable: str | None = None
    rate_limit: RateLimit = RateLimit()
    service: str | None = None

    @property
    def active(self) -> bool:
        return self.status is ProviderStatus.ACTIVE

    @property
    def host(self) -> str:
        try:
            return urlsplit(self.base_url).hostname or ""
        except ValueError:  # a template may hold anything
            return ""

    @property
    def port(self) -> int | None:
        try:
            parts = urlsplit(self.base_url)
            return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            return None

    @property
    def local(self) -> bool:
        """Whether the endpoint is on this host."""
        return self.host in LOOPBACK_HOSTS

    def model(self, name: str) -> ProviderModel | None:
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True, slots=True)
class Service:
    """One managed program and its unit, `<name>.service`.

    Attributes:
        declared: written in lab.yaml; False when inferred from a local provider.
        required: its failure fails a deploy.
        program: an executable, or a folder that holds it; None means look on PATH.
        model_file: absolute path of the GGUF or model folder; None where the kind has none.
        model_name: the name the backend answers to, which the gateway asks it for.
        gpu_layers: a count, "auto" or "all"; None means the backend's default.
        memory_max: systemd's `MemoryMax=` value, e.g. "24G".
        api_key_variable: name in secrets.env of the key that the backend demands.
        exposed: the user accepts that it listens beyond loopback without a key.
    """

    name: str
    at: Position
    kind: ServiceKind
    port: int
    host: str = "127.0.0.1"
    enabled: bool = True
    required: bool = True
    declared: bool = True
    program: str | None = None
    model_file: str | None = None
    model_name: str | None = None
    context: int | None = None
    slots: int | None = None
    threads: int | None = None
    gpu_layers: int | str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    args: tuple[str, ...] = ()
    exclusive: str | None = None
    memory_max: str | None = None
    api_key_variable: str | None = None
    exposed: bool = False
    start_timeout_s: float | None = None

    @property
    def unit(self) -> str:
        return f"{self.name}.service"

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK_HOSTS


@dataclass(frozen=True, slots=True)
class Route:
    """An exact match of model-mappings.yaml: the name that clients use → a model of a provider."""

    name: str
    at: Position
    provider: Reference
    backend_model: Reference | None = None
    fallback: Reference | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """The ordered fallbacks of a model group. An empty `members` ends the line on purpose."""

    group: str
    at: Position
    members: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Capability:
    """A use case that clients ask for by name; its preferred models in order.

    `thresholds` are model names that the file mentions in `*_thresholds`: without effect in the
    gateway, but a name that does not exist is still a mistake worth naming.
    """

    name: str
    at: Position
    preferred: tuple[Reference, ...] = ()
    provider: Reference | None = None
    fallback: Reference | None = None
    thresholds: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """One provider's part of a balanced group. Weights are relative, not percentages."""

    provider: Reference
    weight: float
    preferred_model: Reference | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """A group whose requests are spread over several providers by weight."""

    name: str
    at: Position
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis server for the gateway's response cache, only where the lab asks for it."""

    host: str
    port: int
    ttl_s: int = 3600


@dataclass(frozen=True, slots=True)
class Gateway:
    """Settings of the LiteLLM gateway. Times are seconds."""

    at: Position
    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 4000
    program: str | None = None
    master_key_variable: str = "LITELLM_MASTER_KEY"
    request_timeout_s: float = 300.0
    stream_timeout_s: float | None = None
    retries: int = 2
    allowed_fails: int = 3
    cooldown_s: float = 30.0
    max_fallbacks: int = 5
    redis: Redis | None = None
    rate_limits: tuple[tuple[Reference, RateLimit], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    memory_max: str | None = None
    start_timeout_s: float | None = None

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK_HOSTS


@dataclass(frozen=True, slots=True)
class DeploySettings:
    """How a deploy waits and judges. Times are seconds.

    Attributes:
        soak_s: how long every unit must stay up after it answered.
        start_timeout_s: the hard ceiling of one start, progress or not.
        stall_timeout_s: a start without any progress for this long has failed.
        completion_timeout_s: ceiling of one proving completion.
        keep_generations: how many generations `prune` keeps.
        prove_completions: send one real completion per local model.
    """

    soak_s: float = 5.0
    start_timeout_s: float = 900.0
    stall_timeout_s: float = 60.0
    completion_timeout_s: float = 120.0
    keep_generations: int = 20
    prove_completions: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the lab as it was read. `name` is relative to the lab's folder."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Lab:
    """The desired state of one host.

    Attributes:
        directory: the lab's folder, absolute.
        declared: lab.yaml exists; False for a folder with only the two routing files.
        sources: the files it came from, secrets excepted.
        secret_names: variables that secrets.env sets to a non-empty value; None without the file.
        secrets_at: the secrets file's position, for findings.
        default_chain: the fallbacks of every group that has no chain of its own.
    """

    directory: str
    declared: bool
    sources: tuple[Source, ...]
    providers: tuple[Provider, ...]
    services: tuple[Service, ...]
    routes: tuple[Route, ...]
    chains: tuple[Chain, ...]
    default_chain: Chain | None
    capabilities: tuple[Capability, ...]
    balances: tuple[Balance, ...]
    gateway: Gateway
    deploy: DeploySettings
    secret_names: frozenset[str] | None = None
    secrets_at: Position = field(default_factory=lambda: Position("secrets.env"))

    def provider(self, name: str) -> Provider | None:
        return next((provider for provider in self.providers if provider.name == name), None)

    def service(self, name: str) -> Service | None:
        return next((service for service in self.services if service.name == name), None)

    @property
    def enabled_services(self) -> tuple[Service, ...]:
        """The backend services that a deploy starts; the gateway is apart."""
        return tuple(service for service in self.services if service.enabled)
