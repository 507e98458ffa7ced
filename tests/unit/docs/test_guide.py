"""The lab that the guide shows passes its check, as it stands on the page."""

from __future__ import annotations

import re
from pathlib import Path

from agent.cli.checked import RULES
from agent.lab.read import read_lab
from agent.model.finding import stopping
from agent.model.rule import Subject
from agent.routing.table import build_table

GUIDE = Path(__file__).parents[3] / "docs" / "guide.md"


def test_the_smallest_lab_of_the_guide_passes() -> None:
    block = re.search(r"```yaml\n(# lab\.yaml\n.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    parts = re.split(r"^# (\S+)\n", block[1], flags=re.MULTILINE)[1:]
    texts = {name: text.encode() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    assert set(texts) == {"lab.yaml", "providers.yaml", "model-mappings.yaml"}

    reading = read_lab({**texts, "secrets.env": b"LITELLM_MASTER_KEY=x\n"}, "/lab", "/home/lab")

    assert reading.lab is not None
    table, unresolved = build_table(reading.lab)
    subject = Subject(reading.lab, table)
    found = [*reading.findings, *unresolved, *(f for r in RULES for f in r.findings(subject))]
    assert stopping(found) == ()
    assert [group.name for group in table.groups] == ["alpha", "beta"]
    assert [service.model_name for service in reading.lab.services] == ["alpha", "beta"]
