"""Every model that a lab's services could serve: those in use, those beside them, the catalogue."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass

from agent.cli.checked import Checked
from agent.cli.model_facts import read_model
from agent.cli.places import home
from agent.cli.views.models import ModelRow
from agent.host.disk import LocalDisk
from agent.host.model_finder import find_model, model_folders, models_beside, pinned
from agent.lab.catalogue import CATALOGUE, CatalogueReading, check_claims, read_catalogue
from agent.model.errors import LabctlError, UsageProblem
from agent.model.finding import Finding, in_reading_order
from agent.model.kinds import ServiceKind
from agent.model.lab import Service

LLAMACPP = (ServiceKind.LLAMACPP_NATIVE, ServiceKind.LLAMACPP_PYTHON)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The models and what is wrong with the catalogue's claims about them."""

    rows: tuple[ModelRow, ...]
    findings: tuple[Finding, ...]


def llamacpp_services(checked: Checked) -> tuple[Service, ...]:
    """The services that serve a GGUF file."""
    services = checked.lab.services if checked.lab else ()
    return tuple(service for service in services if service.kind in LLAMACPP)


def catalogue_of(checked: Checked, given: str | None) -> CatalogueReading:
    """The catalogue that is named, else the lab's own; an absent one is empty."""
    path = os.path.abspath(given) if given else f"{checked.directory}/{CATALOGUE}"
    try:
        return read_catalogue(LocalDisk().read(path), os.path.basename(path))
    except FileNotFoundError:
        if given:
            raise UsageProblem(f"there is no catalogue at {path}") from None
        return CatalogueReading((), ())


def shelf(checked: Checked, catalogue: CatalogueReading) -> Shelf:
    """The catalogue's models first, in its order, then the other files by path."""
    services = llamacpp_services(checked)
    used = [service.model_file for service in services if service.model_file]
    folders = model_folders(used)
    rows: list[ModelRow] = []
    findings = list(catalogue.findings)
    for entry in catalogue.models:
        path = find_model(entry.places, folders)
        if path is None:
            rows.append(ModelRow(entry.alias, problem=f"{entry.places[0]} is not here"))
            continue
        row = _row(entry.alias, path, services)
        rows.append(row)
        if row.facts is not None:
            facts = row.facts
            findings += check_claims(entry, facts.most_layers, facts.train_context, facts.label)
    listed = {os.path.realpath(row.path) for row in rows if row.path}
    for path in sorted({*models_beside(used), *map(pinned, used)}):
        if os.path.realpath(path) not in listed:
            listed.add(os.path.realpath(path))
            rows.append(_row(os.path.basename(path), path, services))
    return Shelf(tuple(rows), in_reading_order(findings))


def _row(name: str, path: str, services: tuple[Service, ...]) -> ModelRow:
    used_by = tuple(_use(service, path) for service in services if _serves(service, path))
    try:
        return ModelRow(name, path, read_model(path), used_by=used_by)
    except LabctlError as error:
        return ModelRow(name, path, problem=error.message, used_by=used_by)


def _serves(service: Service, path: str) -> bool:
    own = service.model_file
    return own is not None and os.path.realpath(own) == os.path.realpath(path)


def _use(service: Service, path: str) -> str:
    """The service, and the link that it follows to the file."""
    own = service.model_file or ""
    return service.name if own == path else f"{service.name} through {os.path.basename(own)}"


def model_named(checked: Checked, catalogue: CatalogueReading, name: str) -> str:
    """The absolute path of a model: a path, an alias of the catalogue, or a file's name.

    Raises UsageProblem for a name that is nothing of these, or several files.
    """
    given = os.path.expanduser(name)
    if "/" in name:
        if os.path.isfile(given):
            return os.path.abspath(given)
        raise UsageProblem(f"there is no model file at {os.path.abspath(given)}")
    used = [s.model_file for s in llamacpp_services(checked) if s.model_file]
    entry = catalogue.named(name)
    if entry is not None:
        path = find_model(entry.places, model_folders(used))
        if path is not None:
            return path
        hint = f"put {entry.places[0]} into one of {', '.join(_shown(model_folders(used)))}"
        raise UsageProblem(f"the file of {name!r} is not on this host", hint=hint)
    beside = models_beside(used)
    found = [path for path in beside if os.path.basename(path) in (name, f"{name}.gguf")]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageProblem(
            f"{len(found)} files are called {name!r}", hint=f"give a path: {', '.join(found)}"
        )
    names = [os.path.basename(path) for path in beside]
    stems = [name.removesuffix(".gguf") for name in names]
    known = [*stems, *names, *(entry.alias for entry in catalogue.models)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "`labctl model list` shows what there is"
    raise UsageProblem(f"no model is called {name!r}", hint=hint)


def _shown(folders: tuple[str, ...]) -> list[str]:
    return [folder.replace(home(), "~", 1) for folder in folders]
