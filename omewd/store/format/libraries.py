"""The libraries by which stored bytes are read, which an environment of a camera's program may lack."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from omewd.errors import OmewdError


def required(module: str, purpose: str) -> ModuleType:
    """Import a module of a library; ``purpose`` completes "…, to …". Raises OmewdError ``not_installed``."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise OmewdError(
            "not_installed", f"{package} is not installed; it is needed to {purpose}", f"Run: pip install {package}"
        ) from error
