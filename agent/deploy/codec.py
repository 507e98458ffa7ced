"""Manifests, records and judgements as JSON, read back strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from agent.model.errors import StoreDamaged
from agent.model.generation import Judgement, Manifest, Record

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T", Manifest, Record, Judgement)

FORMAT = 1


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _adapters:
        # Imported here: verbs that read no generation do not pay for it.
        from pydantic import TypeAdapter

        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def encode(value: Manifest | Record | Judgement) -> bytes:
    """Indented UTF-8 JSON that ends with a newline: people read these files at night."""
    return _adapter(type(value)).dump_json(value, indent=1) + b"\n"


def decode(kind: type[T], data: bytes, name: str) -> T:
    """Read `data` as `kind`. `name` says in errors which file it was.

    Raises StoreDamaged for anything that `encode` would not have written.
    """
    from pydantic import ValidationError

    try:
        value: T = _adapter(kind).validate_json(data, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise StoreDamaged(
            f"{name} is damaged: {place}: {first['msg']}",
            hint="see `labctl generations list` for generations that are whole",
        ) from None
    written: int = getattr(value, "format", FORMAT)
    if written != FORMAT:
        raise StoreDamaged(
            f"{name} has format {written}; this labctl reads format {FORMAT}",
            hint="it was written by another version of labctl: use that version, or newer",
        )
    return value
