"""A hook of mkdocs: cross-references of docstrings, such as :class:`omewd.StreamSpec`, are shown as code."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|data|func|meth|mod):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    return _ROLE.sub("", html)
