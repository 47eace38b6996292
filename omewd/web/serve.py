"""Serves the web application with uvicorn."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from omewd.errors import OmewdError
from omewd.web.addresses import is_loopback, parse_listen, read_token

# Connections beyond are answered with 503 at once. A viewer in node opens one for each chunk that it wants.
_CONNECTIONS = 1024


def serve(
    listen: str, sockets: Sequence[Path | None], token_file: Path | None, announce: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM. ``announce`` is called with the address.

    Raises OmewdError ``usage``, ``not_installed``, ``start_failed``.
    """
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
        from omewd.web.patience import SLOWEST_S, Impatient
    except ImportError as error:
        raise OmewdError("not_installed", f"omewd web needs {error.name}", "Run: pip install 'omewd[web]'") from error
    _allow_descriptors(4 * _CONNECTIONS)
    try:
        listener = listen_on(host, port, SLOWEST_S)
    except OSError as error:
        raise OmewdError(
            "start_failed",
            f"nothing can listen on {listen}: {error.strerror}",
            "Is another omewd web running? Choose a port",
        ) from error
    announce(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/")
    config = uvicorn.Config(
        make_app(sockets, token),
        http=Impatient,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=16384,
        ws="none",
    )
    with listener:
        uvicorn.Server(config).run([listener])


def listen_on(host: str, port: int, slowest_s: float) -> socket.socket:
    """A socket that listens; raises OSError. The kernel ends connections whose client takes nothing for ``slowest_s``.

    That is the one way to be rid of them: what asyncio closes, it first sends to the end (tcp(7), TCP_USER_TIMEOUT).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2 * _CONNECTIONS)
    # Connections inherit both.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(slowest_s * 1000))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's own limit of open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > wanted:
        hard = wanted
    if soft != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
