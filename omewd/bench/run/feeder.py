"""The camera process of a benchmark: makes frames, hands them over as fast as they are taken, and times it.

A feeder of omewd is a producer process; a feeder of a library has the library in it. It takes these messages (see
:mod:`omewd.bench.run.child`)::

    {"do": "prepare", "shape", "dtype", "data", "frames", "pool_bytes"}   make the frames
    {"do": "open", "kind", "spec", "folder", "socket", "metadata"}        open a dataset
    {"do": "feed", "frames", "fps", "sync", "appends", "metadata"}        hand the frames over, complete the dataset

Usage: python -m omewd.bench.run.feeder CHANNEL
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from omewd.bench.run.child import serve
from omewd.bench.run.frames import Frames, make_pool
from omewd.bench.run.processes import own_bytes
from omewd.bench.run.targets import Target, open_target, sync_tree
from omewd.model.spec.spec import StreamSpec
from omewd.process.profiling import profiled
from omewd.protocol.messages import Message


class Feeder:
    """Serves one benchmark."""

    def __init__(self) -> None:
        self._pool: Frames = np.empty((0, 0, 0))
        self._target: Target | None = None
        self._folder = Path()

    def handle(self, message: Message) -> Any:
        match message["do"]:
            case "prepare":
                return self._prepare(message)
            case "open":
                return self._open(message)
            case "feed":
                return self._feed(message)

    def _prepare(self, message: Message) -> Any:
        """Make the frames; answers the memory of this process with nothing else in it."""
        shape = (message["shape"][0], message["shape"][1])
        self._pool = make_pool(
            shape, message["dtype"], message["data"], message["frames"], pool_bytes=message["pool_bytes"]
        )
        return {"own_bytes": own_bytes(os.getpid())}

    def _open(self, message: Message) -> Any:
        spec = StreamSpec.model_validate(message["spec"])
        self._folder = Path(message["folder"])
        began = time.perf_counter()
        self._target = open_target(
            message["kind"], spec, self._folder, message["socket"], with_metadata=message["metadata"]
        )
        seconds = time.perf_counter() - began
        return {"create_s": seconds - self._target.connect_s, "connect_s": self._target.connect_s}

    def _feed(self, message: Message) -> Any:
        """Hand over all frames, complete the dataset, and with ``sync`` fsync its files.

        Answers with times in seconds of CLOCK_MONOTONIC, which is the same in all processes.
        """
        target, self._target = self._target, None
        assert target is not None
        frames, pool, with_metadata = message["frames"], self._pool, message["metadata"]
        seconds_a_frame = 1 / message["fps"] if message["fps"] else 0.0
        appends_ns = np.ones(frames, np.int64)  # ones, so that its pages are touched beforehand
        with profiled("producer"):
            began = time.perf_counter()
            for index in range(frames):
                if seconds_a_frame:
                    time.sleep(max(0.0, began + index * seconds_a_frame - time.perf_counter()))
                if with_metadata:
                    metadata = {"delta_t": index * 0.01, "exposure_time": 0.01, "position_z": index * 0.5}
                    before = time.perf_counter_ns()
                    target.append_with(pool[index % len(pool)], metadata)
                else:
                    before = time.perf_counter_ns()
                    target.append(pool[index % len(pool)])
                appends_ns[index] = time.perf_counter_ns() - before
            appended = time.perf_counter()
            target.close()
            closed = time.perf_counter()
            if message["sync"]:
                sync_tree(self._folder)
            done = time.perf_counter()
        np.save(message["appends"], appends_ns)
        return {"began_s": began, "appended_s": appended, "closed_s": closed, "done_s": done}


def main() -> None:
    serve(socket.socket(fileno=int(sys.argv[1])), Feeder().handle)


if __name__ == "__main__":
    main()
