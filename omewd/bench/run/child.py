"""A process of the benchmark that answers requests, and its handle. It ends with the benchmark.

Requests and answers are messages of :mod:`omewd.protocol.messages`: ``{"do": verb, …}``, and ``{"ok": …}`` or
``{"error": …}``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from omewd.bench.run.tied import command
from omewd.errors import OmewdError
from omewd.protocol.messages import Message, receive, send

# Importing a library and making the frames takes seconds.
SET_UP_TIMEOUT_S = 300.0


class Child:
    """The handle of a process that runs ``module`` with :func:`serve`. ``name``: what messages call the process.

    ``environment``: variables for the process beside those of this one.
    """

    def __init__(self, module: str, name: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                command(os.getpid(), module, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Without this, threads of numpy's linear algebra spin while the clock runs.
                env={"OPENBLAS_NUM_THREADS": "1", **os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is an answer."""
        return self._channel.fileno()

    def tell(self, verb: str, **settings: Any) -> None:
        """Send a request without waiting for the answer. If the process has ended, :meth:`answer` reports it."""
        with contextlib.suppress(ConnectionError):
            send(self._channel, {"do": verb, **settings})

    def answer(self, verb: str, timeout_s: float) -> dict[str, Any]:
        """Wait for the answer; raises the OmewdError of the process, or ``camera_died`` or ``timeout``."""
        self._channel.settimeout(timeout_s)
        try:
            received = receive(self._channel)
        except TimeoutError as error:
            raise self.kill_hung(verb, timeout_s) from error
        except ConnectionError:
            received = None
        if received is None:
            status = self._process.wait()
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise OmewdError("camera_died", f"the {self._name} process ended with {how}")
        reply, _ = received
        if "error" in reply:
            raise OmewdError.from_dict(reply["error"])
        result: dict[str, Any] = reply["ok"]
        return result

    def kill_hung(self, verb: str, timeout_s: float) -> OmewdError:
        """Kill the process because it has not answered; returns the error to raise."""
        self._process.kill()
        return OmewdError("timeout", f"the {self._name} process hangs: no answer to {verb} within {timeout_s:.0f} s")

    def ask(self, verb: str, timeout_s: float = SET_UP_TIMEOUT_S, **settings: Any) -> dict[str, Any]:
        """Send a request and wait for the answer; raises as :meth:`answer` does."""
        self.tell(verb, **settings)
        return self.answer(verb, timeout_s)

    def close(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()


def serve(channel: socket.socket, handle: Callable[[Message], Any]) -> None:
    """Answer requests with ``handle`` until the other end is closed, then end the process."""
    while (received := receive(channel)) is not None:
        try:
            reply = {"ok": handle(received[0])}
        except OmewdError as error:
            reply = {"error": error.to_dict()}
        except Exception as error:  # noqa: BLE001  libraries may raise anything, which is a result, too
            text = " ".join(str(error).split())[:2000]
            reply = {"error": OmewdError("backend_error", f"{type(error).__name__}: {text}").to_dict()}
        with contextlib.suppress(BrokenPipeError):
            send(channel, reply)
    os._exit(0)  # a library that failed may hang in its clean-up
