"""A camera process: one of Aravis' fake GenICam cameras, whose buffers are claimed slots of the ring.

Usage: aravis_camera.py SOCKET NAME FRAMES KIND, with KIND one of fake (in this process) or gv (GigE Vision, loopback)

Starts the stream itself, then records; prints a JSON list with a digest of every frame as it was delivered, one for
each frame index.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from collections import deque
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("Aravis", "0.8")
from gi.repository import Aravis  # type: ignore[import-not-found] # noqa: E402

import omewd  # noqa: E402

WIDTH, HEIGHT, QUEUED = 512, 256, 6
GIVEN_BACK = 5  # each so-many-th delivery, as a camera's program does with incomplete buffers


def camera_of(kind: str) -> Any:
    if kind == "fake":
        Aravis.enable_interface("Fake")
        camera = Aravis.Camera.new("Fake_1")
    else:
        camera = Aravis.Camera.new("127.0.0.1")
        camera.gv_set_stream_options(Aravis.GvStreamOption.PACKET_SOCKET_DISABLED)
    camera.set_pixel_format(Aravis.PIXEL_FORMAT_MONO_8)
    camera.set_region(0, 0, WIDTH, HEIGHT)
    camera.set_frame_rate(100)
    return camera


def main() -> None:
    socket, name, frames, kind = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    camera = camera_of(kind)
    dims = f"t:{frames}:1:8,y:{HEIGHT},x:{WIDTH}"
    spec = omewd.StreamSpec(name=name, dimensions=omewd.parse_dims(dims), dtype="uint8", ring_slots=24)
    omewd.Client(socket).start_stream(spec)
    digests: list[str] = []
    delivered = 0
    with omewd.connect(name, socket=socket) as producer:
        stream = camera.create_stream(None, None)
        queue: deque[omewd.Slot] = deque()

        def push() -> None:
            slot = producer.claim()
            assert slot.nbytes == camera.get_payload()
            queue.append(slot)
            stream.push_buffer(Aravis.Buffer.new(slot.nbytes, slot.address))

        for _ in range(min(QUEUED, frames)):
            push()
        camera.start_acquisition()
        while len(digests) < frames:
            buffer = stream.timeout_pop_buffer(20_000_000)  # µs
            assert buffer is not None, "no frame in 20 s"
            slot = queue.popleft()
            delivered += 1
            if buffer.get_status() != Aravis.BufferStatus.SUCCESS or delivered % GIVEN_BACK == 0:
                slot.give_back()
            else:
                pixels = ctypes.string_at(slot.address, slot.nbytes)
                assert pixels == bytes(buffer.get_data()), "the camera did not write into the slot"
                digests.append(hashlib.sha256(pixels).hexdigest())
                slot.metadata = {"frame_id": buffer.get_frame_id()}
                assert slot.publish() == len(digests) - 1
            if len(digests) + len(queue) < frames:
                push()
        camera.stop_acquisition()
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
