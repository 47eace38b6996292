"""Which kernels and filesystems write one shard from several threads at once."""

from __future__ import annotations

import pytest

from omewd.store.kernels import advice, writes_one_by_one


@pytest.mark.parametrize(
    ("filesystem", "release", "waits"),
    [
        ("ext4", "6.1.0-44-amd64", True),
        ("ext4", "5.15.0-139-generic", True),
        ("ext4", "6.2.16", True),
        ("ext4", "6.3.0", False),
        ("ext4", "6.12.117+deb13-amd64", False),  # 12 is more than 3, and not less
        ("ext4", "10.0-rc1", False),
        ("xfs", "6.1.0-44-amd64", False),
        ("", "6.1.0", False),
        ("ext4", "of our own", False),
    ],
)
def test_ext4_before_6_3_writes_one_file_one_by_one(filesystem: str, release: str, waits: bool) -> None:
    assert writes_one_by_one(filesystem, release) is waits
    text = advice("/data", filesystem, release)
    assert (text is not None) is waits
    if text:
        assert text.startswith(f"/data is on ext4, and with kernel {release} ")
        assert text.endswith("use XFS, or kernel 6.3 or newer")
