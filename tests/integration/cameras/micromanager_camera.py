"""A camera process: Micro-Manager's DemoCamera in sequence mode, through pymmcore-plus, into a stream.

Usage: micromanager_camera.py SOCKET NAME FRAMES WIDTH HEIGHT BITS MODE

Starts the stream itself, then records; prints a JSON list with a digest of every frame that the camera gave.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import mm_test_adapters
from pymmcore_plus import CMMCorePlus

import omewd


def main() -> None:
    socket, name, frames, width, height, bits = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
    core = CMMCorePlus(mm_test_adapters.device_adapter_path())
    core.loadDevice("Camera", "DemoCamera", "DCam")
    core.initializeDevice("Camera")
    core.setCameraDevice("Camera")
    core.setProperty("Camera", "OnCameraCCDXSize", width)
    core.setProperty("Camera", "OnCameraCCDYSize", height)
    core.setProperty("Camera", "PixelType", f"{bits}bit")
    core.setProperty("Camera", "Exposure", 0.1)
    match sys.argv[7]:
        case "numbered":
            core.setProperty("Camera", "DisplayImageNumber", 1)
        case "noise":
            core.setProperty("Camera", "Mode", "Noise")
        case "fast":  # the same frame again and again, hundreds a second
            core.setProperty("Camera", "FastImage", 1)
    core.setCircularBufferMemoryFootprint(2000)  # MB

    dims = f"t:{frames}:1:16,y:{height}:256:{-(-height // 256)},x:{width}:256:{-(-width // 256)}"
    spec = omewd.StreamSpec(name=name, dimensions=omewd.parse_dims(dims), dtype=f"uint{bits}")
    omewd.Client(socket).start_stream(spec)
    digests = []
    with omewd.connect(name, socket=socket) as producer:
        core.startSequenceAcquisition(frames, 0, True)
        for _ in range(frames):
            while not core.getRemainingImageCount():
                time.sleep(0.0005)
            frame, tags = core.popNextImageAndMD()
            producer.append(frame, metadata={"image_number": int(tags["ImageNumber"])})
            digests.append(hashlib.sha256(frame).hexdigest())
        core.stopSequenceAcquisition()
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
