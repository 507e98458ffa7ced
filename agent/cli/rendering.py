"""From a checked lab to every file of its deploy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from agent.cli.checked import Checked, programs_for
from agent.cli.model_switch import pinned_models
from agent.cli.places import paths_of_host
from agent.cli.placing import LabPlacement
from agent.deploy.render import Surroundings, render
from agent.host.assets import asset
from agent.host.model_files import fingerprint
from agent.lab.secrets import secret_values
from agent.model.errors import LabctlError
from agent.model.generation import SECRETS_FILE
from agent.model.kinds import ServiceKind
from agent.model.lab import Lab
from agent.model.placement import Placement
from agent.model.plan import Rendered
from agent.model.routing import GatewayDocument, RoutingTable
from agent.routing.document import (
    GATEWAY_ENVIRONMENT,
    api_base,
    deployment_ids,
    document_body,
    render_document,
)


def render_checked(
    checked: Checked,
    digest_key: bytes,
    git_commit: str | None = None,
    place: Callable[[Lab, Mapping[str, str]], LabPlacement] | None = None,
) -> Rendered:
    """Every file of a deploy of a lab that passed its check.

    `place` decides which layers go where, from the lab and the programs of its services.
    """
    lab, table = checked.lab, checked.table
    if lab is None or table is None:
        raise LabctlError("the lab was not read", hint="run `labctl check`")
    lab = pinned_models(lab)
    programs = programs_for(lab)
    found = {name: program for name, program in programs.items() if program}
    placed = place(lab, found) if place is not None else LabPlacement(Placement())
    document = _document(lab, table) if lab.gateway.enabled else GatewayDocument()
    secrets = checked.texts.get(SECRETS_FILE, b"")
    rendered = render(
        lab,
        table,
        document,
        Surroundings(
            paths=paths_of_host(),
            unit_texts={kind: asset(f"units/{kind}.service").decode() for kind in ServiceKind},
            program_folders=_folders(programs),
            fingerprints=_fingerprints({s.name: s.model_file for s in lab.enabled_services}),
            programs=_fingerprints(programs),
            placed=placed.variables,
            gateway_environment=GATEWAY_ENVIRONMENT,
            secrets=secrets,
            secret_values=secret_values(secrets.decode("utf-8", "replace")),
            digest_key=digest_key,
        ),
    )
    return replace(rendered, git_commit=git_commit, placements=placed.placement.services)


def _document(lab: Lab, table: RoutingTable) -> GatewayDocument:
    text = render_document(lab, table)
    return GatewayDocument(
        text=text,
        body=document_body(text),
        ids=deployment_ids(table),
        addresses={provider.name: api_base(provider) for provider in lab.providers},
    )


def _folders(programs: dict[str, str | None]) -> dict[str, str]:
    return {name: str(Path(program).parent) for name, program in programs.items() if program}


def _fingerprints(paths: Mapping[str, str | None]) -> dict[str, str]:
    """The identity of each service's file, where there is one."""
    found = {name: path for name, path in paths.items() if path and Path(path).is_file()}
    return {name: fingerprint(path) for name, path in found.items()}
