"""A daemon that serves one command and ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from omewd.bench.run.tied import command
from omewd.client.client import Client
from omewd.errors import OmewdError

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0


class PrivateDaemon:
    """``omewd serve`` with its own socket and state, over one data root. If it does not start, its log is in the error.

    When it is told to stop, it gives up what is not on disk after ``drain_timeout_s``.
    """

    def __init__(
        self,
        data_root: Path,
        *options: str,
        drain_timeout_s: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._stop_timeout_s = drain_timeout_s + _STOP_TIMEOUT_S
        self._folder = tempfile.TemporaryDirectory(prefix="omewd-private-")
        folder = Path(self._folder.name)
        self.socket = folder / "omewd.sock"
        self._log = folder / "log"
        arguments = ["serve", "--ephemeral", "--socket", str(self.socket), "--data-root", str(data_root)]
        arguments += ["--state-dir", str(folder / "state"), "--drain-timeout", str(drain_timeout_s), *options]
        inherited = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET" and not k.startswith("OMEWD_SERVE_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command(os.getpid(), "omewd", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **(environment or {})},
                start_new_session=True,
            )
        self.client = Client(self.socket)
        try:
            self._await_writers()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def _await_writers(self) -> None:
        """Wait until every writer is ready: one that still imports its libraries would disturb a measurement."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            try:
                writers = self.client.daemon_status().writers
                if writers and all(writer.ready for writer in writers):
                    return
            except OmewdError:
                if self._process.poll() is not None:
                    break
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        log = self._log.read_text(errors="replace").strip()
        raise OmewdError("start_failed", f"the daemon did not start: {log}")

    def close(self) -> None:
        """End the daemon, and give up what it has only in memory."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self._stop_timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> PrivateDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
