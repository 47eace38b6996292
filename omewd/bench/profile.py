"""Runs what ``omewd profile`` profiles: one stream, with every call in every process recorded, or sampled by py-spy."""

from __future__ import annotations

import json
import os
import pstats
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from omewd.bench.benchmark import Bench
from omewd.bench.plan import Column, Geometry, Options, Sample
from omewd.errors import OmewdError
from omewd.process.profiling import SAMPLING, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLES = ("producer", "daemon", "writer")

# Enough samples for runs of seconds.
_RATE_HZ = 200
# For py-spy to start, and to end: it takes seconds for the symbols of large libraries.
_SPY_TIMEOUT_S = 60.0
# The exit status of timeout(1) when its time is up.
_INTERRUPTED_BY_TIMEOUT = 124
# How many times as long a run may take when it is sampled.
_SAMPLING_SLOWDOWN = 3.0


@dataclass(frozen=True)
class Function:
    """One line of a profile. Times are in seconds, over all calls. ``primitive_calls``: without recursive ones."""

    calls: int
    primitive_calls: int
    time_s: float
    cumulative_s: float
    location: str


@dataclass
class Profile:
    """The functions of all processes of one role, added up."""

    role: str
    processes: int
    stats: pstats.Stats

    def functions(self, sort: str) -> list[Function]:
        """All functions, in descending order of ``sort`` ("time", "cumulative" or "calls")."""
        rows = [
            Function(calls, primitive, own, cumulative, _location(*where))
            for where, (primitive, calls, own, cumulative, _) in self.stats.stats.items()  # type: ignore[attr-defined]
        ]
        keys = {"time": lambda f: f.time_s, "cumulative": lambda f: f.cumulative_s, "calls": lambda f: f.calls}
        return sorted(rows, key=keys[sort], reverse=True)


def with_cprofile(
    folder: Path, geometry: Geometry, column: Column, options: Options
) -> tuple[list[Sample], list[Profile]]:
    """Run a stream ``options.iterations`` times and record every call in the producer, the daemon and the writers."""
    with tempfile.TemporaryDirectory(prefix="omewd-profile-") as stats:
        with Bench(folder, options, {VARIABLE: stats}) as bench:
            samples = [bench.iterate(geometry, column) for _ in range(options.iterations)]
        return samples, [_collect(Path(stats), role) for role in ROLES]  # each process leaves its profile when it ends


def _collect(folder: Path, role: str) -> Profile:
    paths = [str(path) for path in sorted(folder.glob(f"{role}-*.prof"))]
    if not paths:
        raise OmewdError("error", f"the {role} process left no profile", "It may have been killed. Try again")
    return Profile(role, len({Path(p).name.split("-")[1] for p in paths}), pstats.Stats(*paths))


def _location(file: str, line: int, name: str) -> str:
    if file == "~":  # a built-in function
        return name
    for prefix, short in _SHORT.items():
        if file.startswith(prefix):
            return f"{short}{file.removeprefix(prefix)}:{line}({name})"
    return f"{file}:{line}({name})"


_SHORT = {
    f"{Path(__file__).parents[2]}/omewd/": "omewd/",
    f"{sysconfig.get_path('platlib')}/": "<site-packages>/",
    f"{sysconfig.get_path('purelib')}/": "<site-packages>/",
    f"{sysconfig.get_path('stdlib')}/": "<stdlib>/",
}


def spy() -> str:
    """The py-spy command; raises OmewdError ``usage`` if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.is_file() else shutil.which("py-spy")
    if found is None:
        raise OmewdError("usage", "sampling needs py-spy, which is not installed", "pip install 'omewd[profile]'")
    return found


def sampled(
    path: Path, form: str, folder: Path, geometry: Geometry, column: Column, options: Options, seconds: float
) -> tuple[int, bool]:
    """Run a stream repeatedly for ``seconds`` and sample all its processes, without their set-up.

    ``form``: "flamegraph" (SVG), "speedscope" (JSON) or "raw" (a line of text for each stack). Returns the number of
    runs, and whether the result includes the stack frames of C libraries. If py-spy takes too long with them, the runs
    are repeated without them.
    """
    with Bench(folder, options, {VARIABLE: SAMPLING}) as bench:
        began = time.monotonic()
        bench.iterate(geometry, column)
        # A sampled run takes longer, because py-spy stops the processes. After this time it goes on unsampled.
        limit_s = _SAMPLING_SLOWDOWN * max(seconds, time.monotonic() - began)

        def run(native: bool) -> int:
            runs = 0
            with _recording(os.getpid(), path, form, limit_s, native=native):
                began = time.monotonic()
                while time.monotonic() - began < seconds:
                    bench.iterate(geometry, column)
                    runs += 1
            return runs

        native = True
        try:
            runs = run(native)
        except SpyTimeoutError:
            native = False
            runs = run(native)
        name_processes(path, {os.getpid(): "omewd profile", **bench.roles})
    return runs, native


def sample_daemon(daemon: int, path: Path, form: str, seconds: float) -> None:
    """Sample a running daemon and its writers without stopping them."""
    with _recording(daemon, path, form, seconds, native=False):
        time.sleep(seconds)


class SpyTimeoutError(OmewdError):
    """py-spy did not start, or did not end, in time."""

    def __init__(self, what: str) -> None:
        super().__init__("error", f"py-spy did not {what} within {_SPY_TIMEOUT_S:.0f} s", "Sample for fewer --seconds")


@contextmanager
def _recording(pid: int, path: Path, form: str, limit_s: float, *, native: bool) -> Iterator[None]:
    """Let py-spy sample a process and its descendants during the block, for ``limit_s`` at most.

    ``native``: include the stack frames of C libraries, for which py-spy stops the processes at each sample.
    Raises OmewdError, or SpyTimeoutError if py-spy takes too long. No file is left then.
    """
    # While py-spy has stopped this process, only another one can end py-spy.
    command = ["timeout", "--signal=INT", f"--kill-after={_SPY_TIMEOUT_S}", f"{_SPY_TIMEOUT_S + limit_s}"]
    command += [spy(), "record", "--pid", str(pid), "--subprocesses", "--rate", str(_RATE_HZ)]
    command += ["--format", form, "--output", str(path), "--native" if native else "--nonblocking"]
    with tempfile.TemporaryFile() as output:  # not a pipe, which nobody would read meanwhile
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        enough = threading.Timer(limit_s, process.send_signal, [signal.SIGINT])
        try:
            _await_start(process, output)
            enough.start()
            yield
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_SPY_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise SpyTimeoutError("end") from error
            if process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
                raise SpyTimeoutError("end")
            if process.returncode not in (0, _INTERRUPTED_BY_TIMEOUT) or not path.is_file():
                raise _spy_failed(_content(output))
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            path.unlink(missing_ok=True)
            raise
        finally:
            enough.cancel()


def _await_start(process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    """Wait for py-spy's message that it samples. If it ends before, its output is the reason."""
    deadline = time.monotonic() + _SPY_TIMEOUT_S
    while "Sampling process" not in _content(output):
        if process.poll() is not None:
            raise _spy_failed(_content(output))
        if time.monotonic() > deadline:
            raise SpyTimeoutError("start")
        time.sleep(0.01)


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), 1 << 16, 0).decode(errors="replace")


def _spy_failed(output: str) -> OmewdError:
    reason = next((line.strip() for line in output.splitlines() if line.strip()), "it printed nothing")
    remedy = "Run the command as root: this kernel lets only root inspect other processes"
    return OmewdError("error", f"py-spy could not record: {reason}", remedy if "ermission" in output else "")


def name_processes(path: Path, roles: Mapping[int, str]) -> None:
    """Replace command lines with names in py-spy's output: SVG, speedscope JSON or raw."""
    text = path.read_text()
    if not text.startswith("{"):
        path.write_text(_with_names(text, roles))
        return
    document = json.loads(text)
    for profile in document["profiles"]:
        profile["name"] = re.sub(r"^Process (\d+)", lambda m: _name(m[1], roles), profile["name"])
    path.write_text(json.dumps(document))


def _with_names(text: str, roles: Mapping[int, str]) -> str:
    """Replace command lines, which py-spy quotes and may cut short."""
    return re.sub(r"process (\d+):(&quot;|\").*?(\2|\.\.)", lambda m: _name(m[1], roles), text)


def _name(pid: str, roles: Mapping[int, str]) -> str:
    return f"{roles.get(int(pid), 'process').removesuffix('s')} {pid}"


def sampled_functions(path: Path, roles: Mapping[int, str]) -> dict[str, list[tuple[int, str]]]:
    """For each process in py-spy's raw output: (samples, function) by the function's own time, in descending order."""
    names = {_name(str(pid), roles) for pid in roles}
    found: dict[str, Counter[str]] = {}
    for line in path.read_text().splitlines():
        stack, _, count = _with_names(line, roles).rpartition(" ")
        frames = stack.split(";")
        owners = [frame for frame in frames if frame in names]
        if owners:
            where = re.sub(r":\d+\)$", ")", frames[-1])
            found.setdefault(owners[-1], Counter())[where] += int(count)
    return {name: [(n, where) for where, n in found[name].most_common()] for name in sorted(found)}


def profile_paths(output: Path) -> dict[str, Path]:
    """The file for the profile of each role: ``output`` with the role before the suffix."""
    return {role: output.with_name(f"{output.stem}.{role}{output.suffix or '.prof'}") for role in ROLES}
