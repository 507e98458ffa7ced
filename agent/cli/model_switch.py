"""Point a service at another model file, and back: a line of lab.yaml, or a link."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Protocol

from agent.cli.checked import Checked, check_texts
from agent.cli.places import home
from agent.host.disk import LocalDisk
from agent.host.model_finder import pinned
from agent.lab.edit import like, with_model, written_model
from agent.lab.read import LAB
from agent.model.errors import Refused
from agent.model.host import EntryKind
from agent.model.lab import Lab, Service

_NEW = ".labctl-new"


class Switch(Protocol):
    """One change that can be taken back. `what` says it in words."""

    @property
    def what(self) -> str: ...

    @property
    def changes(self) -> bool: ...

    def make(self) -> None: ...

    def take_back(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class LinkSwitch:
    """A link to a model, `current.gguf`; `before` and `after` are targets as they stand on disk."""

    disk: LocalDisk
    path: str
    before: str
    after: str
    what: str

    @property
    def changes(self) -> bool:
        return self.before != self.after

    def make(self) -> None:
        self._point_to(self.after)

    def take_back(self) -> bool:
        """Whether the link is again what it was; False when somebody changed it meanwhile."""
        if self.disk.target(self.path) != self.after:
            return False
        self._point_to(self.before)
        return True

    def _point_to(self, target: str) -> None:
        _remove_leftover(self.disk, self.path + _NEW)
        self.disk.link(self.path + _NEW, target)
        self.disk.rename(self.path + _NEW, self.path)
        self.disk.sync_folder(os.path.dirname(self.path))


@dataclass(frozen=True, slots=True)
class LabSwitch:
    """The text of lab.yaml, wherever a link leads to it."""

    disk: LocalDisk
    path: str
    before: bytes
    after: bytes
    mode: int
    what: str

    @property
    def changes(self) -> bool:
        return self.before != self.after

    def make(self) -> None:
        if self.disk.read(self.path) != self.before:
            raise Refused(f"{self.path} was changed meanwhile; nothing was touched")
        self._write(self.after)

    def take_back(self) -> bool:
        """Whether the file is again what it was; False when somebody changed it meanwhile."""
        if self.disk.read(self.path) != self.after:
            return False
        self._write(self.before)
        return True

    def _write(self, data: bytes) -> None:
        _remove_leftover(self.disk, self.path + _NEW)
        self.disk.create(self.path + _NEW, data, self.mode)
        self.disk.rename(self.path + _NEW, self.path)
        self.disk.sync_folder(os.path.dirname(self.path))


def switch_for(checked: Checked, service: Service, model: str) -> Switch:
    """How this service comes to serve `model`, an absolute path. Changes nothing yet.

    1. Its model is a link to a `.gguf` file: the link is replaced.
    2. Else its `model:` in lab.yaml is, and nothing but that; the text is read again to be sure.
    """
    disk = LocalDisk()
    if service.model_file is not None and _is_model_link(disk, service.model_file):
        return _link_switch(disk, service.model_file, model)
    return _lab_switch(disk, checked, service, model)


def pinned_models(lab: Lab) -> Lab:
    """The lab with every model link followed: a generation names the file that it was proved with.

    So that going back brings back the file too, whatever the link says by then.
    """
    return replace(lab, services=tuple(_pinned(service) for service in lab.services))


def _pinned(service: Service) -> Service:
    if service.model_file is None or not service.model_file.startswith("/"):
        return service
    return replace(service, model_file=pinned(service.model_file))


def _is_model_link(disk: LocalDisk, path: str) -> bool:
    entry = disk.entry(path)
    if entry is None or entry.kind is not EntryKind.LINK:
        return False
    return disk.target(path).endswith(".gguf")


def _link_switch(disk: LocalDisk, path: str, model: str) -> LinkSwitch:
    before = disk.target(path)
    folder = os.path.dirname(path)
    if pinned(path) == pinned(model):
        after = before
    else:
        after = (
            model if before.startswith("/") else os.path.relpath(model, os.path.realpath(folder))
        )
    return LinkSwitch(disk, path, before, after, f"the link {path} → {after}")


def _lab_switch(disk: LocalDisk, checked: Checked, service: Service, model: str) -> LabSwitch:
    path = os.path.realpath(f"{checked.directory}/{LAB}")
    entry = disk.entry(path)
    if entry is None:
        raise Refused(
            f"{service.name} is not declared: there is no {checked.directory}/{LAB}",
            hint=f"write `services: {{{service.name}: {{model: PATH}}}}` into it first",
        )
    before = disk.read(path)
    text = before.decode("utf-8")  # it was read as such a moment ago
    old = written_model(text.removeprefix("\ufeff"), service.name) or ""
    value = like(old, model, checked.directory, home())
    if service.model_file == model:
        value, after = old, before
    else:
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        after = (mark + with_model(text.removeprefix("\ufeff"), service.name, value)).encode()
        _require_only(checked, after, service, model)
    what = f"`model: {value}` of {service.name} in {path}"
    return LabSwitch(disk, path, before, after, entry.mode, what)


def _require_only(checked: Checked, after: bytes, service: Service, model: str) -> None:
    """Read the edited lab: this service's model is the new one, and nothing else is different."""
    read = check_texts({**checked.texts, LAB: after}, checked.directory).lab
    wanted = {**_models_of(checked.lab), service.name: model}
    if read is None or _models_of(read) != wanted:
        raise Refused(
            f"the `model:` of {service.name} in lab.yaml cannot be changed on its own; nothing was"
            " touched",
            hint="change it by hand, then `labctl deploy`",
        )


def _models_of(lab: Lab | None) -> dict[str, str | None]:
    return {service.name: service.model_file for service in (lab.services if lab else ())}


def _remove_leftover(disk: LocalDisk, path: str) -> None:
    if disk.entry(path) is not None:
        disk.remove(path)
