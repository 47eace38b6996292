"""A handler for the acquisition engine of pymmcore-plus: ``core.run_mda(sequence, output=OmewdHandler("run"))``.

The engine's runner passes frames to handlers in order, on a thread of its own, through a queue without a limit. So
while the ring is full, frames stay in the memory of the camera's program and the camera goes on. An exception in a
handler would end that thread for all handlers, and the run would go on without them. So the handler raises nothing: an
error ends the run, and ``handler.wait()``, ``handler.error`` and the log report it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from omewd.client.client import Client
from omewd.errors import OmewdError
from omewd.integrations.pymmcore_metadata import frame_metadata, to_json_values
from omewd.integrations.useq import endless_fields, event_grid, stream_fields
from omewd.integrations.useq_grid import EventGrid
from omewd.model.spec.spec import StreamSpec
from omewd.producer.producer import Producer, connect
from omewd.protocol.status import StreamStatus, read_status

_log = logging.getLogger("omewd.pymmcore")
NAMESPACE = "pymmcore_plus"
# How long a run may take to start; the engine first sets up the hardware.
_START_TIMEOUT_S = 30.0
_POLL_S = 0.05
_MAX_SKIP = 1_000_000


class OmewdHandler:
    """Streams what an acquisition engine acquires to the daemon. It may serve several runs, one after the other.

    ``name``: None for the first free one of stream1, stream2, …. ``chunks`` (in elements) and ``shards`` (in chunks) by
    dimension, such as ``{"t": 1, "y": 256, "x": 256}``. ``fields``: any other fields of a StreamSpec (output, backend,
    compression, levels, backpressure, overwrite, …). ``socket``: the daemon's control socket. ``cancel_on_error``:
    whether an error ends the run; with False it goes on for other outputs.

    The dimensions come from the sequence; shape, dtype and pixel size come from the engine. An event's index decides
    its frame index; frame indexes without an event are gaps. Events of a generator become an unbounded dimension t.
    With ``dimensions`` of your own, frames are taken in the order in which they come.

    Raises OmewdError ``bad_spec`` for a field that streams don't have.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        chunks: Mapping[str, int] | None = None,
        shards: Mapping[str, int] | None = None,
        socket: str | os.PathLike[str] | None = None,
        cancel_on_error: bool = True,
        **fields: Any,
    ) -> None:
        strange = sorted(set(fields) - set(StreamSpec.model_fields))
        if strange:
            raise OmewdError("bad_spec", f"a stream has no field {strange[0]!r}", "See omewd.StreamSpec")
        if "dimensions" in fields and (chunks or shards):
            raise OmewdError(
                "bad_spec", "chunks and shards can't be given beside dimensions", "Set them in the dimensions"
            )
        self._fields = fields if name is None else {**fields, "name": name}
        self._chunks, self._shards, self._socket = chunks, shards, socket
        self._cancel_on_error = cancel_on_error
        self._client = Client(socket)
        self._begun, self._ended = threading.Event(), threading.Event()
        self._reset()

    def _reset(self) -> None:
        self.name: str | None = None
        self.path: str | None = None
        self.spec: StreamSpec | None = None
        self.error: Exception | None = None
        self.frames_taken = self.frames_lost = 0
        self.cancelled = False
        self.complete: bool | None = None
        self._producer: Producer | None = None
        self._grid: EventGrid | None = None
        self._cameras, self._shorter, self._samples = 1, 0, 1
        self._sequence: Any = None
        self._summary: Mapping[str, Any] = {}
        self._final: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._runner: Any = None

    # -- what the engine calls -----------------------------------------------------------------

    def sequenceStarted(self, sequence: Any, meta: Mapping[str, Any]) -> None:  # noqa: N802
        """Open the stream and put the engine's summary into its dataset."""
        if self._begun.is_set() and not self._ended.is_set():
            self.sequenceFinished(self._sequence)  # the engine never reported the last run's end
        self._ended.clear()
        self._reset()
        self._begun.set()
        self._thread, self._sequence, self._summary = threading.current_thread(), sequence, meta or {}
        with self._recording_errors():
            if self._summary.get("image_infos"):
                info = self._summary["image_infos"][0]
                shape, dtype = tuple(info["plane_shape"]), str(info["dtype"])
                self._open(shape, dtype, info.get("pixel_size_um"), info.get("num_camera_adapter_channels") or 1)

    def frameReady(self, image: np.ndarray[Any, Any], event: Any, meta: Mapping[str, Any]) -> None:  # noqa: N802
        """Hand a frame over, at its event's frame index."""
        if self.error is not None:
            self.frames_lost += 1
            self._cancel()  # again: the runner forgets a cancellation between two events
            return
        with self._recording_errors():
            if self._producer is None:
                self._open(image.shape, str(image.dtype), meta.get("pixel_size_um"), 1)
            assert self._producer is not None
            self._skip_to(self._frame_index(self._producer.next_index, event))
            if self._append(self._producer, image, event, meta):
                self.frames_taken += 1

    def sequenceCanceled(self, sequence: Any) -> None:  # noqa: ARG002, N802
        """Note that the run ends early. The frames so far are written."""
        self.cancelled = True

    def sequenceFinished(self, sequence: Any) -> None:  # noqa: ARG002, N802
        """End the stream and wait until its dataset is on disk."""
        if self._ended.is_set():
            return
        try:
            with self._recording_errors():
                if self._producer is not None:
                    self._end(self._producer)
        finally:
            self._producer = None
            self._ended.set()

    # -- what the program calls ----------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        """The state of the last run; ``state`` is waiting, recording, done or failed.

        ``frames_taken`` were handed over. ``frames_lost`` came after an error. ``complete``: whether the last event's
        frame has come, None if that is unknown. ``Client().status(handler.name)`` tells more.
        """
        ended = self._ended.is_set()
        state = "failed" if self.error else "done" if ended else "recording" if self._begun.is_set() else "waiting"
        return {
            "state": state,
            "stream": self.name,
            "path": self.path,
            "frames_taken": self.frames_taken,
            "frames_lost": self.frames_lost,
            "complete": self.complete,
            "cancelled": self.cancelled,
            "error": None if self.error is None else str(self.error),
        }

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until the last run is over and its dataset is on disk; returns the stream's final status.

        ``timeout`` is in seconds. With ``run_mda(…, block=False)``, use a new handler for each run: before the next run
        starts, this returns the status of the one before.
        Raises the handler's error (OmewdError, StreamFailedError, …); OmewdError ``timeout``; OmewdError
        ``not_started`` if no run starts within 30 s, because the engine failed before.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._begun.wait(_START_TIMEOUT_S if timeout is None else min(timeout, _START_TIMEOUT_S)):
            raise OmewdError("not_started", "no sequence has started with this handler", "See the log of pymmcore-plus")
        while not self._ended.wait(_POLL_S):
            if self._thread is not None and not self._thread.is_alive():
                # The runner's thread may stop before it has reported the end of the run.
                self.sequenceFinished(self._sequence)
            elif deadline is not None and time.monotonic() >= deadline:
                raise OmewdError("timeout", f"the run was not over after {timeout} s")
        if self.error is not None:
            raise self.error
        return self._final

    # -- the steps -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _recording_errors(self) -> Iterator[None]:
        """Keep the first error, log it, and end the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  any exception would end the runner's thread
            if self.error is None:
                self.error = error
            _log.error("stream %s: %s", self.name or self._fields.get("name"), error)
            self._cancel()

    def _cancel(self) -> None:
        if not self._cancel_on_error:
            return
        if self._runner is None:
            self._runner = _runner_of(self._sequence) or False
        # The runner may have started the next run while frames of this one still come.
        if self._runner and getattr(self._runner, "_sequence", self._sequence) is self._sequence:
            self._runner.cancel()

    def _open(self, shape: tuple[int, ...], dtype: str, pixel_size_um: float | None, cameras: int) -> None:
        colors = {(2, 1): None, (3, 3): "rgb", (3, 4): "rgba"}
        key = len(shape), shape[2] if len(shape) == 3 else 1
        if key not in colors:
            raise OmewdError(
                "bad_frame",
                f"frames of {shape}: a stream takes (height, width), or (height, width, 3 or 4) in colour",
                "Set the camera to another pixel type, such as 16bit",
            )
        self._samples = key[1]
        fields = self._described((shape[0], shape[1]), dtype, pixel_size_um, cameras)
        if colors[key] is not None:
            fields = _in_color(fields, colors[key], cameras)
        spec = StreamSpec.parse({"name": "unnamed", **fields, **self._fields})
        chosen = {"name", "output"} - {name for name in self._fields if self._fields[name]}
        status = read_status(StreamStatus, self._client.start_stream(spec.model_dump(mode="json", exclude=chosen)))
        self.name, self.path = status.name, status.path
        self.spec = spec.model_copy(update={"name": status.name, "output": status.path})
        try:
            self._producer = connect(status.name, socket=self._socket)
        except BaseException:
            self._client.stop_stream(status.name)  # nobody else would stop it
            raise
        if self._summary:
            try:
                self._client.set_metadata(status.name, NAMESPACE, {"summary_metadata": to_json_values(self._summary)})
            except OmewdError as error:  # the run goes on: frames matter more
                _log.warning("stream %s has no summary metadata: %s", self.name, error)

    def _described(
        self, shape: tuple[int, int], dtype: str, pixel_size_um: float | None, cameras: int
    ) -> dict[str, Any]:
        if "dimensions" in self._fields:
            return {"dtype": dtype}
        self._cameras = cameras
        options: dict[str, Any] = {"dtype": dtype, "pixel_size_um": pixel_size_um}
        options |= {"chunks": self._chunks, "shards": self._shards}
        if self._sequence.axis_order:  # empty for a generator's events
            # The engine has already set the field of view of the sequence's grids.
            self._grid = event_grid(self._sequence, cameras=cameras)
            return stream_fields(self._sequence, shape, grid=self._grid, **options)
        return endless_fields(shape, cameras=cameras, **options)

    def _frame_index(self, following: int, event: Any) -> int:
        """The frame index of an event; without a sequence, the next index of the event's camera."""
        if self._grid is not None:
            return self._grid.frame_index(event.index) * self._samples
        camera: int = event.index.get("cam", 0)
        return following + (camera - following) % self._cameras

    def _skip_to(self, index: int) -> None:
        assert self._producer is not None
        gap = index - self._producer.next_index
        if gap < 0:
            raise OmewdError(
                "bad_frame",
                f"a frame came for index {index}, but all indexes below {self._producer.next_index} are taken or "
                "skipped",
                "Give the handler `dimensions` of your own to record frames as they come",
            )
        while gap:
            self._producer.skip(min(gap, _MAX_SKIP))
            gap -= min(gap, _MAX_SKIP)

    def _append(self, producer: Producer, image: np.ndarray[Any, Any], event: Any, meta: Mapping[str, Any]) -> bool:
        """Append with as much of the metadata as fits; returns False if a full ring dropped the frame.

        The producer refuses too large metadata before it publishes anything.
        """
        refused: OmewdError | None = None
        for number, metadata in enumerate(frame_metadata(meta, event)):
            if number < self._shorter:  # too large for the last frame, and frames of a run are alike
                continue
            try:
                index = producer.append(image, metadata=metadata)
            except OmewdError as error:
                if error.code != "bad_metadata":
                    raise
                refused = error
            else:
                self._shorter = number
                return index is not None
        assert refused is not None
        raise refused

    def _end(self, producer: Producer) -> None:
        grid = self._grid
        try:
            if grid is not None and grid.frames is not None:
                ends = None if grid.end is None else grid.end * self._samples
                self.complete = self.error is None and ends == producer.next_index
                if self.complete:
                    self._skip_to(grid.frames * self._samples)  # the rest of a ragged grid holds no frames
        finally:
            self._final = producer.close()


def _in_color(fields: dict[str, Any], color: Any, cameras: int) -> dict[str, Any]:
    """The fields of a stream of colour frames, whose colours are its channels."""
    dimensions = fields.get("dimensions")
    if dimensions is None:
        return {**fields, "color": color}
    channels = next((d for d in dimensions if d["name"] == "c"), None)
    count = 1 if channels is None else channels.get("count") or len(channels.get("coords") or ())
    if cameras > 1 or count > 1:
        raise OmewdError(
            "bad_frame",
            f"colour frames of {count} channels from {cameras} camera{'s' if cameras > 1 else ''}: a dataset has one "
            "channel dimension, and the colours take it",
            "Set the camera to a grey pixel type, or acquire one channel at a time",
        )
    return {**fields, "color": color, "dimensions": [d for d in dimensions if d is not channels]}


def _runner_of(sequence: Any) -> Any:
    """The runner that runs a sequence, or None. Handlers are not told, so this searches all runners."""
    kind = getattr(sys.modules.get("pymmcore_plus.mda"), "MDARunner", None)
    if kind is None:
        return None
    running = [o for o in gc.get_objects() if issubclass(type(o), kind) and o.is_running()]
    its = [runner for runner in running if getattr(runner, "_sequence", None) is sequence]
    return its[0] if its else running[0] if len(running) == 1 else None
