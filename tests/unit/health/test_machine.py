"""What is read of a machine."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from omewd.daemon.processes.shared_memory import cgroup_bytes
from omewd.health.machine import answered, read_access, read_folder, read_machine, user_name
from omewd.store.filesystem import mount_options


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.cores == len(os.sched_getaffinity(0))
    assert 0 < machine.memory.available <= machine.memory.total
    assert machine.shared_memory.filesystem == "tmpfs"
    assert 0 < machine.shared_memory.free_bytes <= machine.shared_memory.size_bytes
    assert machine.limits.whose == "this shell"


def test_limits_are_the_daemons_if_they_can_be_read() -> None:
    assert read_machine(1 << 30).limits.whose == "this shell"  # no such process
    own = read_machine(os.getpid()).limits
    assert (own.whose == "the daemon") == (b"omewd" in Path("/proc/self/cmdline").read_bytes())
    assert own.open_files == read_machine().limits.open_files


def test_a_folder_is_looked_at_and_nothing_stays_in_it(tmp_path: Path) -> None:
    folder = read_folder(tmp_path.resolve())
    assert folder.error == ""
    assert 0 < folder.free_bytes <= folder.size_bytes
    assert folder.direct is not None
    assert list(tmp_path.iterdir()) == []
    assert read_folder(tmp_path / "not there").error == "No such file or directory"


def test_a_folder_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, over = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        let_go.wait(60)
        over.set()
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "statvfs", hang)
    try:
        assert "did not answer within 0 s" in read_folder(tmp_path, answer_s=0.05).error
    finally:
        let_go.set()
        assert over.wait(60)
    assert answered(lambda: "here", 60) == "here"


def test_a_machine_without_shared_memory_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    statvfs = os.statvfs

    def without(path: Any) -> os.statvfs_result:
        if str(path) == "/dev/shm":
            raise FileNotFoundError(path)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", without)
    assert read_machine().shared_memory.size_bytes == 0


def test_a_group_without_a_name_has_its_number(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    (tmp_path / "s").chmod(0o660)
    if os.geteuid() == 0:
        os.chown(tmp_path / "s", -1, 54321)
        assert read_access(tmp_path / "s", None).group == "54321"


def test_who_may_connect(tmp_path: Path) -> None:
    own = user_name(os.geteuid())
    planned = read_access(tmp_path / "s", "root")
    assert (planned.owner, planned.group, planned.own) == (own, "root", True)
    (tmp_path / "s").touch(mode=0o600)
    assert read_access(tmp_path / "s", "root").group is None
    (tmp_path / "s").chmod(0o660)
    assert read_access(tmp_path / "s", None).group is not None


V1 = "9:name=systemd:/\n4:memory:/a/b\n3:cpuset,cpu:/\n"


@pytest.mark.parametrize(
    ("own", "limits", "found"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "7", "memory.max": "9"}, 7),
        ("0::/\n", {"memory.max": "9\n"}, 9),
        ("0::/a\n", {"a/memory.max": "max"}, None),
        ("0::/gone\n", {}, None),
        (V1, {"memory/a/b/memory.limit_in_bytes": "5", "memory/memory.limit_in_bytes": str(2**63 - 4096)}, 5),
        (V1, {"memory/a/b/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        (f"{V1}0::/a\n", {"memory/a/memory.limit_in_bytes": "5", "a/memory.max": "4"}, 4),
    ],
)
def test_the_lowest_limit_of_all_cgroups_counts(
    tmp_path: Path, own: str, limits: dict[str, str], found: int | None
) -> None:
    (tmp_path / "cgroup").write_text(own)
    for name, limit in limits.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(limit)
    assert cgroup_bytes(tmp_path / "cgroup", tmp_path / "fs") == found
    assert cgroup_bytes(tmp_path / "none", tmp_path / "fs") is None


def test_options_of_a_mount(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("30 21 0:9 / /dev/shm rw,nosuid shared:3 - tmpfs shm rw,size=65536k,huge=advise\n")
    assert mount_options(Path("/dev/shm"), tmp_path / "mounts") == ("rw", "size=65536k", "huge=advise")
