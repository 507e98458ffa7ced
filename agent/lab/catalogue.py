"""A catalogue of llama.cpp models, `llamacpp-models.yaml`: what could be served, as somebody wrote.

It describes and never acts: what it recommends is compared with the file itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.lab.cursor import Section, Value
from agent.lab.models import CONTEXT_MAX
from agent.lab.providers import LAYERS_MAX
from agent.lab.scope import Scope
from agent.lab.tree import Flaw, Scalar, Table, decode, parse, quoted
from agent.model.finding import Finding, Position, Severity, in_reading_order

CATALOGUE = "llamacpp-models.yaml"
_TEXTS = ("display", "repo_id", "backend_model", "specialty", "notes")


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One entry. `layers_at` and `context_at` are where its recommendations stand.

    Attributes:
        storage_dir: the folder that holds the file, below wherever models are kept.
        layers: `recommended_gpu_layers`: a claim, not a fact.
        context: `context_length`, tokens: another claim.
    """

    alias: str
    at: Position
    filename: str
    storage_dir: str = ""
    size: str = ""
    quantization: str = ""
    context: int | None = None
    context_at: Position | None = None
    layers: int | None = None
    layers_at: Position | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Where the file may lie, relative to a folder of models."""
        nested = (f"{self.storage_dir}/{self.filename}",) if self.storage_dir else ()
        return (*nested, self.filename)


@dataclass(frozen=True, slots=True)
class CatalogueReading:
    """The entries that could be read, and every finding."""

    models: tuple[CatalogueModel, ...]
    findings: tuple[Finding, ...]

    def named(self, alias: str) -> CatalogueModel | None:
        return next((model for model in self.models if model.alias == alias), None)


def read_catalogue(data: bytes, file: str = CATALOGUE) -> CatalogueReading:
    """Read a catalogue. Never raises for what it holds."""
    scope = Scope(file)
    models = tuple(_models(scope, data))
    first: dict[str, CatalogueModel] = {}
    for model in models:
        if model.alias in first:
            line = first[model.alias].at.line
            message = f"the alias {quoted(model.alias)} is here twice, first on line {line}"
            scope.error("duplicate-key", model.at, message, "rename one of them")
        first.setdefault(model.alias, model)
    scope.finish()
    return CatalogueReading(tuple(first.values()), in_reading_order(scope.findings))


def _models(scope: Scope, data: bytes) -> Iterator[CatalogueModel]:
    text = decode(data)
    tree = None if isinstance(text, Flaw) else parse(text)
    flaws = (text,) if isinstance(text, Flaw) else () if tree is None else tree.flaws
    for flaw in flaws:
        scope.error(flaw.rule, scope.at(flaw.line, flaw.column), flaw.message, flaw.hint)
    if tree is None or not tree.complete:
        return
    root = tree.root or Table(1, 1, ())
    if isinstance(root, Scalar) and root.value is None:
        root = Table(1, 1, ())
    top = Value(scope, root, "").section(Position(scope.file, 1, 1))
    listed = top.required("models", "a catalogue is a list below `models:`")
    for item in listed.items() if listed else ():
        model = _model(item)
        if model is not None:
            yield model
    top.done()


def _model(value: Value) -> CatalogueModel | None:
    section = value.section()
    alias, filename = section.required("alias"), section.required("filename")
    layers, context = section.get("recommended_gpu_layers"), section.get("context_length")
    read = CatalogueModel(
        alias=(alias.as_text() if alias else None) or "",
        at=alias.at if alias else value.at,
        filename=_file_name(filename) or "",
        storage_dir=_file_name(section.get("storage_dir")) or "",
        size=_text(section, "size"),
        quantization=_text(section, "quantization"),
        context=context.as_integer(1, CONTEXT_MAX, " tokens") if context else None,
        context_at=context.at if context else None,
        layers=layers.as_integer(0, LAYERS_MAX) if layers else None,
        layers_at=layers.at if layers else None,
    )
    for key in _TEXTS:
        _text(section, key)
    section.done()
    return read if read.alias and read.filename else None


def _text(section: Section, key: str) -> str:
    value = section.get(key)
    return (value.as_text() if value else None) or ""


def _file_name(value: Value | None) -> str | None:
    """A relative path that stays below its folder."""
    text = value.as_text() if value else None
    if value is None or text is None:
        return None
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        value.wrong("value", f"is {quoted(text)}: it must stay below the folder of models")
        return None
    return text


def check_claims(
    model: CatalogueModel, most_layers: int, train_context: int, label: str
) -> tuple[Finding, ...]:
    """The catalogue against the file: `most_layers` is the block count and the output layer."""
    found: list[Finding] = []
    if model.layers is not None and model.layers_at is not None and model.layers > most_layers:
        found.append(
            Finding(
                "catalogue-layers",
                Severity.WARNING,
                model.layers_at,
                f"`recommended_gpu_layers` of {quoted(model.alias)} is {model.layers}, but its file"
                f" has {most_layers} layers, the output layer included",
                "a number above it hides whether all of the model is on the GPU",
                f"write {most_layers} or less; `labctl gpu plan` says how many fit here",
            )
        )
    too_long = model.context is not None and 0 < train_context < model.context
    if too_long and model.context_at is not None:
        found.append(
            Finding(
                "catalogue-context",
                Severity.WARNING,
                model.context_at,
                f"`context_length` of {quoted(model.alias)} is {model.context}, but its file was"
                f" trained for {train_context}",
                "beyond it answers get worse, and the memory is taken all the same",
                f"write {train_context} or less",
            )
        )
    if model.quantization and label and model.quantization.upper() != label.upper():
        found.append(
            Finding(
                "catalogue-quantization",
                Severity.WARNING,
                model.at,
                f"`quantization` of {quoted(model.alias)} is {quoted(model.quantization)}, but its"
                f" file is {label}",
                "it may be another file than the one that was meant",
                "correct the catalogue or the file",
            )
        )
    return tuple(found)
