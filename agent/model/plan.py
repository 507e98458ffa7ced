"""The plan: ordered steps from what the host is to what a generation wants."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.model.generation import (
    CompletionSpec,
    GroupSpec,
    JudgeSettings,
    Link,
    ServiceSpec,
)
from agent.model.generation import RenderedFile as RenderedFile
from agent.model.placed import ServicePlacement


@dataclass(frozen=True, slots=True)
class Rendered:
    """Everything a deploy would put in place, and what it promises to serve.

    `digest` covers the effective content: comments of the lab's sources do not count.
    """

    files: tuple[RenderedFile, ...]
    links: tuple[Link, ...]
    services: tuple[ServiceSpec, ...]
    groups: tuple[GroupSpec, ...]
    completions: tuple[CompletionSpec, ...]
    judge: JudgeSettings
    digest: str
    lab: str
    git_commit: str | None = None
    placements: tuple[ServicePlacement, ...] = ()


class Action(StrEnum):
    STOP = "stop"
    START = "start"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Step:
    """One unit action and why it is needed."""

    action: Action
    service: ServiceSpec
    why: str

    def __str__(self) -> str:
        return f"{self.action} {self.service.unit} ({self.why})"


class ChangeKind(StrEnum):
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs. Texts are empty for secrets and for files that are not text."""

    path: str
    kind: ChangeKind
    before: str = ""
    after: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps from observed to wanted.

    Attributes:
        waves: steps of one wave may run side by side; waves run one after the other.
        adopts: foreign host paths that the first step keeps before they are replaced.
        reload: systemd must read unit files again.
        switch: the files differ, so a new generation is needed.
    """

    changes: tuple[FileChange, ...]
    waves: tuple[tuple[Step, ...], ...]
    adopts: tuple[str, ...] = ()
    reload: bool = False
    switch: bool = False
    repairs: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.switch or self.waves or self.adopts or self.repairs)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for wave in self.waves for step in wave)
