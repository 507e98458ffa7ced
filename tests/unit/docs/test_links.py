"""Every link between the documents leads somewhere, and every verb that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from agent.cli.main import command_line

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
_VERB = re.compile(r"(?:`|^\$ )labctl ([a-z]+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} of {page.name}"
        if anchor:
            assert anchor in _anchors(linked), f"{target} of {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_verbs_that_a_page_names_exist(page: Path) -> None:
    known: dict[str, object] = getattr(typer.main.get_command(command_line()), "commands", {})
    named = set(_VERB.findall(page.read_text(encoding="utf-8")))
    assert named <= set(known), f"{page.name} names {named - set(known)}"


def test_every_page_of_docs_is_linked() -> None:
    """No page is an island: README, or the index of its folder, leads to each."""
    linked: set[Path] = set()
    for page in PAGES:
        targets = _LINK.findall(page.read_text(encoding="utf-8"))
        linked |= {(page.parent / t.partition("#")[0]).resolve() for t in targets if "://" not in t}
    assert set(PAGES[2:]) - linked == set()


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
