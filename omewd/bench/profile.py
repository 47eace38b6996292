"""What ``omewd profile`` runs: one stream with every call profiled in every process, or sampled by py-spy."""

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

# Often enough for runs of seconds.
_RATE_HZ = 200
# In which py-spy must start, and end: with the symbols of large libraries it takes seconds.
_SPY_TIMEOUT_S = 60.0
# The exit status of timeout(1) when its time was up.
_INTERRUPTED_BY_TIMEOUT = 124
# How many times as long as without it a run may take.
_SLOWED = 3.0


@dataclass(frozen=True)
class Function:
    """One line of a profile; times in seconds over all calls. ``primitive_calls``: those that are no recursion."""

    calls: int
    primitive_calls: int
    time_s: float
    cumulative_s: float
    location: str


@dataclass
class Profile:
    """The functions of all processes of one role together."""

    role: str
    processes: int
    stats: pstats.Stats

    def functions(self, sort: str) -> list[Function]:
        """All functions, the most by ``sort`` ("time", "cumulative" or "calls") first."""
        rows = [
            Function(calls, primitive, own, cumulative, _location(*where))
            for where, (primitive, calls, own, cumulative, _) in self.stats.stats.items()  # type: ignore[attr-defined]
        ]
        keys = {"time": lambda f: f.time_s, "cumulative": lambda f: f.cumulative_s, "calls": lambda f: f.calls}
        return sorted(rows, key=keys[sort], reverse=True)


def with_cprofile(
    folder: Path, geometry: Geometry, column: Column, options: Options
) -> tuple[list[Sample], list[Profile]]:
    """Run a stream ``options.iterations`` times with every call of producer, daemon and writers profiled."""
    with tempfile.TemporaryDirectory(prefix="omewd-profile-") as stats:
        with Bench(folder, options, {VARIABLE: stats}) as bench:
            samples = [bench.iterate(geometry, column) for _ in range(options.iterations)]
        return samples, [_collect(Path(stats), role) for role in ROLES]  # each process has left its own at its end


def _collect(folder: Path, role: str) -> Profile:
    paths = [str(path) for path in sorted(folder.glob(f"{role}-*.prof"))]
    if not paths:
        raise OmewdError("error", f"the {role} process left no profile", "It may have been killed; try again")
    return Profile(role, len({Path(p).name.split("-")[1] for p in paths}), pstats.Stats(*paths))


def _location(file: str, line: int, name: str) -> str:
    if file == "~":  # built in
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
    """Run a stream again and again for ``seconds`` and sample all its processes.

    ``form``: "flamegraph" (SVG), "speedscope" (JSON) or "raw" (a line of text for each stack). Set-up is left out of
    the picture. Returns how often it ran, and whether the frames of C libraries are in it: where py-spy takes too long
    with them it is done without.
    """
    with Bench(folder, options, {VARIABLE: SAMPLING}) as bench:
        began = time.monotonic()
        bench.iterate(geometry, column)
        # Sampled it takes longer: py-spy stops the processes. What has not ended by then goes on unsampled.
        limit_s = _SLOWED * max(seconds, time.monotonic() - began)

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
    """py-spy did not start, or did not end, within the time that it has."""

    def __init__(self, what: str) -> None:
        super().__init__("error", f"py-spy did not {what} within {_SPY_TIMEOUT_S:.0f} s", "Sample for fewer --seconds")


@contextmanager
def _recording(pid: int, path: Path, form: str, limit_s: float, *, native: bool) -> Iterator[None]:
    """py-spy at work on a process and its descendants during the block, but for ``limit_s`` at most.

    ``native``: with the frames of C libraries, for which it has to stop the processes for each sample.
    Raises OmewdError, SpyTimeoutError where it takes too long; no file is left then.
    """
    # While py-spy has this process stopped, only another one can put an end to it.
    command = ["timeout", "--signal=INT", f"--kill-after={_SPY_TIMEOUT_S}", f"{_SPY_TIMEOUT_S + limit_s}"]
    command += [spy(), "record", "--pid", str(pid), "--subprocesses", "--rate", str(_RATE_HZ)]
    command += ["--format", form, "--output", str(path), "--native" if native else "--nonblocking"]
    with tempfile.TemporaryFile() as said:  # a file: nobody reads a pipe meanwhile
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        enough = threading.Timer(limit_s, process.send_signal, [signal.SIGINT])
        try:
            _await_start(process, said)
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
                raise _spy_failed(_content(said))
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            path.unlink(missing_ok=True)
            raise
        finally:
            enough.cancel()


def _await_start(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """py-spy says when it begins to sample; what it says before it ends is why it can't."""
    deadline = time.monotonic() + _SPY_TIMEOUT_S
    while "Sampling process" not in _content(said):
        if process.poll() is not None:
            raise _spy_failed(_content(said))
        if time.monotonic() > deadline:
            raise SpyTimeoutError("start")
        time.sleep(0.01)


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), 1 << 16, 0).decode(errors="replace")


def _spy_failed(said: str) -> OmewdError:
    reason = next((line.strip() for line in said.splitlines() if line.strip()), "it said nothing")
    remedy = "Run the command as root: this kernel lets only root look into other processes"
    return OmewdError("error", f"py-spy could not record: {reason}", remedy if "ermission" in said else "")


def name_processes(path: Path, roles: Mapping[int, str]) -> None:
    """Put names in the place of command lines in what py-spy made: SVG, speedscope JSON or raw."""
    text = path.read_text()
    if not text.startswith("{"):
        path.write_text(_with_names(text, roles))
        return
    document = json.loads(text)
    for profile in document["profiles"]:
        profile["name"] = re.sub(r"^Process (\d+)", lambda m: _name(m[1], roles), profile["name"])
    path.write_text(json.dumps(document))


def _with_names(text: str, roles: Mapping[int, str]) -> str:
    """Without command lines, which py-spy quotes and may cut short."""
    return re.sub(r"process (\d+):(&quot;|\").*?(\2|\.\.)", lambda m: _name(m[1], roles), text)


def _name(pid: str, roles: Mapping[int, str]) -> str:
    return f"{roles.get(int(pid), 'process').removesuffix('s')} {pid}"


def sampled_functions(path: Path, roles: Mapping[int, str]) -> dict[str, list[tuple[int, str]]]:
    """From py-spy's raw output: for each process, (samples, function) by the function's own time, most first."""
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
    """Where ``--output`` puts the profile of each role: its name before the suffix."""
    return {role: output.with_name(f"{output.stem}.{role}{output.suffix or '.prof'}") for role in ROLES}
