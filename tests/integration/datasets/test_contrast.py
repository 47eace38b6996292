"""How viewers show a dataset: windows of what was acquired, and what users set."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yaozarrs import validate_zarr_store

import omewd
from omewd.dataset.repair import repair
from omewd.dataset.verify import verify
from omewd.model.spec.dimensions import Channel, Dimension
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_spec


def channels(dataset: Path, image: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((dataset / image / "zarr.json").read_text())["attributes"]["ome"]["omero"][
        "channels"
    ]
    return found


def window(channel: dict[str, Any]) -> tuple[Any, Any]:
    return channel["window"]["start"], channel["window"]["end"]


def frame(index: int, low: int, high: int, dtype: str) -> np.ndarray[Any, Any]:
    """Grey values from low to high, and the index in the corner."""
    found = np.random.default_rng(index).integers(low, high, (64, 64), endpoint=True).astype(dtype)
    found[0, 0] = low + index % 2
    return found


@pytest.mark.parametrize("dims", ["t:40,c:2,y:64,x:64", "p:2,t:20,c:2,y:64,x:64", "c:2,t:inf:4,y:64,x:64"])
def test_channels_are_shown_in_what_was_acquired(omewd_daemon: DaemonProcess, dims: str) -> None:
    if "inf" in dims:
        dims = "t:inf:4,c:2,y:64,x:64"
    spec = make_spec("cam", dims)
    dataset, image = omewd_daemon.data / spec.output, "1" if dims.startswith("p") else ""
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for index in range(80):
            producer.append(frame(index, *((100, 300), (1000, 4000))[index % 2], "uint16"))
            if index == 60:  # before the end, too
                deadline = time.monotonic() + 30
                while window(channels(dataset, image)[1])[1] == 65535 and time.monotonic() < deadline:
                    time.sleep(0.02)
                assert window(channels(dataset, image)[1])[1] < 5000
    first, second = channels(dataset, image)
    assert window(first) == (pytest.approx(102, abs=6), pytest.approx(300, abs=4))
    assert window(second) == (pytest.approx(1030, abs=60), pytest.approx(4000, abs=40))
    assert (first["window"]["min"], first["window"]["max"]) == (0, 65535)
    validate_zarr_store(str(dataset))
    assert verify(dataset).problems == []


def test_an_image_without_channels_and_frames_of_one_value(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:10,y:64,x:64", dtype="float32")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for _ in range(10):
            producer.append(np.full((64, 64), 3.0, np.float32))
    [channel] = channels(omewd_daemon.data / spec.output)
    start, end = window(channel)
    assert start < 3.0 < end
    validate_zarr_store(str(omewd_daemon.data / spec.output))


def test_what_users_set_wins_and_stays(omewd_daemon: DaemonProcess) -> None:
    dims = omewd.parse_dims("t:10,y:64,x:64")
    coords = (Channel(name="A", window=(5, 50)), Channel(name="B"), Channel(name="C"))
    dimensions = (dims[0], Dimension(name="c", count=3, coords=coords), *dims[1:])
    spec = omewd.StreamSpec(name="cam", output="cam.ome.zarr", dimensions=dimensions)
    client, dataset = omewd_daemon.client, omewd_daemon.data / spec.output
    client.start_stream(spec)
    edit = {
        "channels": {"B": {"window": {"start": 7, "end": np.float32(77)}, "color": "FF8800"}},
        "rdefs": {"model": "color"},
    }
    client.set_metadata("cam", "ome.omero", edit)
    with omewd_daemon.connect("cam") as producer:
        for index in range(30):
            producer.append(frame(index, 1000, 2000, "uint16"))
    for again in range(2):
        shown = channels(dataset)
        assert [c["label"] for c in shown] == ["A", "B", "C"]
        assert [window(c) for c in shown[:2]] == [(5, 50), (7, 77)]
        assert shown[1]["color"] == "FF8800"
        assert window(shown[2])[0] == pytest.approx(1010, abs=30)
        if not again:  # a repair knows no frames: what is on disk stays
            ledger = dataset / "omewd/zarr.json"
            document = json.loads(ledger.read_text())
            document["attributes"]["omewd"]["written"] = 3
            ledger.write_text(json.dumps(document))
            assert repair(dataset).mended
    client.set_metadata("cam", "ome.omero", {"channels": [None, {"label": "b"}]})
    assert [c["label"] for c in channels(dataset)] == ["A", "b", "C"]
    validate_zarr_store(str(dataset))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"channels": [{"window": {"start": 9, "end": 3}}]}, "start below its end"),
        ({"channels": [{"wndow": {}}]}, "window"),
        ({"channels": {"nobody": {}}}, "no channel 'nobody'"),
        ({"channels": [{"color": "no colour"}]}, "color"),
        ({"multiscales": []}, "channels or rdefs"),
        ([], "channels or rdefs"),
    ],
)
def test_what_would_make_it_invalid_is_refused(omewd_daemon: DaemonProcess, edit: Any, says: str) -> None:
    spec = make_spec("cam", "t:10,y:64,x:64")
    omewd_daemon.client.start_stream(spec)
    before = (omewd_daemon.data / spec.output / "zarr.json").read_text()
    with pytest.raises(omewd.OmewdError, match=says) as refused:
        omewd_daemon.client.set_metadata("cam", "ome.omero", edit)
    assert refused.value.code == "bad_metadata"
    assert refused.value.remedy
    assert (omewd_daemon.data / spec.output / "zarr.json").read_text() == before
    omewd_daemon.client.stop_stream("cam")


def test_positions_and_wells_have_attributes_of_their_own(omewd_daemon: DaemonProcess) -> None:
    positions = [
        {"name": f"{row}{column}-{field}", "plate_row": row, "plate_column": str(column)}
        for row, column in (("A", 1), ("B", 3))
        for field in range(2)
    ]
    dimensions = [{"name": "p", "coords": positions}, {"name": "y", "count": 16}, {"name": "x", "count": 16}]
    plate = {"row_names": ["A", "B"], "column_names": ["1", "2", "3"]}
    client = omewd_daemon.client
    status = client.start_stream({"name": "cam", "dimensions": dimensions, "plate": plate})
    client.set_metadata("cam", "drug", ["none", 1.5], well="B3")
    client.set_metadata("cam", "focus", np.float32(1.5), position="B3-1")
    client.set_metadata("cam", "focus", np.arange(3), position=0)
    client.set_metadata("cam", "second", None, position=1, well="B/3")
    with omewd_daemon.connect("cam") as producer:
        for _ in range(4):
            producer.append(np.ones((16, 16), np.uint16))
    client.set_metadata("cam", "ome.omero", {"channels": [{"color": "00FF00"}]}, position="A1-1")

    def attributes(group: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((Path(status["path"]) / group / "zarr.json").read_text())["attributes"]
        return found

    assert attributes("B/3")["drug"] == ["none", 1.5]
    assert attributes("B/3/1")["focus"] == 1.5
    assert attributes("B/3/1")["second"] is None
    assert attributes("A/1/0")["focus"] == [0, 1, 2]
    assert [channels(Path(status["path"]), f"A/1/{n}")[0]["color"] for n in range(2)] == ["FFFFFF", "00FF00"]
    validate_zarr_store(status["path"])
    for wrong in ({"position": "nobody"}, {"position": 4}, {"well": "C1"}, {"position": True}, {"position": -1}):
        with pytest.raises(omewd.OmewdError) as refused:
            client.set_metadata("cam", "focus", 1, **wrong)
        assert refused.value.code == "bad_metadata"
        assert refused.value.remedy
    for value in ({1: 2}, float("nan"), np.float32("nan"), {"a": {3}}, b"bytes"):
        with pytest.raises(omewd.OmewdError, match="JSON-able") as refused:
            client.set_metadata("cam", "focus", value)
        assert refused.value.code == "bad_metadata"
        assert refused.value.remedy
