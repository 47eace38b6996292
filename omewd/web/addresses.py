"""Where ``omewd web`` listens, and the token that it wants there. Needs no other library."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from omewd.errors import OmewdError

_DEFAULT_PORT = 8420
LISTEN = f"127.0.0.1:{_DEFAULT_PORT}"
_SHORTEST_TOKEN = 16
_LARGEST_TOKEN_FILE = 4096


def parse_listen(text: str) -> tuple[str, int]:
    """The host and port of "HOST:PORT", "HOST", ":PORT" or "[IPv6]:PORT"; raises OmewdError ``usage``."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = (text, "")
    host = host or "127.0.0.1"
    name = host.strip("[]")
    try:
        if name != "localhost":
            ipaddress.ip_address(name)
        number = int(port) if port else _DEFAULT_PORT
        if not (0 <= number < 65536 and (not port or (port.isascii() and port.isdigit()))):
            raise ValueError
    except ValueError:
        raise OmewdError(
            "usage", f"{text[:80]!r} is no address to listen on", "Give an IP address and a port, as in 127.0.0.1:8420"
        ) from None
    return name, number


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file; raises OmewdError ``usage``."""
    try:
        with path.open("rb") as file:
            token = file.read(_LARGEST_TOKEN_FILE + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OmewdError(
            "usage", f"the token in {path} can't be read: {error}", "Give the path of a text file"
        ) from error
    if not _SHORTEST_TOKEN <= len(token) <= _LARGEST_TOKEN_FILE or not token.isprintable() or " " in token:
        raise OmewdError(
            "usage",
            f"the token in {path} must be {_SHORTEST_TOKEN} to {_LARGEST_TOKEN_FILE} characters without spaces",
            f"Make one: (umask 077; openssl rand -hex 32 > {path})",
        )
    return token
