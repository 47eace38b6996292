"""A pytest plugin that lets ome-writers' own tests write their OME-Zarr through omewd.

Each of ome-writers' Zarr backends becomes a stream of a daemon, written by omewd's backend of the same name: its
settings go through ``omewd.integrations.ome_writers``, frames through a producer, metadata through
``Client.set_metadata``, and what a test looks at meanwhile through ``omewd.view``. TIFF and scratch stay ome-writers'
own.

A module at the top of the path, not in a package: ome-writers' tests are a package ``tests`` themselves.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ome_writers
import pytest
import tensorstore
from ome_writers import _stream
from ome_writers._backends._backend import ArrayBackend

import omewd
from omewd.bench.run.private_daemon import PrivateDaemon
from omewd.integrations.ome_writers import stream_fields
from omewd.model.spec.spec import StreamSpec
from omewd.store.encoders import ENCODERS
from omewd.store.encoders.base import UnitArray

# Names a file for what came of the tests: {"outcomes": {test: outcome}, "through_omewd": [test, …]}.
REPORT = "OMEWD_PEER_REPORT"

_numbers = itertools.count()
_here: list[str] = []
_through_omewd: set[str] = set()
_outcomes: dict[str, str] = {}


@functools.cache
def _daemon() -> PrivateDaemon:
    return PrivateDaemon(Path(tempfile.gettempdir()).resolve(), "--writers", "2", "--memory", "2GiB")


def pytest_configure() -> None:
    for backend in _stream.BACKENDS:
        if backend.format == "ome-zarr":
            backend.module_path, backend.class_name = __name__, OmewdBackend.__name__


def pytest_unconfigure() -> None:
    if _daemon.cache_info().currsize:
        _daemon().close()
    if REPORT in os.environ:
        report = {"outcomes": _outcomes, "through_omewd": sorted(_through_omewd)}
        Path(os.environ[REPORT]).write_text(json.dumps(report))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _here[:] = [item.nodeid]
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome


class OmewdBackend(ArrayBackend):  # type: ignore[misc]
    """One stream of omewd as a backend of ome-writers."""

    def __init__(self) -> None:
        self._producer: omewd.Producer | None = None
        self._written: dict[tuple[int, tuple[int, ...]], int] = {}

    def is_incompatible(self, settings: Any) -> str | bool:
        try:
            spec = self._spec(settings)
        except omewd.OmewdError as error:
            return str(error)
        encoder = ENCODERS.get(spec.backend)
        return (encoder.incompatible(UnitArray.of(spec)) if encoder else None) or False

    def _spec(self, settings: Any) -> StreamSpec:
        fields = stream_fields(settings.model_dump(mode="json"))
        fields["output"] = str(Path(fields["output"]).resolve())
        fields["name"] = f"{fields['name'][:40]}-{next(_numbers)}"
        return StreamSpec.parse({**fields, "durability": "none"})

    def prepare(self, settings: Any, router: Any) -> None:  # noqa: ARG002
        self._spec_of_stream = spec = self._spec(settings)
        self._root = Path(spec.output)
        self._client = _daemon().client
        try:
            self._client.start_stream(spec)
        except omewd.OmewdError as error:
            if error.code == "output_exists":
                raise FileExistsError(str(error)) from error
            raise
        _through_omewd.update(_here)
        self._producer = omewd.connect(spec.name, socket=_daemon().socket)
        self._rest = np.empty(0, spec.dtype)

    def write(
        self,
        position_index: int,
        index: tuple[int, ...],
        frame: np.ndarray[Any, Any],
        *,
        frame_metadata: dict[str, Any] | None = None,
    ) -> None:
        assert self._producer is not None
        if frame.shape != self._producer.shape:
            self._write_piece(frame)
            return
        number = self._producer.append(frame, metadata=frame_metadata)
        assert isinstance(number, int)
        self._written[position_index, index] = number

    def _write_piece(self, pixels: np.ndarray[Any, Any]) -> None:
        """Pixels of any shape, one after the other, as acquire-zarr takes them: frames are made of them here."""
        assert self._producer is not None
        self._rest = np.concatenate([self._rest, pixels.reshape(-1)])
        pixels_per_frame = math.prod(self._producer.shape)
        while self._rest.size >= pixels_per_frame:
            self._producer.append(self._rest[:pixels_per_frame].reshape(self._producer.shape))
            self._rest = self._rest[pixels_per_frame:]

    def advance(self, indices: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        assert self._producer is not None
        self._written.update(zip(indices, itertools.count(self._producer.next_index), strict=False))
        self._producer.skip(len(indices))

    def finalize(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.close()
            self._tell_of_frames()

    def _tell_of_frames(self) -> None:
        """Put what the ledger has of frames where ome-writers has it."""
        of_image: list[list[dict[str, Any]]] = [[] for _ in range(self._spec_of_stream.images)]
        with (self._root / "omewd/ledger.jsonl").open() as ledger:
            lines = [json.loads(line) for line in ledger if line.strip()]
        places = {number: place for place, number in self._written.items()}
        for line in sorted((line for line in lines if "metadata" in line), key=lambda line: line["frame"]):
            position, index = places[line["frame"]]
            of_image[position].append({**line["metadata"], "storage_index": index})
        for path, frames in zip(self.get_metadata(), of_image, strict=True):
            self._annotate(path, "ome_writers", {"version": ome_writers.__version__, "frame_metadata": frames})

    def get_arrays(self) -> list[Any]:
        if self._producer is not None:
            return [GrowingArray(self, position) for position in range(self._spec_of_stream.images)]
        return [_opened(self._root / path / "0") for path in self._spec_of_stream.image_paths]

    def set_global_metadata(self, namespace: str, metadata: Mapping[str, Any]) -> None:
        self._client.set_metadata(self._spec_of_stream.name, namespace, metadata)

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        before = self.get_metadata()
        for path, attributes in metadata.items():
            if path not in before:
                raise KeyError(f"Unknown path: {path}")
            for namespace, value in attributes.items():
                if before[path].get(namespace) != value:
                    self._annotate(path, namespace, value)

    def _annotate(self, path: str, namespace: str, value: Any) -> None:
        paths = self._spec_of_stream.image_paths
        position = None if path == "." else paths.index(path)
        self._client.set_metadata(self._spec_of_stream.name, namespace, value, position=position)

    def get_metadata(self) -> dict[str, dict[str, Any]]:
        return {path or ".": _attributes(self._root / path) for path in self._spec_of_stream.image_paths}


def _attributes(group: Path) -> dict[str, Any]:
    attributes: dict[str, Any] = json.loads((group / "zarr.json").read_text())["attributes"]
    return attributes


def _opened(array: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
    return tensorstore.open(spec, read=True, write=False).result()


class GrowingArray:
    """The array of a position while it is written: frames that have come through the view of the stream, else zeros."""

    def __init__(self, backend: OmewdBackend, position: int) -> None:
        self._backend, self._position = backend, position
        self._spec = backend._spec_of_stream
        self.dtype = np.dtype(self._spec.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        places = [index for position, index in self._backend._written if position == self._position]
        counts = [dim.count for dim in self._spec.disk_dimensions[:-2]]
        grown = (
            max((index[axis] + 1 for index in places), default=1) if count is None else count
            for axis, count in enumerate(counts)
        )
        return (*grown, *self._spec.frame_shape)

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        array = np.zeros(self.shape, self.dtype)
        with omewd.view(self._spec.name, socket=_daemon().socket) as view:
            for (position, index), number in list(self._backend._written.items()):
                if position == self._position:
                    with contextlib.suppress(omewd.OmewdError):  # on its way, or a gap
                        array[index] = view.frame(number).copy()
        result: np.ndarray[Any, Any] = array[key]
        return result
