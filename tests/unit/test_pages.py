"""The pages: lines that fit, links that lead somewhere, no leftovers of an older layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.places import DOCS, README, REPOSITORY

PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = "python3.11 -c 'import ensurepip'"  # the two of the README, to be copied whole


def by_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_files_of_the_project_that_are_named_are_there(page: Path) -> None:
    for path in re.findall(r"`((?:omewd|tests|docs|packaging|systemd)/[\w/.-]+)`", page.read_text()):
        if path.startswith("omewd/") and (path.endswith(("jsonl", "zarr.json")) or "staging" in path):
            continue  # in a dataset
        assert (REPOSITORY / path).exists(), path


def test_the_readme_is_narrow() -> None:
    wide = [line for line in README.read_text().splitlines() if len(line) >= 120]
    assert len(wide) == 2
    assert all(line.startswith(COMMANDS) for line in wide)
