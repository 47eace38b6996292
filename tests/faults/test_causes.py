"""A stream that fails says why and what is lost as data, on every way on which a program hears of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import omewd
from omewd.model.spec.spec import StreamSpec
from tests.faults.support import append
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

OPTIONS = ("--memory", "512MiB", "--writers", "2")


def two_cameras() -> StreamSpec:
    spec = make_spec("cams", "t:inf:4,c:2,y:16,x:16", source_dimension="c", ring_slots=32, backend="tensorstore")
    named = {"coords": tuple(omewd.Channel(name=name) for name in ("DAPI", "GFP"))}
    dims = [d.model_copy(update=named) if d.name == "c" else d for d in spec.dimensions]
    return spec.model_copy(update={"dimensions": tuple(dims)})


def check(error: omewd.OmewdError) -> None:
    """All of DAPI's frames from 4 on are lost, and of GFP's two those two."""
    assert isinstance(error, omewd.StreamFailedError)
    assert (error.code, error.cause) == ("stream_failed", "dataset_replaced")
    assert error.lost == ((4, 5), (0, 2))
    assert error.lost_by_source == {"DAPI": ((4, 5),), "GFP": ((0, 2),)}
    assert error.loss is not None
    assert (error.loss.received, error.loss.frames) == (11, 7)
    assert "7 of 11 received frames are missing: DAPI: 4-8; GFP: 0-1" in error.message


@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
def test_cause_and_loss_of_several_sources(tmp_path: Path, restart: bool) -> None:
    process = DaemonProcess(tmp_path, *OPTIONS)
    try:
        spec = two_cameras()
        process.client.start_stream(spec)
        producers = [omewd.connect("cams", source=name, socket=process.socket) for name in ("DAPI", "GFP")]
        append(producers[0], spec, range(4))
        wait_for(lambda: producers[0].durable == 4)
        (process.data / spec.output).rename(process.data / "elsewhere")
        append(producers[0], spec, range(4, 6))
        append(producers[1], spec, range(2))
        append(producers[0], spec, range(6, 9))  # the unit of 4 to 7 is complete, and can't be written
        wait_for(lambda: process.client.status("cams")["settled"])
        if restart:
            process.kill()
            process = DaemonProcess(tmp_path, *OPTIONS)
            wait_for(lambda: process.client.status("cams")["settled"])
        with pytest.raises(omewd.StreamFailedError) as at_wait:
            process.client.wait("cams", timeout=30)
        check(at_wait.value)
        assert at_wait.value.remedy
        told = process.client.status("cams")
        assert told["error"]["code"] == "dataset_replaced"
        assert told["lost"] == [[4, 5], [0, 2]]
        for producer in producers:
            with pytest.raises(omewd.StreamFailedError) as at_append:
                producer.append(make_frame(9, spec.frame_shape, spec.dtype))
            check(at_append.value)
            with pytest.raises(omewd.StreamFailedError) as at_close:
                producer.close()
            check(at_close.value)
        done = process.omewd("stop-stream", "cams", "--json")
        assert done.returncode == 5
        error = json.loads(done.stdout)["error"]
        check(omewd.OmewdError.from_dict(error))
        assert error["lost_by_source"] == {"DAPI": [[4, 5]], "GFP": [[0, 2]]}
        assert process.stop() == 0
    finally:
        process.kill()
