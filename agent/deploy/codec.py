"""Manifests, records and judgements as JSON, read back strictly."""

from __future__ import annotations

from typing import TypeVar

from agent.model.errors import StoreDamaged, UsageProblem
from agent.model.generation import Judgement, Manifest, Record

T = TypeVar("T", Manifest, Record, Judgement)

FORMAT = 1


def encode(value: Manifest | Record | Judgement) -> bytes:
    """Indented UTF-8 JSON that ends with a newline: people read these files at night."""
    # Imported here: verbs that meet no generation do not pay for it.
    import msgspec

    try:
        return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
    except UnicodeEncodeError as error:
        raise UsageProblem(
            f"{error.object!r} cannot be written down: it is not UTF-8",
            hint="spell the reason, and the lab's folder, in UTF-8",
        ) from None


def decode(kind: type[T], data: bytes, name: str) -> T:
    """Read `data` as `kind`. `name` says in errors which file it was.

    Raises StoreDamaged for anything that `encode` would not have written.
    """
    import msgspec

    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreDamaged(
            f"{name} is damaged: {error}",
            hint="see `labctl generations list` for generations that are whole",
        ) from None
    written: int = getattr(value, "format", FORMAT)
    if written != FORMAT:
        raise StoreDamaged(
            f"{name} has format {written}; this labctl reads format {FORMAT}",
            hint="it was written by another version of labctl: use that version, or newer",
        )
    return value
