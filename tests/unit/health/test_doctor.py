"""``omewd doctor``: what is judged as fine, as worth an advice, and as a problem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from omewd.errors import OmewdError
from omewd.health.doctor import ADVICE, FINE, PROBLEM, Finding, Setup, examine, of_error
from omewd.health.machine import Access, Folder, Machine, Memory, ProcessLimits, SharedMemory

GIB = 2**30
MACHINE = Machine(
    architecture="x86_64",
    release="6.12.0-1-amd64",
    python="3.13.5",
    cores=8,
    memory=Memory(64 * GIB, 60 * GIB, None),
    shared_memory=SharedMemory("tmpfs", ("rw", "size=32g", "huge=within_size"), 32 * GIB, 31 * GIB),
    limits=ProcessLimits("the daemon", 16384, None, None),
    removes_ipc=None,
)
FOLDER = Folder("/data", "xfs", "", 1000 * GIB, 500 * GIB, True)
ACCESS = Access("/run/omewd/omewd.sock", "omewd", "omewd", ("ada", "bob"), own=True)
BACKENDS = {"direct": None, "zarrs-python": "zarrs is not installed: pip install zarrs"}
SETUP = Setup(4 * GIB, "ext4")


def findings(
    machine: Machine = MACHINE,
    folder: Folder = FOLDER,
    access: Access = ACCESS,
    backends: dict[str, str | None] = BACKENDS,
    setup: Setup = SETUP,
) -> list[Finding]:
    return list(examine(machine, [folder], access, backends, setup))


def test_a_good_machine_is_told_what_it_has() -> None:
    found = findings()
    assert {finding.level for finding in found} == {FINE}
    told = {finding.subject: finding.message for finding in found}
    assert told["machine"] == "x86_64, 8 cores, Linux 6.12.0-1-amd64, Python 3.13.5"
    assert told["/dev/shm"] == "32.0 GiB tmpfs, 31.0 GiB free"
    assert told["data root /data"] == "xfs, 500.0 GiB of 1000.0 GiB free, O_DIRECT works"
    assert "members of the group omewd (ada, bob)" in told["access"]
    assert told["backend zarrs-python"] == "zarrs is not installed"


def with_memory(total: int, available: int, cgroup: int | None = None) -> list[Finding]:
    return findings(replace(MACHINE, memory=Memory(total, available, cgroup)))


def with_shared(**fields: Any) -> list[Finding]:
    return findings(replace(MACHINE, shared_memory=replace(MACHINE.shared_memory, **fields)))


def with_limits(**fields: Any) -> list[Finding]:
    return findings(replace(MACHINE, limits=replace(MACHINE.limits, **fields)))


def with_folder(**fields: Any) -> list[Finding]:
    return findings(folder=replace(FOLDER, **fields))


def with_access(**fields: Any) -> list[Finding]:
    return findings(access=replace(ACCESS, **fields))


OLD_KERNEL = replace(MACHINE, release="6.1.0-44-amd64")
CASES: dict[str, tuple[list[Finding], str, str, str]] = {
    "another processor": (findings(replace(MACHINE, architecture="aarch64")), PROBLEM, "x86-64", "x86-64"),
    "one core": (findings(replace(MACHINE, cores=1)), ADVICE, "share the one core", "two or more"),
    "less memory than the budget": (with_memory(3 * GIB, GIB), PROBLEM, "the machine has 3.0 GiB", "Leave some"),
    "a cgroup smaller than the budget": (with_memory(64 * GIB, GIB, 2 * GIB), PROBLEM, "cgroup may use 2.0", "some"),
    "hardly more memory": (with_memory(9 * GIB // 2, 9 * GIB // 2), ADVICE, "512 MiB are left", "--memory"),
    "memory in use": (with_memory(64 * GIB, 2 * GIB), ADVICE, "other programs use the rest", "End other programs"),
    "a container": (with_shared(size_bytes=64 << 20, free_bytes=64 << 20), PROBLEM, "/dev/shm has 0.06", "--ipc=host"),
    "a small /dev/shm": (with_shared(size_bytes=2 * GIB, free_bytes=GIB), PROBLEM, "has 2.00 GiB", "remount,size=4G"),
    "a full /dev/shm": (with_shared(free_bytes=GIB), ADVICE, "does not fit beside what is there", "omewd status"),
    "/dev/shm on a disk": (with_shared(filesystem="ext4"), PROBLEM, "rings need a tmpfs", "mount -t tmpfs"),
    "small pages": (with_shared(options=("rw", "huge=never")), ADVICE, "its pages are small", "huge=within_size"),
    "logind": (findings(replace(MACHINE, removes_ipc="ada")), ADVICE, "user ada at the last logout", "linger ada"),
    "few descriptors": (with_limits(open_files=256), PROBLEM, "may open 256 files", "LimitNOFILE="),
    "small files": (with_limits(file_bytes=GIB), ADVICE, "write no file over 1.0 GiB", "LimitFSIZE="),
    "small addresses": (with_limits(address_bytes=GIB), ADVICE, "map no more than 1.0 GiB", "LimitAS="),
    "a folder that hangs": (with_folder(error="no answer", filesystem="nfs4"), PROBLEM, "on nfs4: no answer", "Check"),
    "a folder in memory": (with_folder(filesystem="tmpfs"), ADVICE, "gone with the machine", "on a disk"),
    "NFS": (with_folder(filesystem="nfs4", direct=False), ADVICE, "than the network", "copy afterwards"),
    "no O_DIRECT": (with_folder(direct=False), ADVICE, "through the page cache", "XFS or ext4"),
    "ext4 on an old kernel": (
        findings(OLD_KERNEL, replace(FOLDER, filesystem="ext4")),
        ADVICE,
        "kernel 6.1.0-44-amd64",
        "docs/performance.md",
    ),
    "a full disk": (with_folder(free_bytes=GIB), ADVICE, "nearly full", "Free space"),
    "a state in memory": (findings(setup=replace(SETUP, state_filesystem="tmpfs")), ADVICE, "tmpfs", "--state-dir"),
    "another's socket": (with_access(own=False), PROBLEM, "this user may not", "usermod -aG omewd"),
    "a socket for one": (with_access(own=False, group=None), PROBLEM, "this user may not", "--group"),
    "no libraries": (findings(backends={"direct": "numpy is not installed: pip install numpy", "x": None}), ADVICE,
                     "numpy is not installed", "pip install numpy"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "level", "says", "remedy"), CASES.values(), ids=CASES.keys())
def test_what_is_not_fine_is_told_once_with_its_remedy(
    found: list[Finding], level: str, says: str, remedy: str
) -> None:
    [told] = [finding for finding in found if finding.level != FINE]
    assert told.level == level
    assert says in told.message
    assert remedy in told.remedy


def test_without_any_backend_nothing_can_be_written() -> None:
    found = findings(backends={"direct": "numpy is not installed: pip install numpy"})
    assert [finding.level for finding in found if finding.subject == "backends"] == [PROBLEM]
    assert "backends" not in {finding.subject for finding in findings(backends={})}  # no writer has told yet


def test_a_folder_that_this_user_may_not_write_is_no_problem() -> None:
    [told] = [finding for finding in with_folder(direct=None) if finding.subject == "data root /data"]
    assert (told.level, "not tried" in told.message) == (FINE, True)


def test_errors_are_problems() -> None:
    error = OmewdError("no_permission", "you may not", "Ask")
    assert of_error("daemon", error).to_json() == {
        "subject": "daemon",
        "level": PROBLEM,
        "message": "you may not",
        "remedy": "Ask",
    }
