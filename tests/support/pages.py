"""The code that stands on the pages: blocks, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import DOCS, README, REPOSITORY

PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

_BLOCK = re.compile(r"(?:<!-- example: (?P<name>[\w-]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
_INLINE = re.compile(r"`(omewd [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A block of code. ``name``: that of the comment ``<!-- example: name -->`` above it."""

    page: Path
    language: str
    name: str | None
    text: str

    @property
    def place(self) -> str:
        """The page, and the name or the first line."""
        return f"{by_name(self.page)}: {self.name or self.text.splitlines()[0]}"

    @property
    def commands(self) -> list[str]:
        """Those of a shell block, a line each; without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in lines) if line]


def by_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def example(page: Path, name: str, language: str = "python") -> str:
    """The program that stands below ``<!-- example: name -->`` on a page."""
    [text] = [block.text for block in blocks(page, language) if block.name == name]
    return text


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The blocks of a page in these languages, in order."""
    for found in _BLOCK.finditer(page.read_text()):
        if found["language"] in languages:
            yield Block(page, found["language"], found["name"], found["text"])


def commands_in_text(page: Path) -> list[str]:
    """The omewd commands that a page names in its sentences and tables."""
    text = _BLOCK.sub("", page.read_text())
    return [re.sub(r"\s+", " ", command) for command in _INLINE.findall(text)]
