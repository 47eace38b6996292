"""The pages: lines that fit, links that lead somewhere, no leftovers of an older layout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import omewd
from omewd.cli.main import _COMMANDS
from tests.support.pages import PAGES, by_name
from tests.support.places import README, REPOSITORY


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
        if path.startswith("omewd/") and (
            path.endswith(("jsonl", "zarr.json")) or path.split("/")[1] in ("copies", "parts", "staging")
        ):
            continue  # in a dataset
        assert (REPOSITORY / path).exists(), path


def test_the_readme_is_narrow() -> None:
    assert [line for line in README.read_text().splitlines() if len(line) >= 120] == []


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_is_the_same_on_the_site_as_on_the_forge(page: Path) -> None:
    """Forges read Markdown by CommonMark; Python-Markdown, which makes the site, wants more spaces and empty lines."""
    markdown, markdown_it = pytest.importorskip("markdown"), pytest.importorskip("markdown_it")
    pytest.importorskip("pymdownx")
    text = page.read_text()
    site = markdown.markdown(text, extensions=["tables", "attr_list", "pymdownx.superfences"])
    forge = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    parts = ("ul", "ol", "li", "table", "tr", "td", "pre", "h1", "h2", "h3", "strong", "em")
    assert {part: len(re.findall(rf"<{part}[ >]", site)) for part in parts} == {
        part: len(re.findall(rf"<{part}[ >]", forge)) for part in parts
    }


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs_click")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    options = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert [name for name in _COMMANDS if f'id="omewd-{name}"' not in options] == []
    assert "Sentinel" not in options  # how click marks what has no default
    python = (tmp_path / "reference" / "python" / "index.html").read_text()
    public = {omewd._HOMES[name] + "." + name for name in omewd.__all__ if name in omewd._HOMES}
    assert [name for name in sorted(public) if f'id="{name}"' not in python] == []
    pages = "".join(page.read_text() for page in tmp_path.rglob("*.html"))
    assert set(re.findall(r'(?:src|rel="stylesheet" href)="(https?:[^"]+)"', pages)) == set(), "loaded from elsewhere"
    assert ":class:" not in python
