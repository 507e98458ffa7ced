"""All parts of a model, as one: the rules are those of llama.cpp's loader."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

from agent.gpu.facts import model_facts
from agent.gpu.gguf import GgufHeader, read_header
from agent.gpu.gguf_cursor import DamagedGguf, Read
from agent.model.gguf import ModelFacts

OpenFile = Callable[[str], AbstractContextManager[tuple[Read, int]]]
"""Opens the file at a path: (read, its bytes). Raises `DiskFailure` when it cannot."""

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z", re.DOTALL)
_MOST_PARTS = 1000


def read_parts(path: str, target: str, open_file: OpenFile) -> ModelFacts:
    """The facts of the model at `path`; for a split model that is the path of its first part.

    `target` is where links lead: the other parts are looked for there where `path` is not named
    like a part. Raises `DamagedGguf` for a file that cannot be trusted.
    """
    first, size = _read_one(path, open_file)
    count = first.keys.get("split.count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_PARTS:
        raise DamagedGguf(f"{path} is not a usable GGUF model: split.count is {count!r}")
    if count <= 1:
        return model_facts([first], size, path)
    headers, total = [first], size
    for number, part in enumerate(_other_parts(path, target, first, count), start=1):
        header, part_bytes = _read_one(part, open_file)
        if header.keys.get("split.no") != number or header.keys.get("split.count") != count:
            raise DamagedGguf(
                f"{part} is not part {number + 1} of {count} of the model that {path} begins",
                hint="all parts must come from one split of one model",
            )
        headers.append(header)
        total += part_bytes
    _check_tensor_count(path, headers)
    return model_facts(headers, total, path)


def _read_one(path: str, open_file: OpenFile) -> tuple[GgufHeader, int]:
    """The header and the size of one file."""
    with open_file(path) as (read, size):
        return read_header(read, size, path), size


def _other_parts(path: str, target: str, first: GgufHeader, count: int) -> list[str]:
    """The paths of the parts after the first, by llama.cpp's rule for their names."""
    if first.keys.get("split.no") != 0:
        raise DamagedGguf(
            f"{path} is not the first part of its model",
            hint=f"name the file that ends in -00001-of-{count:05d}.gguf",
        )
    for candidate in (path, target):
        named = _PART.match(candidate)
        if named is not None and named["number"] == "00001" and int(named["count"]) == count:
            stem = named["stem"]
            return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(2, count + 1)]
    raise DamagedGguf(
        f"{path} is the first of {count} parts, but its name does not say so",
        hint=f"llama.cpp wants it to end in -00001-of-{count:05d}.gguf",
    )


def _check_tensor_count(path: str, headers: list[GgufHeader]) -> None:
    claimed = headers[0].keys.get("split.tensors.count")
    found = sum(len(header.tensors) for header in headers)
    if claimed is not None and claimed != found:
        raise DamagedGguf(
            f"{path} claims {claimed} tensors, its parts have {found}",
            hint="a part is of another version of the model: download it again",
        )
