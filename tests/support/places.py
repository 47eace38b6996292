"""Where the project's own files are, and the programs that its pages show."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"


def example(page: Path, name: str) -> str:
    """The Python program that stands below ``<!-- example: name -->`` on a page."""
    return page.read_text().split(f"<!-- example: {name} -->\n```python\n")[1].split("```")[0]
