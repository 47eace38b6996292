"""A real ``omewd web``."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.processes import wait_for


@contextlib.contextmanager
def running_web(
    folder: Path, *sockets: Path, options: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run ``omewd web`` for daemons; yields its process and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "omewd", "web", "--listen", f"127.0.0.1:{port}", *options]
    for path in sockets:
        command += ["--socket", str(path)]
    log_path = folder / "web.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def is_ready() -> bool:
                assert process.poll() is None, log_path.read_text()
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/readyz").status_code == 200
                return False

            wait_for(is_ready)
            yield process, client
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def web(folder: Path, *sockets: Path, options: tuple[str, ...] = ()) -> Iterator[httpx.Client]:
    """Run ``omewd web`` for daemons; yields a client of it. It must stop cleanly."""
    with running_web(folder, *sockets, options=options) as (process, client):
        yield client
        said = (folder / "web.log").read_text()
        assert process.poll() is None, said
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM), said
        said = (folder / "web.log").read_text()
        assert "Traceback" not in said, said
