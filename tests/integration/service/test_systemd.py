"""The systemd unit: its syntax, its exposure, and its life under a systemd booted in namespaces of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import omewd
from omewd.cli.service.serve import command as serve
from tests.support.datasets import check_dataset
from tests.support.frames import make_spec
from tests.support.places import REPOSITORY

_UNIT = REPOSITORY / "systemd" / "omewd.service"
_WEB_UNIT = REPOSITORY / "systemd" / "omewd-web.service"
_SYSUSERS = REPOSITORY / "systemd" / "omewd.sysusers.conf"
_PROGRAM = "/opt/omewd/bin/omewd"
_OLDEST_SYSTEMD = 252

# -- without booting -----------------------------------------------------------------------------


def _systemd_version() -> int:
    if shutil.which("systemd-analyze") is None:
        return 0
    found = re.match(r"systemd (\d+)", subprocess.check_output(["systemd-analyze", "--version"], text=True))
    return int(found[1]) if found else 0


needs_systemd = pytest.mark.skipif(
    _systemd_version() < _OLDEST_SYSTEMD, reason=f"systemd {_OLDEST_SYSTEMD} or later is not installed"
)


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )


@needs_systemd
@pytest.mark.parametrize("source", [_UNIT, _WEB_UNIT], ids=["omewd", "omewd-web"])
def test_verify_finds_nothing(source: Path, tmp_path: Path) -> None:
    unit = tmp_path / source.name
    # Verify wants the program to be there.
    unit.write_text(source.read_text().replace(_PROGRAM, sys.executable))
    verified = _analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (verified.returncode, verified.stdout) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), [(_UNIT, 2.0), (_WEB_UNIT, 4.0)], ids=["omewd", "omewd-web"])
def test_exposure_is_low(unit: Path, most: float) -> None:
    report = _analyze("security", "--offline=yes", "--no-pager", str(unit)).stdout
    exposure = re.search(r"Overall exposure level for omewd(?:-web)?\.service: ([\d.]+)", report)
    assert exposure, report
    assert float(exposure[1]) < most, report


def test_memory_limit_is_above_the_budget() -> None:
    text = _UNIT.read_text()
    memory = next(option for option in serve.params if option.name == "memory")
    [default] = re.findall(r"^(\d+)GiB$", str(memory.default))
    for unit in (text, text.replace("\n#", "\n")):  # the example in the comment too
        budgets = re.findall(r"^ *Environment=OMEWD_SERVE_MEMORY=(\d+)GiB$", unit, re.MULTILINE)
        limits = re.findall(r"^ *MemoryMax=(\d+)G$", unit, re.MULTILINE)
        budgets += [default] * (len(limits) - len(budgets))
        assert limits
        assert [int(limit) - int(budget) for budget, limit in zip(budgets, limits, strict=True)] == [2] * len(budgets)


# -- a machine to run it on ----------------------------------------------------------------------

# Becomes the first process of the new namespaces. All it changes is in a tmpfs over the root that only this mount
# namespace sees. /proc/sys and /sys, which it shares with the machine, are read-only, and so is what it shows of the
# machine's other file systems: a boot may clean /tmp, for one.
# Goes on at a line of input. Arguments: the folder of the machine, the folders that Python needs.
_BOOT = r"""
set -eu
machine=$1; shift
read -r _

mount -t tmpfs -o mode=755 tmpfs "$machine/tmpfs"
mkdir "$machine/tmpfs/upper" "$machine/tmpfs/work"
mount -t overlay -o "lowerdir=/,upperdir=$machine/tmpfs/upper,workdir=$machine/tmpfs/work" overlay "$machine/root"
chmod -R go+rX "$machine/install"
cp -a "$machine/install/." "$machine/root/"
for folder; do
    mkdir -p "$machine/root$folder"
    parent=$folder
    while parent=$(dirname "$parent") && [ "$parent" != / ]; do
        chmod o+x "$machine/root$parent"  # root's home is closed to others
    done
done
for folder; do
    mount --bind "$folder" "$machine/root$folder"
    mount -o remount,bind,ro "$machine/root$folder"
done
mkdir -p "$machine/root/var/lib/omewd"
mount --bind "$machine/state" "$machine/root/var/lib/omewd"
cd "$machine/root"

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx

# Nothing of the machine's own services: only the journal.
rm -rf usr/lib/systemd/system-generators etc/systemd/system-generators etc/fstab
rm -rf usr/lib/systemd/system/*.wants etc/systemd/system/*.wants usr/local/lib/systemd
mkdir etc/systemd/system/sysinit.target.wants
ln -s /usr/lib/systemd/system/systemd-journald.service etc/systemd/system/sysinit.target.wants/

pivot_root . mnt
umount -l /mnt
export container=omewd-test
exec setpriv --bounding-set=-sys_time,-sys_module,-syslog,-sys_boot \
    /usr/lib/systemd/systemd --unit=basic.target --show-status=no --log-target=journal < /dev/null
"""

_TEST_USERS = """\
u camera - "in the group omewd"
m camera omewd
u stranger - "in no group"
"""


def _python_folders() -> list[Path]:
    """Where this Python, its packages and the tests are, if not in /usr."""
    program = Path(sys.executable).resolve().parent.parent
    package = Path(omewd.__file__).resolve().parent.parent
    folders = {Path(sys.prefix), Path(sys.base_prefix), program, package, REPOSITORY}
    return sorted(folder for folder in folders if not folder.is_relative_to("/usr"))


class Machine:
    """A systemd in namespaces, run as long as :meth:`boot`'s block; ``state``: its /var/lib/omewd, on the real disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.install = folder / "install"
        for name in ("root", "tmpfs", "state", "install"):
            (folder / name).mkdir()
        self._pid = 0

    def add(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file that is there when the machine boots."""
        target = self.install / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    @contextlib.contextmanager
    def boot(self) -> Iterator[None]:
        """Run the machine for the block; nothing is left of it but ``state``."""
        with _cgroup() as cgroup, (self.folder / "boot.log").open("wb") as log:
            enter = f'echo $$ > "{cgroup}/cgroup.procs" && exec "$@"'
            unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
            boot = ["sh", "-c", _BOOT, "boot", str(self.folder), *map(str, _python_folders())]
            # Whatever ends the test ends the machine.
            command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", enter, "enter", *unshare, *boot]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            try:
                self._pid = self._first_process(process)
                # A cgroup with a process in it can't pass controllers on, and unshare stays outside the namespaces.
                _move(process.pid, cgroup.parent)
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.close()
                self.wait(lambda: self.systemctl("is-active", "basic.target") == "active", 30, "boot")
                yield
            finally:
                print(self.journal())  # pytest shows it if the test fails
                process.kill()
                process.wait(10)

    def _first_process(self, process: subprocess.Popen[bytes]) -> int:
        unshare = psutil.Process(process.pid)
        self.wait(lambda: process.poll() is not None or unshare.children() != [], 10, "unshare")
        assert process.poll() is None, self.boot_log()
        return int(unshare.children()[0].pid)

    def boot_log(self) -> str:
        return (self.folder / "boot.log").read_text(errors="replace")

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not there after {timeout_s} s\n{self.boot_log()}"
            time.sleep(0.1)

    def inside(self, *command: str, user: str | None = None) -> list[str]:
        """The command line that runs a command in the machine."""
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--"]
        enter += ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"PYTHONPATH={REPOSITORY}"]
        if user is not None:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig", "KILL"]
        return [*enter, *command]

    def run(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*command, user=user), capture_output=True, text=True, timeout=30, check=False)

    def systemctl(self, *arguments: str) -> str:
        done = self.run("systemctl", *arguments)
        return (done.stdout + done.stderr).strip()

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.systemctl("show", "--value", f"--property={name}", "omewd.service")

    def journal(self) -> str:
        done = self.run("journalctl", "--no-pager", "--output=short-monotonic", "--lines=200")
        return self.boot_log() + done.stdout + done.stderr

    def omewd(self, *arguments: str, user: str) -> subprocess.CompletedProcess[str]:
        return self.run(_PROGRAM, *arguments, user=user)


def _move(pid: int, cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def _cgroup() -> Iterator[Path]:
    """An empty cgroup (version 2) for the block."""
    mounts = [line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    hierarchies = [fields.split()[4] for fields, _, kind in mounts if kind.startswith("cgroup2 ")]
    if not hierarchies:
        pytest.skip("no cgroup2 is mounted")
    try:
        cgroup = Path(tempfile.mkdtemp(prefix="omewd-test-", dir=hierarchies[0]))
    except OSError as error:
        pytest.skip(f"can't make a cgroup in {hierarchies[0]}: {error.strerror}")
    try:
        yield cgroup
    finally:
        deadline = time.monotonic() + 30
        while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        for folder, _, _ in os.walk(cgroup, topdown=False):
            Path(folder).rmdir()


def _require_namespaces() -> None:
    for program in ("unshare", "nsenter", "setpriv", "pivot_root", "journalctl", "systemd-sysusers"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    probe = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && mount -t overlay overlay /mnt "
    probe += "-o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w && test -x /mnt/usr/lib/systemd/systemd"
    command = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "sh", "-c", probe]
    probed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if probed.returncode != 0:
        pytest.skip(f"no namespaces with an overlay of a root that has systemd: {probed.stderr.strip()}")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A booted machine with the unit installed as an admin does it; its Python is the one that runs the tests."""
    _require_namespaces()
    machine = Machine(tmp_path)
    machine.add("/etc/systemd/system/omewd.service", _UNIT.read_text())
    machine.add("/etc/sysusers.d/omewd.conf", _SYSUSERS.read_text())
    machine.add("/etc/sysusers.d/omewd-test.conf", _TEST_USERS)
    machine.add(_PROGRAM, f'#!/bin/sh\nexec "{sys.executable}" -m omewd "$@"\n', 0o755)
    # ProtectHome and PrivateTmp hide an interpreter in somebody's home or in /tmp: show that and no more.
    shown = "".join(f'BindReadOnlyPaths="{folder}"\n' for folder in _python_folders())
    # Shorter than the unit's: the test waits for both to pass.
    times = "TimeoutStopSec=2s\nWatchdogSec=5s\n"
    machine.add("/etc/systemd/system/omewd.service.d/test.conf", f"[Service]\nProtectHome=tmpfs\n{shown}{times}")
    machine.add("/etc/default/omewd", "OMEWD_SERVE_MEMORY=512MiB\nOMEWD_SERVE_WRITERS=2\n")
    with machine.boot():
        yield machine


# -- the life of the service ---------------------------------------------------------------------

# Appends frames, says so, and on a line of input tries one more, which a stopped stream refuses.
_CAMERA = """
import sys
import omewd
from tests.support.frames import make_frame, make_spec

name, dims, frames, backend = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
copy_to = "".join(sys.argv[5:]) or None
spec = make_spec(name, dims, backend=backend, copy_to=copy_to)
omewd.Client().start_stream(spec)
with omewd.connect(name) as producer:
    for index in range(frames):
        producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    print("appended", flush=True)
    if producer.frames_total != frames:
        sys.stdin.readline()
        try:
            producer.append(make_frame(frames, spec.frame_shape, spec.dtype))
        except omewd.OmewdError as error:
            print(error.code)
if copy_to:
    omewd.Client().wait(name, 60, copied=True)
"""


_DIMS = "t:24:1:4,y:64:32:2,x:96:32"


def _record(machine: Machine, name: str, backend: str = "auto", copy_to: str = "") -> None:
    """A user of the group omewd records a stream, and every frame of it is in the dataset."""
    done = machine.run(sys.executable, "-c", _CAMERA, name, _DIMS, "24", backend, copy_to, user="camera")
    assert (done.returncode, done.stdout) == (0, "appended\n"), done.stderr
    check_dataset(machine.state / "data" / f"{name}.ome.zarr", make_spec(name, _DIMS), 24)


def _restarted(machine: Machine, restarts: int) -> Callable[[], bool]:
    return lambda: machine.show("NRestarts") == str(restarts) and machine.show("ActiveState") == "active"


@needs_systemd
@pytest.mark.alone
@pytest.mark.root("boots a systemd")
@pytest.mark.timeout(100)
def test_row_28_life_of_the_service(machine: Machine) -> None:
    assert machine.run("systemd-sysusers").returncode == 0
    assert machine.systemctl("start", "omewd") == ""  # comes back when READY=1 was sent
    assert machine.show("ActiveState") == "active"
    assert re.match("Ready|0 streams", machine.show("StatusText"))
    status = json.loads(machine.omewd("status", "--json", user="camera").stdout)
    assert status["memory"]["budget_bytes"] == 512 << 20  # as /etc/default/omewd has it

    usable = [name for name, reason in status["backends"].items() if reason is None]
    assert usable
    for backend in usable:
        _record(machine, backend, backend)
    _record(machine, "copied", copy_to="file:///var/lib/omewd/data/copy.ome.zarr")
    check_dataset(machine.state / "data" / "copy.ome.zarr", make_spec("copied", _DIMS), 24)
    listing = machine.run("ls", "-R", "/var/lib/omewd/data", user="camera")
    assert listing.returncode == 0, listing.stderr

    refused = machine.omewd("status", user="stranger")
    assert refused.returncode == 4
    assert re.fullmatch(r"omewd: .*/run/omewd/omewd\.sock.*group.*\n", refused.stderr), refused.stderr

    machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", "omewd")
    machine.wait(_restarted(machine, 1), 10, "restart after SIGKILL")
    _record(machine, "restarted")

    machine.run("kill", "-STOP", machine.show("MainPID"))
    machine.wait(_restarted(machine, 2), 20, "restart by the watchdog")

    _drain(machine)


def _drain(machine: Machine) -> None:
    """Stop the service while frames are in the ring and writers hang for longer than TimeoutStopSec."""
    dims = "t:1000:16,y:64,x:96"
    command = machine.inside(sys.executable, "-c", _CAMERA, "drained", dims, "40", "auto", user="camera")
    camera = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with camera:
        assert camera.stdin is not None
        assert camera.stdout is not None
        try:
            assert camera.stdout.readline() == "appended\n"
            status = json.loads(machine.omewd("status", "--json", user="camera").stdout)
            assert status["streams"][-1]["frames"]["in_flight"] >= 8
            writers = [str(writer["pid"]) for writer in status["writers"]]
            machine.run("kill", "-STOP", *writers)
            machine.systemctl("stop", "--no-block", "omewd")
            time.sleep(4)  # twice TimeoutStopSec
            assert machine.show("ActiveState") == "deactivating"
            assert machine.show("StatusText").startswith("Draining: 1 streams, 40 frames received")
            machine.run("kill", "-CONT", *writers)
            machine.wait(lambda: machine.show("ActiveState") != "deactivating", 20, "stop")
            assert camera.communicate("\n", timeout=20)[0] == "stream_stopped\n"
        finally:
            camera.kill()
    assert machine.show("ActiveState") == "inactive"
    assert machine.show("Result") == "success"
    check_dataset(machine.state / "data" / "drained.ome.zarr", make_spec("drained", dims), 40)


@needs_systemd
@pytest.mark.alone
@pytest.mark.root("boots a systemd")
@pytest.mark.timeout(100)
def test_row_31_the_service_is_reloaded_and_restarted_under_a_camera(machine: Machine) -> None:
    assert machine.run("systemd-sysusers").returncode == 0
    configure = "mkdir /etc/omewd; printf '[serve]\\nmemory = \"%s\"\\n' $1 > /etc/omewd/omewd.toml"
    machine.run("sh", "-c", configure, "sh", "512MiB")
    machine.run(
        "sh", "-c", "printf 'OMEWD_CONFIG=/etc/omewd/omewd.toml\\nOMEWD_SERVE_WRITERS=2\\n' > /etc/default/omewd"
    )
    assert machine.systemctl("start", "omewd") == ""
    dims = "t:1000:16,y:64,x:96"
    command = machine.inside(sys.executable, "-c", _CAMERA, "kept", dims, "40", "auto", user="camera")
    camera = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with camera:
        assert camera.stdout is not None
        try:
            assert camera.stdout.readline() == "appended\n"
            daemon = machine.show("MainPID")
            machine.run("sh", "-c", configure.removeprefix("mkdir /etc/omewd; "), "sh", "600MiB")
            assert machine.systemctl("reload", "omewd") == ""
            machine.wait(lambda: _status(machine)["memory"]["budget_bytes"] == 600 << 20, 20, "reload")
            assert machine.show("MainPID") == daemon

            assert machine.systemctl("restart", "omewd") == ""
            assert machine.show("ActiveState") == "active"
            assert machine.show("MainPID") != daemon
            [stream] = _status(machine)["streams"]
            assert (stream["state"], stream["frames"]["received"]) == ("ACTIVE", 40)
            assert camera.communicate("\n", timeout=30)[0] == ""
        finally:
            camera.kill()
    assert camera.returncode == 0
    check_dataset(machine.state / "data" / "kept.ome.zarr", make_spec("kept", dims), 41)


def _status(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.omewd("status", "--json", user="camera").stdout)
    return found
