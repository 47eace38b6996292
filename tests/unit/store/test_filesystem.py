"""What a folder's filesystem is, and room in a file."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from omewd.process.names import sync_folder
from omewd.store import filesystem
from omewd.store.filesystem import extend, filesystem_of, network_filesystem, punch, room_of, start_write_back

ROOT = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
DATA = "22 21 0:40 / /data rw,relatime shared:2 master:1 - nfs4 server:/data rw,vers=4.2"
LOCAL = "23 22 8:17 / /data/local rw,relatime - xfs /dev/sdb1 rw"
SPACE = r"24 21 0:41 / /with\040a\040space rw,nosuid - cifs //server/share rw"
ESCAPED = r"27 21 0:43 / /\011tab\134040\043 rw - nfs server:/x rw"
NOT_ASCII = r"28 21 0:44 / /größe/µ\040m rw - ceph server:/x rw"
SSHFS = "25 21 0:42 / /home/far rw,nosuid shared:9 - fuse.sshfs me@server: rw"
OVER = "26 22 8:33 / /data rw,relatime - ext4 /dev/sdc1 rw"


@pytest.mark.parametrize(
    ("mounts", "folder", "kind"),
    [
        ([ROOT], "/data/set", None),
        ([ROOT, DATA], "/data", "nfs4"),
        ([ROOT, DATA], "/data/set/deep", "nfs4"),
        ([ROOT, DATA], "/database", None),
        ([ROOT, DATA, LOCAL], "/data/local/set", None),
        ([LOCAL, DATA, ROOT], "/data/local/set", None),
        ([ROOT, DATA, LOCAL], "/data/other", "nfs4"),
        ([ROOT, SPACE], "/with a space/set", "cifs"),
        ([ROOT, SPACE], "/with", None),
        ([ROOT, ESCAPED], "/\ttab\\040#/set", "nfs"),
        ([ROOT, ESCAPED], "/\ttab #/set", None),
        ([ROOT, NOT_ASCII], "/größe/µ m/set", "ceph"),
        ([ROOT, NOT_ASCII], "/größe/µ", None),
        ([ROOT, SSHFS], "/home/far/set", "fuse.sshfs"),
        ([ROOT, SSHFS], "/home/near", None),
        ([ROOT, DATA, OVER], "/data/set", None),
        ([ROOT, OVER, DATA], "/data/set", "nfs4"),
    ],
)
def test_the_mount_that_a_folder_is_on(tmp_path: Path, mounts: list[str], folder: str, kind: str | None) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("".join(f"{line}\n" for line in mounts))
    assert network_filesystem(Path(folder), table) == kind
    assert kind is None or filesystem_of(Path(folder), table) == kind


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2028", "\x0b", "\x0c", "\r"])
def test_the_kernel_escapes_only_some_white_space(tmp_path: Path, space: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(f"{ROOT}\n30 21 0:9 / /a{space}b rw - nfs server:/ rw\n".encode())
    assert network_filesystem(Path("/elsewhere"), table) is None
    assert network_filesystem(Path(f"/a{space}b/set"), table) == "nfs"


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    far, link, table = tmp_path / "far", tmp_path / "link", tmp_path / "mountinfo"
    far.mkdir()
    link.symlink_to(far)
    table.write_text(f"{ROOT}\n30 21 0:9 / {far} rw - nfs server:/ rw\n")
    assert network_filesystem(link / "set", table) == "nfs"


def test_the_table_of_this_machine_can_be_read() -> None:
    assert filesystem_of(Path("/proc")) == "proc"
    assert network_filesystem(Path("/proc")) is None


class FailingLibc:
    """Its calls fail with ``errors``, the last one again and again."""

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)
        self.calls = 0

    def fallocate(self, *_: int) -> int:
        self.calls += 1
        ctypes.set_errno(self._errors[0])
        if len(self._errors) > 1:
            del self._errors[0]
        return -1 if ctypes.get_errno() else 0

    sync_file_range = fallocate


def test_a_file_is_extended_with_blocks(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"data")
        file.flush()
        extend(file.fileno(), 4, 1 << 20)
        status = os.fstat(file.fileno())
        file.seek(0)
        assert file.read() == b"data" + bytes((1 << 20) - 4)
    assert status.st_blocks * 512 >= 1 << 20


def test_a_file_has_no_blocks_before_those_that_are_asked_for(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        extend(file.fileno(), 1 << 19, 1 << 20)
        status = os.fstat(file.fileno())
    assert status.st_size == 1 << 20
    assert 1 << 19 <= status.st_blocks * 512 < 1 << 20


def test_what_is_punched_has_no_blocks_and_is_zero(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
        before = os.fstat(file.fileno()).st_blocks
        punch(file.fileno(), 4096, 1 << 19)
        assert os.fstat(file.fileno()).st_blocks * 512 <= before * 512 - (1 << 19) + 4 * 4096
        file.seek(0)
        assert file.read() == b"x" * 4096 + bytes((1 << 19) - 4096) + b"x" * (1 << 19)


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_no_hole_can_be_punched_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    monkeypatch.setattr(filesystem, "_libc", FailingLibc(error))
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * 8192)
        file.flush()
        punch(file.fileno(), 0, 4096)
        file.seek(0)
        assert file.read() == b"x" * 8192


def test_a_call_that_a_signal_cuts_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libc = FailingLibc(errno.EINTR, errno.EINTR, 0)
    monkeypatch.setattr(filesystem, "_libc", libc)
    with (tmp_path / "file").open("w+b") as file:
        extend(file.fileno(), 0, 4096)
        assert libc.calls == 3
        assert os.fstat(file.fileno()).st_size == 0  # as far as it went, the kernel has done it
    monkeypatch.setattr(filesystem, "_libc", FailingLibc(errno.EINTR, errno.ENOSPC))
    with (tmp_path / "file").open("w+b") as file, pytest.raises(OSError, match="No space left"):
        extend(file.fileno(), 0, 4096)


def test_write_back_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * 8192)
        file.flush()
        start_write_back(file.fileno(), 0, 8192)
        libc = FailingLibc(errno.EIO)
        monkeypatch.setattr(filesystem, "_libc", libc)
        start_write_back(file.fileno(), 0, 8192)
        assert libc.calls == 1


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_fallocate_a_file_gets_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    monkeypatch.setattr(filesystem, "_libc", FailingLibc(error))
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"data")
        file.flush()
        extend(file.fileno(), 4, 100_000)
        file.seek(0)
        assert file.read() == b"data" + bytes(100_000 - 4)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "_libc", FailingLibc(errno.ENOSPC))
    with (tmp_path / "file").open("w+b") as file:
        with pytest.raises(OSError, match="No space left") as caught:
            extend(file.fileno(), 0, 100_000)
        assert caught.value.errno == errno.ENOSPC
        assert os.fstat(file.fileno()).st_size == 0


def test_a_folder_whose_sync_fails_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fail(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    assert synced == [str(tmp_path)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_room_is_that_of_the_nearest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_of(tmp_path / "not" / "there")
    assert room.device == tmp_path.stat().st_dev
    assert room.free_bytes is not None
    silent = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: silent)
    assert room_of(tmp_path).free_bytes is None
