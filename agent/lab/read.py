"""Reading a lab: the bytes of its files → a typed `Lab`, and every problem of every file at once.

Pure: no file, clock or environment is read here; `agent.host.lab_files` loads the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.lab.cursor import Section, Value, kind_of
from agent.lab.labfile import no_lab_file, read_lab_file
from agent.lab.link import link
from agent.lab.mappings import Mappings, read_mappings
from agent.lab.providers import read_providers
from agent.lab.scope import Scope
from agent.lab.secrets import parse_secrets
from agent.lab.services import Places
from agent.lab.tree import Flaw, Scalar, Table, decode, parse
from agent.model.finding import Finding, Position, in_reading_order
from agent.model.lab import Lab, Source

LAB = "lab.yaml"
PROVIDERS = "providers.yaml"
MAPPINGS = "model-mappings.yaml"
SECRETS = "secrets.env"
LAB_FILES = (LAB, PROVIDERS, MAPPINGS, SECRETS)


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a lab's files.

    Attributes:
        lab: None when a file is missing or does not parse. Where a finding is an error it may
            hold a default in place of the bad value, so that other rules can still look at it:
            never deploy it while `agent.model.finding.stopping(findings)` is not empty.
        findings: errors first, then in reading order.
    """

    lab: Lab | None
    findings: tuple[Finding, ...]


def read_lab(texts: Mapping[str, bytes], directory: str, home: str) -> Reading:
    """Read a lab. `texts` holds its files by bare name; `directory` and `home` are absolute.

    Never raises for what the files hold.
    """
    scopes = {name: Scope(name) for name in LAB_FILES}
    decoded = {name: _text(scopes[name], texts.get(name)) for name in LAB_FILES}
    for name in (PROVIDERS, MAPPINGS):
        if name not in texts:
            hint = "`labctl init` writes a starter lab"
            scopes[name].error("missing-file", Position(name), f"{name} is missing", hint)
    secret_names = _secret_names(scopes[SECRETS], decoded[SECRETS])
    lab = _lab(scopes, decoded, Places(directory, home), LAB in texts)
    if lab is not None:
        lab = replace(lab, secret_names=secret_names)
    findings: list[Finding] = []
    for scope in scopes.values():
        scope.finish()
        findings += scope.findings
    return Reading(lab, in_reading_order(findings))


def _lab(
    scopes: Mapping[str, Scope], texts: Mapping[str, str | None], places: Places, declared: bool
) -> Lab | None:
    """The typed lab; None when a file of it is not there or no YAML mapping."""
    lab_root = _root(scopes[LAB], texts[LAB])
    providers_root = _root(scopes[PROVIDERS], texts[PROVIDERS])
    mappings_root = _root(scopes[MAPPINGS], texts[MAPPINGS])
    # Each file is read even where another is broken, so that all problems are told at once.
    lab_file = read_lab_file(lab_root, places) if lab_root else no_lab_file()
    drafts = read_providers(providers_root) if providers_root else ()
    mappings = read_mappings(mappings_root) if mappings_root else Mappings()
    if not providers_root or not mappings_root or (declared and not lab_root):
        return None
    providers, services = link(
        drafts, lab_file.services, mappings.routes, scopes[PROVIDERS], scopes[LAB]
    )
    read = ((name, texts[name]) for name in (LAB, PROVIDERS, MAPPINGS))
    return Lab(
        directory=places.directory,
        declared=declared,
        sources=tuple(Source(name, text) for name, text in read if text is not None),
        providers=providers,
        services=services,
        routes=mappings.routes,
        chains=mappings.chains,
        default_chain=mappings.default_chain,
        capabilities=mappings.capabilities,
        balances=mappings.balances,
        gateway=lab_file.gateway,
        deploy=lab_file.deploy,
    )


def _text(scope: Scope, data: bytes | None) -> str | None:
    if data is None:
        return None
    text = decode(data)
    if isinstance(text, Flaw):
        _report(scope, text)
        return None
    return text


def _root(scope: Scope, text: str | None) -> Section | None:
    """The top level of a file; None when the file is not there or holds no mapping."""
    if text is None:
        return None
    tree = parse(text)
    for flaw in tree.flaws:
        _report(scope, flaw)
    if not tree.complete:
        return None
    top = Position(scope.file, 1, 1)
    if tree.root is None or (isinstance(tree.root, Scalar) and tree.root.value is None):
        # An empty file: every required key will be reported as missing.
        return Value(scope, Table(1, 1, ()), "").section(top)
    if not isinstance(tree.root, Table):
        at = scope.at(tree.root.line, tree.root.column)
        message = f"the top level must be a mapping, not {kind_of(tree.root)}"
        scope.error("type", at, message, "begin with `key:` lines")
        return None
    return Value(scope, tree.root, "").section(top)


def _report(scope: Scope, flaw: Flaw) -> None:
    scope.error(flaw.rule, scope.at(flaw.line, flaw.column), flaw.message, flaw.hint)


def _secret_names(scope: Scope, text: str | None) -> frozenset[str] | None:
    """The variables that are set to something; None without the file."""
    if text is None:
        return None
    read = parse_secrets(text)
    for bad in read.bad:
        scope.error("value", scope.at(bad.line, bad.column), bad.message, bad.hint)
    first: dict[str, int] = {}
    for secret in read.secrets:
        if secret.name in first:
            at = scope.at(secret.line, secret.column)
            message = f"`{secret.name}` is set twice, first on line {first[secret.name]}"
            scope.error("duplicate-key", at, message, "keep one of them")
        first.setdefault(secret.name, secret.line)
    values = {secret.name: secret.value for secret in read.secrets}
    return frozenset(name for name, value in values.items() if value.strip())
