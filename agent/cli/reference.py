"""The reference, generated from the code: `python -m agent.cli.reference > docs/reference.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from agent.cli.checked import RULES
from agent.cli.main import command_line
from agent.cli.output import say
from agent.cli.reference_keys import TABLES, KeyTable, default_of
from agent.lab.read import read_lab
from agent.lab.scope import WHY
from agent.model.errors import ExitCode
from agent.model.finding import Severity
from agent.model.kinds import ServiceKind
from agent.model.lab import ProviderType
from agent.routing.rules_resolution import RESOLUTION_RULES

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup

_HEAD = """\
# Reference

Generated from the code by `python -m agent.cli.reference`; a test compares it. Durations are `30`
or `30s`, `500ms`, `2m`, `1h`; a bare number is seconds. Paths are absolute, from `~`, or from the
lab's folder.
"""

_JSON = """
12 is reserved for deploys that wait to be confirmed; no verb ends with it yet.

## JSON

`--json` prints one object on stdout; narration stays on stderr.

| verb | object |
| --- | --- |
| `check` | `ok`, `lab`, `findings[]` of `rule`, `severity`, `file`, `line`, `column`, `message`, `why`, `hint` |
| `plan` | `empty`, `generation`, `changes[]`, `adopts[]`, `repairs[]`, `edited[]`, `holders`, `waves[][]` of `action`, `unit`, `why` |
| `deploy`, `rollback` | one object a line: each step with `step` and `detail`; the last with `outcome`, `exit_code`, `changed`, `from`, `to`, `attempted`, `failed_probe`, `failed_probes[]`, `log_tail[]`, `weaker[]`, `seconds` |
| `status` | `healthy`, `generation`, `drift`, `linger`, `services[]` with `layers` as they were found |
| `verify` | `generation`, `health`, `samples[]`, `weaker[]` |
| `gpu` | `healthy`, `driver`, `gpus[]`, `processes[]`, `unlisted[]`, `services[]` of `service`, `unit`, `planned`, `proven`, `verdict`; `troubles[]` |
| `gpu plan` | `model`, `asked`, `fits`, `placement` or `refusal`, `ledgers[]`, `full_offload`, `trouble` |
| `model list` | `models[]`, `findings[]` |
| `model use` | as `deploy` |
| `recover` | `recovered`, `generation`, `swept[]`, `healthy` |
| `generations list` | `current`, `generations[]`, `damaged[]` |
| `generations show` | the fields of one generation, `edited[]` |
| `generations diff` | `from`, `to`, `changes[]` |
"""  # noqa: E501 - rows of a table

READ_FINDINGS = {
    "unknown-key": "a key that nothing reads",
    "duplicate-key": "a key, a model or a variable that is written twice",
    "type": "a value of the wrong type",
    "value": "a value out of its range or grammar",
    "missing-key": "a key that is needed",
    "missing-file": "`providers.yaml` or `model-mappings.yaml` is not there",
    "syntax": "no YAML",
    "encoding": "no UTF-8",
    "too-deep": "nested deeper than any lab",
    "no-effect": "a setting that nothing acts on; a warning or a note",
}

# What `agent.lab.catalogue` compares with a model's own file.
CATALOGUE_FINDINGS = {
    "catalogue-layers": "`recommended_gpu_layers` above the layers that the file has",
    "catalogue-context": "`context_length` above what the model was trained for",
    "catalogue-quantization": "another `quantization` than the file's",
}

# The rules of `agent.routing.lint*`, each a warning about a config that labctl never reads.
LINT_FINDINGS = {
    "alias-type": "an alias that is a list, or leads to no model",
    "clobber": "a setting that overwrites a function of LiteLLM",
    "dangling-fallback": "a fallback of, or to, something that is no model",
    "default-key": "`default` among the fallbacks: LiteLLM looks for a model of that name",
    "duplicate-key": "a key that is written twice",
    "env-ref": "`${X}`, which LiteLLM sends as it stands",
    "missing-key": "a deployment without `model_name` or `litellm_params`",
    "missing-v1": "an `api_base` without `/v1`",
    "no-credential": "an OpenAI-like backend without a key",
    "no-master-key": "no master key: LiteLLM refuses to start",
    "ollama-generate": "`ollama/` for chat: the model's own template is not used",
    "options-override": "`extra_body.options`, which hides the client's own parameters",
    "syntax": "no YAML, or no mapping",
    "unenforced-limit": "limits that nothing enforces",
    "unknown-key": "a section or a setting that LiteLLM does not read",
    "unknown-param": "a parameter that is sent to the backend in every request's body",
}

FILES = (
    ("`~/.config/labctl/`", "the lab; another one with `--lab` or `LABCTL_LAB`"),
    ("`~/.local/state/labctl/` (0700)", "the store; its place is fixed, units name it"),
    ("`…/generations/NNNNNN-TIME/`", "one generation, never changed after the seal"),
    ("`…/generations/…/manifest.json`", "what it is: digests, services, chains, placements, links"),
    ("`…/generations/…/verdict.json`", "what became of it, and where its layers were found"),
    ("`…/generations/…/litellm.yaml`", "the gateway's config"),
    ("`…/generations/…/env/SERVICE.env`", "what the unit's process reads"),
    ("`…/generations/…/dropins/SERVICE.conf`", "limits and relations of the unit"),
    ("`…/generations/…/units/`", "the unit files"),
    ("`…/generations/…/secrets.env`, `secrets/`", "the keys that it was deployed with, 0600"),
    ("`…/generations/…/lab/`", "the lab that it came from, without secrets"),
    ("`…/generations/…/adopted/`", "foreign files that it kept, byte for byte"),
    ("`…/current`", "link to the generation that serves"),
    ("`…/record.json`", "the transaction in flight; gone when it ended"),
    ("`…/record.json.broken-TIME`, `current.broken-TIME`", "what a recovery set aside, damaged"),
    ("`…/displaced-TIME/`", "foreign files found in the way that no generation had kept"),
    ("`…/digest.key`", "random key under which digests of secrets are taken"),
    ("`~/.config/systemd/user/SERVICE.service`", "link to the unit, through `current`"),
    ("`~/.config/systemd/user/SERVICE.service.d/50-labctl.conf`", "link to the drop-in"),
    ("`~/.config/systemd/user/default.target.wants/SERVICE.service`", "starts it at boot"),
    ("`$XDG_RUNTIME_DIR/labctl/lock`", "held while a verb changes something"),
    ("`$XDG_RUNTIME_DIR/labctl/lock-holder.json`", "who holds it, for people"),
    ("`$XDG_RUNTIME_DIR/labctl/oracle.json`", "what llama-server said it will need; may go"),
    ("`~/.local/share/labctl/backends/KIND/bin`", "backends of `install.sh --with`"),
)

VARIABLES = (
    ("`LABCTL_LAB`", "the lab's folder; `--lab` wins"),
    ("`LABCTL_DEBUG`", "an unexpected error shows its traceback"),
    ("`NO_COLOR`", "no colour and no live display; neither with `TERM=dumb`"),
    ("`XDG_CONFIG_HOME`", "the default lab is `labctl/` below it"),
    ("`XDG_RUNTIME_DIR`", "where the lock and the user bus are"),
    ("`DBUS_SESSION_BUS_ADDRESS`", "the user bus, where it is set"),
    ("`PATH`", "where programs are looked for, after installed backends"),
    ("`HOME`", "what `~` is"),
)


def reference() -> str:
    """The whole text of docs/reference.md."""
    parts = [
        _HEAD,
        _verbs(),
        _exit_codes(),
        _keys(),
        _kinds(),
        _rules(),
        "## Files\n\n" + _table(("path", "what"), FILES),
        "## Environment variables\n\n" + _table(("variable", "what"), VARIABLES),
    ]
    return "\n".join(parts)


# -- verbs ---------------------------------------------------------------------------------------


def _verbs() -> str:
    lines = ["## Verbs", ""]
    for name, command in _commands(typer.main.get_command(command_line()), "labctl"):
        lines += [f"### {name}", "", (command.help or "").strip(), ""]
        rows = [row for row in map(_parameter, command.params) if row is not None]
        if rows:
            lines += [_table(("argument or option", "what"), rows)]
    lines += ["Every verb also takes `-h` and `--help`; `labctl --version` prints the version.", ""]
    return "\n".join(lines)


def _commands(group: object, path: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Every verb with its full name, groups opened."""
    commands: dict[str, TyperCommand | TyperGroup] = getattr(group, "commands", {})
    for name, command in commands.items():
        if hasattr(command, "commands"):
            if getattr(command, "invoke_without_command", False):
                yield f"{path} {name}", command
            yield from _commands(command, f"{path} {name}")
        else:
            words = [p.metavar or str(p.name).upper() for p in command.params if _is_argument(p)]
            yield " ".join((path, name, *words)), command


def _is_argument(parameter: object) -> bool:
    return getattr(parameter, "param_type_name", "") == "argument"


def _parameter(parameter: object) -> tuple[str, str] | None:
    """(how it is written, what it does) of one argument or option."""
    said = str(getattr(parameter, "help", None) or "")
    metavar = getattr(parameter, "metavar", None)
    name = str(getattr(parameter, "name", ""))
    if _is_argument(parameter):
        return (f"`{metavar or name.upper()}`", said) if said else None
    options: Sequence[str] = getattr(parameter, "opts", ())
    value = "" if getattr(parameter, "is_flag", False) else f" {metavar or name.upper()}"
    variable = getattr(parameter, "envvar", None)
    default = getattr(parameter, "default", None)
    said += f" Also `{variable}`." if variable else ""
    said += f" Default {default}." if isinstance(default, int) and value else ""
    return ", ".join(f"`{option}{value}`" for option in sorted(options)), said


def _exit_codes() -> str:
    rows = ((str(int(code)), code.meaning) for code in ExitCode)
    return "## Exit codes\n\n" + _table(("code", "meaning"), rows) + _JSON


# -- keys ----------------------------------------------------------------------------------------


def _keys() -> str:
    parts = ["## Keys of a lab\n"]
    for table in TABLES:
        parts.append(f"### {table.file}{f': `{table.path}`' if table.path else ''}\n")
        parts.append(_key_table(table))
    return "\n".join(parts)


def _key_table(table: KeyTable) -> str:
    rows = [(f"`{k.name}`", k.takes, default_of(table, k), k.does) for k in table.keys]
    text = _table(("key", "takes", "default", "does"), rows)
    if table.silent:
        text += f"\nDescribe and never act: {_named(table.silent)}.\n"
    if table.idle:
        text += f"\nRead only to say that they have no effect: {_named(table.idle)}.\n"
    return text


def _kinds() -> str:
    """What labctl has a unit for, and which settings each kind has no way to take."""
    rows = (
        (f"`{kind}`", str(kind.default_port), "one" if kind.serves_one_model else "many")
        for kind in ServiceKind
    )
    return "\n".join(
        (
            "## Kinds of service\n",
            _table(("kind", "port", "models"), rows),
            f"Types of provider: {_named(ProviderType)}.\n",
            "Settings of a service that its kind cannot take; they are reported as `no-effect`:\n",
            _table(("kind", "setting", "instead"), _refused_settings()),
        )
    )


def _refused_settings() -> Iterator[tuple[str, str, str]]:
    """Asked of the reader itself: it reads a service of each kind with every such setting."""
    settings = "model: m, model_name: n, gpu_layers: 1, threads: 1, slots: 1, args: [a], api_key: K"
    for kind in ServiceKind:
        text = f"services: {{a: {{kind: {kind}, {settings}}}}}"
        texts = {"lab.yaml": text.encode(), "providers.yaml": b"", "model-mappings.yaml": b""}
        for finding in read_lab(texts, "/lab", "/home").findings:
            if finding.rule == "no-effect":
                yield f"`{kind}`", f"`{finding.message.split('`')[1]}`", finding.hint


# -- rules ---------------------------------------------------------------------------------------


def _rules() -> str:
    rules = (
        (f"`{rule.id}`", str(rule.severity), rule.summary, rule.why)
        for rule in sorted((*RULES, *RESOLUTION_RULES), key=lambda rule: rule.id)
    )
    read = ((f"`{name}`", what, WHY.get(name, "-")) for name, what in READ_FINDINGS.items())
    lint = ((f"`{name}`", what) for name, what in LINT_FINDINGS.items())
    catalogue = ((f"`{name}`", what) for name, what in CATALOGUE_FINDINGS.items())
    return "\n".join(
        (
            "## Rules of `labctl check`\n",
            f"An {Severity.ERROR} refuses a deploy; a {Severity.WARNING} and a {Severity.NOTE} do "
            "not. Some rules give single\ncases another severity.\n",
            _table(("rule", "severity", "finds", "why it matters"), rules),
            "### While reading the files\n",
            "Errors, where nothing else is said.\n",
            _table(("rule", "finds", "why it matters"), read),
            "### In a model catalogue\n",
            "`llamacpp-models.yaml`, read by `labctl model`. These are warnings; what cannot be "
            "read is\nreported as above.\n",
            _table(("rule", "finds"), catalogue),
            "### In a LiteLLM config of another tool\n",
            "A YAML file with a `model_list` in the lab's folder. labctl never deploys it, so each "
            "of\nthese is a warning.\n",
            _table(("rule", "finds"), lint),
        )
    )


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Pipes in cells are escaped."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


if __name__ == "__main__":
    say(reference().rstrip("\n"))
