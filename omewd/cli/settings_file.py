"""Reads the file that ``--settings-file`` names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omewd.errors import OmewdError


def read_settings(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file, {} without a file; raises OmewdError ``usage`` if the file holds none."""
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise OmewdError("usage", f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise OmewdError("usage", f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise OmewdError("usage", f"{path} holds no JSON object")
    return document
