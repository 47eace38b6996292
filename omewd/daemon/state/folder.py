"""Makes the folders of the state directory so that a power cut does not take them, with all that is in them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from omewd.process.names import sync_folder


def make_folder(folder: Path) -> None:
    """Create a folder, and its parents, and make their names durable. Raises OSError.

    The name is synced even if the folder exists, because a daemon may have been killed before it did so. A parent that
    this user may not read can't be synced.
    """
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True, mode=0o700)
    with suppress(PermissionError):
        sync_folder(folder.parent)
