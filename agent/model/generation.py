"""Generations: immutable, numbered snapshots of a deploy; and the record of a transaction.

Everything that a rollback or a recovery needs is in here. Neither ever reads the lab.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agent.model.kinds import ServiceKind
from agent.model.placed import OffloadProof, ServicePlacement

# The first line of every unit file that labctl owns; one without it is never overwritten.
UNIT_MARKER = (
    "# Managed by labctl. Set things in lab.yaml instead: a deploy replaces what is edited here."
)


# Where a generation keeps the lab's secrets: sealed with it, so that going back brings back the
# keys that worked; never in a digest, a diff or an output.
SECRETS_FILE = "secrets.env"

# Where a generation keeps the gateway's config.
GATEWAY_CONFIG = "litellm.yaml"


class GenerationKind(StrEnum):
    """How a generation came to be."""

    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link that a generation wants on the host. `path` and `target` are absolute or
    relative exactly as they stand on disk."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class HostFile:
    """A foreign file kept byte for byte: `path` on the host, `stored` inside the generation."""

    path: str
    stored: str
    mode: int


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """One file of a deploy. `path` is relative to the generation's folder."""

    path: str
    data: bytes = field(repr=False)  # it may be a secret
    mode: int = 0o600
    secret: bool = False


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One sealed file: its path inside the generation, its SHA-256 (hex) and permission bits.

    A secret file's digest is keyed, so that the manifest tells nothing about its content.
    """

    path: str
    sha256: str
    mode: int
    secret: bool = False


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a generation wants of one unit, and how to prove it.

    Attributes:
        kind: None for a foreign unit that labctl does not know how to probe.
        active: whether the unit shall run.
        inputs: digest of everything the unit reads; the running process carries it in its
            environment as `LABCTL_INPUTS`. Empty for foreign units.
        components: (what, digest) pairs that `inputs` is made of, for saying what changed.
        serves: the names that the backend's model list must hold.
        exclusive: the group of which only one unit may run.
        listens: for foreign units, the ports they held when they were adopted.
    """

    name: str
    unit: str
    kind: ServiceKind | None
    active: bool = True
    required: bool = True
    host: str = "127.0.0.1"
    port: int | None = None
    inputs: str = ""
    components: tuple[tuple[str, str], ...] = ()
    serves: tuple[str, ...] = ()
    api_key_variable: str | None = None
    model_file: str | None = None
    start_timeout_s: float = 900.0
    exclusive: str | None = None
    listens: tuple[int, ...] = ()

    @property
    def is_gateway(self) -> bool:
        return self.kind is ServiceKind.LITELLM


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A model group as deployed: the services behind it and its chain.

    `services` names local services; `remote` says that a cloud provider serves it too.
    """

    name: str
    services: tuple[str, ...]
    remote: bool
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionSpec:
    """One proving completion: ask the gateway, expect `service` to have answered.

    Attributes:
        group: the model group that the deployment belongs to.
        asks: the deployment's own id, which reaches it alone; empty means ask for the group.
        answers_at: the address that the gateway must name in its answer; empty means any.
        embedding: the model makes vectors, no text.
    """

    group: str
    service: str
    model: str
    embedding: bool = False
    asks: str = ""
    answers_at: str = ""

    @property
    def asked_for(self) -> str:
        return self.asks or self.group


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How long to wait and what to prove. Times are seconds."""

    soak_s: float = 5.0
    stall_timeout_s: float = 60.0
    completion_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation is. Stored as `manifest.json`, never changed after the seal.

    Attributes:
        created_at: ISO 8601, UTC.
        digest: over the effective content: two generations with one digest deploy the same.
        lab: the folder it was rendered from; empty for adopted generations.
    """

    number: int
    created_at: str
    kind: GenerationKind
    reason: str
    digest: str
    files: tuple[FileEntry, ...] = ()
    links: tuple[Link, ...] = ()
    host_files: tuple[HostFile, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    completions: tuple[CompletionSpec, ...] = ()
    placements: tuple[ServicePlacement, ...] = ()
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    restores: int | None = None
    lab: str = ""
    git_commit: str | None = None
    labctl_version: str = ""
    format: int = 1

    @property
    def paths(self) -> frozenset[str]:
        """Every host path outside the state folder that this generation places something at."""
        links = frozenset(link.path for link in self.links)
        return links | frozenset(file.path for file in self.host_files)

    @property
    def foreign(self) -> bool:
        """Whether it only brings back what stood before labctl."""
        return all(service.kind is None for service in self.services)

    @property
    def gateway(self) -> ServiceSpec | None:
        return next((service for service in self.services if service.is_gateway), None)

    def service(self, name: str) -> ServiceSpec | None:
        return next((service for service in self.services if service.name == name), None)

    def placement(self, service: str) -> ServicePlacement | None:
        return next((placed for placed in self.placements if placed.service == service), None)


class Standing(StrEnum):
    """What is known of a generation after its transaction."""

    UNPROVED = "unproved"
    GOOD = "good"
    DEGRADED = "degraded"
    BAD = "bad"
    ADOPTED = "adopted"

    @property
    def restorable(self) -> bool:
        """Whether an automatic rollback may choose it."""
        return self in (Standing.GOOD, Standing.DEGRADED, Standing.ADOPTED)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a generation; stored beside its manifest as `verdict.json`.

    `evidence` holds one sentence per failed sample, and per chain that is weaker than meant;
    `proofs` where the layers of each placed service were found.
    """

    standing: Standing
    judged_at: str
    evidence: tuple[str, ...] = ()
    proofs: tuple[OffloadProof, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """A sealed generation in the store.

    `folder` is the name below `generations/`, e.g. `000007-20251111T231120Z`.
    """

    manifest: Manifest
    folder: str
    judgement: Judgement | None = None

    @property
    def standing(self) -> Standing:
        if self.judgement is not None:
            return self.judgement.standing
        adopted = self.manifest.kind is GenerationKind.ADOPTED
        return Standing.ADOPTED if adopted else Standing.UNPROVED

    @property
    def number(self) -> int:
        return self.manifest.number


@dataclass(frozen=True, slots=True)
class DamagedGeneration:
    """A generation folder that cannot be read, and why."""

    folder: str
    why: str


@dataclass(frozen=True, slots=True)
class Record:
    """The durable state of the transaction in flight; written before anything changes.

    Attributes:
        previous: the generation that `current` named when it began.
        target: the generation being deployed.
        fallback: the last verified-good generation, to which a failure goes back.
        running_before: units that are not ours, depend on ours, and ran when it began.
        keep_target: a failure leaves the target in place (`--no-rollback`, `labctl rollback`).
    """

    previous: int
    target: int
    fallback: int
    verb: str
    started_at: str
    running_before: tuple[str, ...] = ()
    keep_target: bool = False
    format: int = 1
