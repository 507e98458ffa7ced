"""From a lab's folder to its typed form and every finding about it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from agent.cli.places import home
from agent.host.lab_files import gateway_files, lab_directory, load_lab
from agent.host.programs import find_program
from agent.lab.read import read_lab
from agent.lab.rules import RULES as LAB_RULES
from agent.model.finding import Finding, in_reading_order, stopping
from agent.model.host import HostFacts
from agent.model.kinds import ServiceKind
from agent.model.lab import Lab
from agent.model.routing import RoutingTable
from agent.model.rule import Rule, Subject
from agent.routing.lint import lint_gateway_config
from agent.routing.rules import RULES as ROUTING_RULES
from agent.routing.table import build_table

GATEWAY = ServiceKind.LITELLM.value
RULES: tuple[Rule, ...] = (*LAB_RULES, *ROUTING_RULES)


@dataclass(frozen=True, slots=True)
class Checked:
    """A lab after every check. `lab` and `table` are None when the files could not be read."""

    directory: str
    findings: tuple[Finding, ...]
    texts: dict[str, bytes] = field(repr=False)  # secrets among them
    lab: Lab | None = None
    table: RoutingTable | None = None

    @property
    def ok(self) -> bool:
        return not stopping(self.findings)


def directory_of(lab: str | None) -> str:
    """The lab's folder: the argument, else LABCTL_LAB, else the default one."""
    return lab_directory(lab, os.environ, home())


def check_folder(directory: str, *, deploying: bool = False) -> Checked:
    """Read a lab's folder and check it. `deploying` asks what this host lacks as well."""
    texts = load_lab(directory)
    return check_texts(texts, directory, deploying=deploying, beside=gateway_files(directory))


def check_texts(
    texts: dict[str, bytes],
    directory: str,
    *,
    deploying: bool = False,
    beside: dict[str, bytes] | None = None,
) -> Checked:
    """Check a lab's texts. `beside` holds gateway configs that other tools left in the folder."""
    reading = read_lab(texts, directory, home())
    findings = list(reading.findings)
    # Last: labctl never deploys those files, it only warns of what they would do.
    linted = [
        finding
        for name, data in (beside or {}).items()
        for finding in lint_gateway_config(data.decode("utf-8", "replace"), name)
    ]
    lab = reading.lab
    if lab is None:
        return Checked(directory, (*in_reading_order(findings), *linted), texts)
    table, unresolved = build_table(lab)
    findings += unresolved
    subject = Subject(lab, table, facts_for(lab, deploying=deploying))
    for rule in RULES:
        findings += rule.findings(subject)
    return Checked(directory, (*in_reading_order(findings), *linted), texts, lab, table)


def facts_for(lab: Lab, *, deploying: bool) -> HostFacts:
    """Look on the disk for what the lab names: model files and programs."""
    model_files = {s.model_file for s in lab.enabled_services if s.model_file}
    local = {path for path in model_files if path.startswith("/")}
    return HostFacts(
        missing_files=frozenset(path for path in local if not Path(path).is_file()),
        programs=programs_for(lab),
        gpus=_gpus(),
        deploying=deploying,
    )


def _gpus() -> int | None:
    """What the driver shows without being asked: NVML would take longer than the whole check."""
    folder = Path("/proc/driver/nvidia/gpus")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else None


def programs_for(lab: Lab) -> dict[str, str | None]:
    """The executable that each unit would start."""
    path = os.environ.get("PATH", "")
    found = {
        service.name: find_program(service.kind, service.program, home(), path)
        for service in lab.enabled_services
    }
    if lab.gateway.enabled:
        found[GATEWAY] = find_program(ServiceKind.LITELLM, lab.gateway.program, home(), path)
    return found
