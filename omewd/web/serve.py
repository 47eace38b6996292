"""Serves the web application with uvicorn."""

from __future__ import annotations

import ipaddress
import resource
from collections.abc import Sequence
from pathlib import Path

from omewd.errors import OmewdError
from omewd.web.access import is_loopback, read_token

# Connections beyond are answered with 503 at once. A viewer in node opens one for each chunk that it wants.
_CONNECTIONS = 1024
_DEFAULT_PORT = 8420


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


def serve(listen: str, sockets: Sequence[Path | None], token_file: Path | None) -> None:
    """Serve until SIGINT or SIGTERM. Raises OmewdError ``usage``, ``not_installed``."""
    host, port = parse_listen(listen)
    token = None if token_file is None else read_token(token_file)
    if token is None and not is_loopback(host):
        raise OmewdError(
            "usage",
            f"on {host}, everybody in the network could see the data",
            "Give a --token-file, or listen on 127.0.0.1 and use a tunnel: ssh -L 8420:127.0.0.1:8420 HOST",
        )
    try:
        import uvicorn

        from omewd.web.app import make_app
    except ImportError as error:
        raise OmewdError("not_installed", f"omewd web needs {error.name}", "Run: pip install 'omewd[web]'") from error
    _allow_descriptors(4 * _CONNECTIONS)
    config = uvicorn.Config(
        make_app(sockets, token),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=16384,
        ws="none",
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        raise OmewdError("usage", f"nothing can listen on {host}:{port}", "Is another omewd web running? Choose a port")


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's own limit of open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > wanted:
        hard = wanted
    if soft != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
