"""What a benchmark times is right: every target stores every frame at its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omewd.bench.run.targets import open_target, sync_tree
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from tests.support.datasets import read_tensorstore, read_zarr
from tests.support.frames import make_frame, make_spec

BACKENDS = ("tensorstore", "acquire-zarr", "zarr-python", "zarrs-python")
DIMS = ("t:6,y:32:16,x:48:16", "t:7:1:4,y:32:16:2,x:48:16:3", "t:3,c:2,z:5:1:2,y:30:16:2,x:40:16:3")


def feed(kind: str, spec: StreamSpec, folder: Path) -> None:
    target = open_target(kind, spec, folder, "")
    frame = np.empty(spec.frame_shape, spec.dtype)  # the same buffer for each frame, as a camera's may be
    for index in range(Plan.of(spec).frames_total or 0):
        if kind == "ome-writers":  # with tensorstore it keeps the frame that it is given
            frame = np.empty_like(frame)
        frame[...] = make_frame(index, spec.frame_shape, spec.dtype)
        target.append(frame)
    target.close()
    sync_tree(folder)


def check(spec: StreamSpec, folder: Path) -> None:
    plan = Plan.of(spec)
    for array in (read_zarr(folder), read_tensorstore(folder)):
        for index in range(plan.frames_total or 0):
            expected = make_frame(index, spec.frame_shape, spec.dtype)
            assert array[plan.place(index)].tobytes() == expected.tobytes(), index


@pytest.mark.parametrize("compression", [None, "blosc-zstd"])
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_library_in_process(tmp_path: Path, backend: str, dims: str, compression: str | None) -> None:
    spec = make_spec("b", dims, backend=backend, compression=compression)
    feed("in-process", spec, tmp_path / "d")
    check(spec, tmp_path / "d")


@pytest.mark.parametrize("dims", ["t:3,z:5:2:2,c:2,y:16,x:24", "c:3,t:5,y:16,x:24"])
def test_a_library_that_stores_arrays_takes_any_order(tmp_path: Path, dims: str) -> None:
    spec = make_spec("b", dims, backend="tensorstore")
    feed("in-process", spec, tmp_path / "d")
    check(spec, tmp_path / "d")
    with pytest.raises(OmewdError, match="acquisition order"):
        open_target("in-process", spec.model_copy(update={"backend": "acquire-zarr"}), tmp_path / "a", "")


@pytest.mark.parametrize("dims", DIMS[:2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ome_writers(tmp_path: Path, backend: str, dims: str) -> None:
    spec = make_spec("b", dims, backend=backend)
    feed("ome-writers", spec, tmp_path / "d.ome.zarr")
    check(spec, tmp_path / "d.ome.zarr")


def test_a_library_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ome_writers", None)
    with pytest.raises(OmewdError, match="ome-writers is not installed"):
        open_target("ome-writers", make_spec("b", DIMS[0], backend="tensorstore"), tmp_path / "d", "")
