"""A real daemon, and one that is started again whenever it dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import omewd
from omewd.daemon.state.journal import instance_name
from tests.support.processes import wait_until_gone
from tests.support.shared_memory import shared_memory_names, started_instances


class DaemonProcess:
    """A real ``omewd serve`` with its own socket, state and data root under one folder."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        env: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        wait: bool = True,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "omewd.sock"
        self.log_path = folder / "daemon.log"
        self.client = omewd.Client(self.socket)
        command = [*prefix, sys.executable, "-m", "omewd", "serve"]
        command += ["--socket", str(self.socket), "--log-format", "json"]
        command += ["--data-root", str(self.data), "--state-dir", str(folder / "state"), *options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, **(env or {})})
        self.instance = instance_name(folder / "state")
        started_instances.add(self.instance)
        if wait:
            self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"omewd serve exited with {self.process.returncode}: {self.log()}")
            try:
                self.client.status()
            except omewd.OmewdError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"omewd serve was not ready in 30 s: {self.log()}")

    def shared_memory(self) -> set[str]:
        """The ring segments that this daemon has."""
        names = shared_memory_names(self.instance)
        return {name for name in names if (Path("/dev/shm") / name).is_file()}

    def log(self) -> str:
        return self.log_path.read_text()

    def connect(self, name: str) -> omewd.Producer:
        return omewd.connect(name, socket=self.socket)

    def writer_pids(self) -> list[int]:
        """The writers of frames, once all are ready."""
        while True:
            writers = [writer for writer in self.client.status()["writers"] if not writer["aside"]]
            if all(writer["ready"] for writer in writers):
                return [writer["pid"] for writer in writers]
            time.sleep(0.01)

    def kill_a_writer(self) -> int:
        """SIGKILL for a writer that lives; returns its pid."""
        while True:
            pid = self.writer_pids()[0]
            with contextlib.suppress(ProcessLookupError):  # killed before, and not noticed yet
                os.kill(pid, signal.SIGKILL)
                return pid

    def omewd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an ``omewd`` command against this daemon."""
        return subprocess.run(
            [sys.executable, "-m", "omewd", *arguments],
            env={**os.environ, "OMEWD_SOCKET": str(self.socket)},
            cwd=self.data,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def let_go(self) -> None:
        """Let go of the rings of streams that have failed, which the daemon keeps until it is told."""
        with contextlib.suppress(omewd.OmewdError):  # a test may have ended the daemon
            for stream in self.client.status()["streams"]:
                if stream["kept_in_ring"]:
                    self.client.stop_stream(stream["name"])

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def lose_the_rings(self) -> None:
        """Kill all processes, and take the rings away."""
        children = psutil.Process(self.process.pid).children() if self.process.poll() is None else []
        self.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        wait_until_gone(child.pid for child in children)
        for name in self.shared_memory():
            (Path("/dev/shm") / name).unlink()

    def restart_the_machine(self) -> None:
        """Lose what a restart of the machine loses, and be in another boot. No daemon is started."""
        self.lose_the_rings()
        for path in (self.folder / "state" / "streams").glob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))


class KeptDaemon:
    """A daemon that is started again whenever it dies, as systemd does; ``env`` is for the first one only."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self._folder, self._options = folder, options
        self.now = DaemonProcess(folder, *options, env=env)
        self.starts = 1
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(0.01):
            if self.now.process.poll() is not None:
                self.starts += 1
                self.now = DaemonProcess(self._folder, *self._options, wait=False)

    def ask(self, request: Callable[[], Any], timeout_s: float = 20) -> Any:
        """Ask the daemon until one is there to answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return request()
            except omewd.OmewdError as error:
                if error.code not in ("unreachable", "no_daemon") or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def end(self) -> None:
        """No more restarts; the daemon must stop cleanly."""
        self._ended.set()
        self._thread.join()
        try:
            if self.now.process.poll() is not None:  # it died last of all
                self.now = DaemonProcess(self._folder, *self._options)
            self.now._wait_until_ready()
            assert self.now.stop() == 0, self.now.log()
        finally:
            self.now.kill()


@contextlib.contextmanager
def daemon(
    folder: Path, *options: str, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[DaemonProcess]:
    """Run a daemon for the block; it must stop cleanly."""
    process = DaemonProcess(folder, *options, env=env, prefix=prefix)
    try:
        yield process
        process.let_go()
        assert process.stop() == 0, process.log()
    finally:
        process.kill()
