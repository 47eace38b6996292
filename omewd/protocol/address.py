"""The paths of the control socket."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SYSTEM_SOCKET = Path("/run/omewd/omewd.sock")


def runtime_directory() -> Path:
    """This user's private folder for the socket: in $XDG_RUNTIME_DIR, else under the temporary folder."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "omewd" if base else Path(tempfile.gettempdir()) / f"omewd-{os.getuid()}"


def serve_socket() -> Path:
    """The default socket of ``omewd serve``."""
    return runtime_directory() / "omewd.sock"


def client_socket(given: str | os.PathLike[str] | None = None) -> Path:
    """The socket for a client: the argument, else $OMEWD_SOCKET, else this user's daemon, else the system's."""
    chosen = given or os.environ.get("OMEWD_SOCKET")
    if chosen:
        return Path(chosen)
    own = serve_socket()
    # Anyone may create a folder of that name in /tmp; only one that is ours (or root's) holds our daemon.
    is_ours = _owner(own.parent) in (os.getuid(), 0) and _owner(own) is not None
    return own if is_ours or _owner(SYSTEM_SOCKET.parent) is None else SYSTEM_SOCKET


def _owner(path: Path) -> int | None:
    """The user id of a path's owner; None if the path does not exist or can't be seen."""
    try:
        return path.stat().st_uid
    except OSError:
        return None
