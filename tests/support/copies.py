"""Datasets to be copied, and their copies compared with them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from omewd.copier.open_copy import open_copy
from omewd.copier.order import belongs
from omewd.dataset.copies.manifest import STORED
from omewd.dataset.keys import files_in
from omewd.dataset.ledger import ledger
from omewd.model.plan.shards import ShardLayout
from tests.conformance.support import usual_frames, write_dataset
from tests.support.frames import frame_line, make_spec
from tests.support.s3 import BUCKET, SECRET, Proxy

# One shard of 20 MiB, which goes up in parts.
LARGE = "t:40:1:40,y:512,x:512"
# What rclone's server has beside objects in its folder: parts of unfinished uploads, which no client sees.
_RCLONES = "/.rclone_temp_multipart"


def finished(root: Path, name: str = "cam", dims: str = "t:12:1:2,y:16:8:2,x:16:8:2") -> Path:
    """A finished dataset with a gap; verify finds nothing wrong with it."""
    spec = make_spec(name, dims, backend="direct", durability="none", levels=2)
    folder = write_dataset(spec, root, usual_frames(spec), scratch=root)
    frames = ShardLayout(spec).keys.frames_total or 0
    lines = [frame_line(frame, 0, 0, b"") for frame in range(frames)]
    (folder / ledger.FOLDER / ledger.FILE).write_bytes(ledger.batch(lines, frames))
    return folder


def differences(dataset: Path, copy: Path) -> list[str]:
    """The paths at which a copy, as a folder, is not byte for byte the dataset."""
    ours = {path for path in files_in(str(dataset)) if belongs(path)}
    theirs = {path for path in files_in(str(copy)) if _RCLONES not in path} - {STORED}
    both = ours & theirs
    other = {path for path in both if (dataset / path).read_bytes() != (copy / path).read_bytes()}
    return sorted((ours ^ theirs) | other)


def require_same_pixels(dataset: Path, url: str) -> None:
    """zarr-python reads a copy, and not only zeros, as it reads the dataset."""
    array = zarr.open_group(open_copy(url), mode="r")["0"]
    assert isinstance(array, zarr.Array)
    expected = np.asarray(zarr.open_array(str(dataset / "0"), mode="r")[...])
    assert expected.any()
    assert np.array_equal(np.asarray(array[...]), expected)


@dataclass
class Lab:
    """An S3 server whose objects are files in ``folder``, behind a proxy; ``number`` is the copy's."""

    folder: Path
    proxy: Proxy
    number: int = 1
    scheme: str = "s3"

    @property
    def path(self) -> str:
        """Of the copy, in the bucket."""
        return f"runs/{self.number}/cam.ome.zarr"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{BUCKET}/{self.path}"

    @property
    def copy(self) -> Path:
        return self.folder / BUCKET / self.path


def omewd(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run a command; it never shows the secret."""
    done = subprocess.run(
        [sys.executable, "-m", "omewd", *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    return done
