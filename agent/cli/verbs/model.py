"""`labctl model`: which models there are, and which one a service serves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import options

if TYPE_CHECKING:
    from agent.cli.checked import Checked
    from agent.cli.model_switch import Switch
    from agent.lab.catalogue import CatalogueReading
    from agent.model.lab import Service

model_app = typer.Typer(
    help="List the models of this host, or switch a service to one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Catalogue = Annotated[
    str | None,
    typer.Option("--catalogue", metavar="FILE", help="Default: llamacpp-models.yaml of the lab."),
]


@model_app.command("list")
def list_(
    lab: options.Lab = None, catalogue: Catalogue = None, as_json: options.Json = False
) -> None:
    """List the catalogue's models and those beside the services' own files."""
    from agent.cli.model_shelf import catalogue_of, shelf
    from agent.cli.output import say_json, say_lines, tell, wants_colour
    from agent.cli.views.findings import finding_lines
    from agent.cli.views.models import model_lines, models_json
    from agent.model.errors import ExitCode
    from agent.model.finding import stopping

    checked = _checked(lab)
    found = shelf(checked, catalogue_of(checked, catalogue))
    if as_json:
        say_json(models_json(found.rows, found.findings))
    else:
        say_lines(model_lines(found.rows))
        for line in finding_lines(found.findings, colour=wants_colour(sys.stderr)):
            tell(line)
    raise typer.Exit(ExitCode.REFUSED if stopping(found.findings) else ExitCode.OK)


@model_app.command("use")
def use(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A path, a file's name, or a catalogue's alias.")
    ],
    lab: options.Lab = None,
    catalogue: Catalogue = None,
    reason: options.Reason = "",
    as_json: options.Json = False,
) -> None:
    """Switch a service to another model: a deploy like any other, and put back when it fails."""
    from agent.cli.model_facts import read_model
    from agent.cli.model_shelf import catalogue_of, model_named
    from agent.cli.model_switch import switch_for
    from agent.cli.output import tell

    checked = _checked(lab)
    wanted = _service(checked, service)
    known = catalogue_of(checked, catalogue)
    path = model_named(checked, known, model)
    facts = read_model(path)  # a damaged file is refused before anything is touched
    _tell_claims(known, model, facts.most_layers, facts.train_context, facts.label)
    switch = switch_for(checked, wanted, path)
    tell(f"{'sets' if switch.changes else 'already set:'} {switch.what}")
    words = reason or f"{wanted.name}: model {path.rsplit('/', 1)[-1]}"
    _deploy_with(switch, lab, words, as_json=as_json)


def _deploy_with(switch: Switch, lab: str | None, reason: str, *, as_json: bool) -> None:
    """Make the switch and deploy; take it back unless the deploy commits."""
    from agent.cli.verbs.deploy import deploy

    if switch.changes:
        switch.make()
    committed = False
    try:
        try:
            deploy(lab=lab, reason=reason, as_json=as_json)
        except typer.Exit as end:
            committed = end.exit_code == 0
            raise
        committed = True
    finally:
        if switch.changes and not committed:
            _take_back(switch)


def _take_back(switch: Switch) -> None:
    from agent.cli.output import tell
    from agent.model.errors import LabctlError

    try:
        done = switch.take_back()
    except (LabctlError, FileNotFoundError) as error:
        tell(f"note: {switch.what} could not be taken back: {error}")
        return
    left = "was changed by somebody else meanwhile and is left as it is"
    tell(f"taken back: {switch.what}" if done else f"note: {switch.what} {left}")


def _checked(lab: str | None) -> Checked:
    from agent.cli.checked import check_folder, directory_of
    from agent.model.errors import Refused

    directory = directory_of(lab)
    checked = check_folder(directory)
    if checked.lab is None:
        raise Refused(f"the lab in {directory} cannot be read", hint="see `labctl check`")
    return checked


def _service(checked: Checked, name: str) -> Service:
    """A llama.cpp service of the lab. Raises UsageProblem."""
    import difflib

    from agent.cli.model_shelf import LLAMACPP, llamacpp_services
    from agent.model.errors import UsageProblem

    service = checked.lab.service(name) if checked.lab else None
    if service is not None and service.kind in LLAMACPP:
        return service
    names = [service.name for service in llamacpp_services(checked)]
    if service is not None:
        raise UsageProblem(
            f"{name} is of kind {service.kind}: only llama.cpp services serve a file",
            hint=f"there are: {', '.join(names)}" if names else "",
        )
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
    raise UsageProblem(f"no service of the lab is called {name!r}", hint=hint)


def _tell_claims(
    catalogue: CatalogueReading, alias: str, most_layers: int, train_context: int, label: str
) -> None:
    """What the catalogue claims of the model and its file denies."""
    from agent.cli.output import tell
    from agent.lab.catalogue import check_claims

    entry = catalogue.named(alias)
    if entry is None:
        return
    for finding in check_claims(entry, most_layers, train_context, label):
        tell(f"note: {finding.at}: {finding.message}")
