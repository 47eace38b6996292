"""Imports the libraries that read stored bytes, which a camera program's environment may lack."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from omewd.errors import OmewdError


def required(module: str, purpose: str, package: str = "") -> ModuleType:
    """Import a module of a library; ``purpose`` completes "…, to …". Raises OmewdError ``not_installed``.

    ``package``: what to install for it, if that has another name.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = package or module.replace("_", "-")
        raise OmewdError(
            "not_installed", f"{package} is not installed; it is needed to {purpose}", f"Run: pip install {package}"
        ) from error
