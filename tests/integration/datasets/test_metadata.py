"""What users say of frames and of datasets, while they are written and afterwards."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.dataset.verify import verify
from tests.support.daemons import DaemonProcess, KeptDaemon
from tests.support.datasets import check_dataset, ledger_rows
from tests.support.frames import make_frame, make_spec


def attributes(dataset: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset / "zarr.json").read_text())["attributes"]
    return found


def test_metadata_of_the_dataset_at_any_time(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:8:2:2,y:16,x:16")
    client, dataset = omewd_daemon.client, omewd_daemon.data / spec.output
    client.start_stream(spec)
    client.set_metadata("cam", "lab", {"operator": "Ada"})
    assert attributes(dataset)["lab"] == {"operator": "Ada"}
    with omewd_daemon.connect("cam") as producer:
        for index in range(5):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        client.set_metadata("cam", "scope", {"objective": "60×", "tags": list(range(1000))})
        client.set_metadata("cam", "lab", {"operator": "Grace"})
    client.set_metadata("cam", "afterwards", {"µ": None})
    found = attributes(dataset)
    assert found["lab"] == {"operator": "Grace"}
    assert found["scope"]["objective"] == "60×"
    assert found["afterwards"] == {"µ": None}
    assert found["ome"]["multiscales"][0]["name"] == "cam"
    check_dataset(dataset, spec, 5)
    assert verify(dataset).problems == []


def test_many_at_once_and_none_is_lost(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:8,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    threads = [
        threading.Thread(target=omewd_daemon.client.set_metadata, args=("cam", f"n{i}", {"i": i, "text": "x" * 50_000}))
        for i in range(12)
    ]
    for thread in threads:
        thread.start()
    with omewd_daemon.connect("cam") as producer:
        for index in range(8):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            if index in (2, 5):
                omewd_daemon.kill_a_writer()
    for thread in threads:
        thread.join()
    found = attributes(omewd_daemon.data / spec.output)
    assert all(found[f"n{i}"]["i"] == i for i in range(12))
    check_dataset(omewd_daemon.data / spec.output, spec, 8)


def test_a_large_mapping(omewd_daemon: DaemonProcess) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:8,y:16,x:16"))
    devices = {f"device{i}": {"label": "ä" * 50, "properties": list(range(50))} for i in range(1500)}
    omewd_daemon.client.set_metadata("cam", "devices", devices)
    assert attributes(omewd_daemon.data / "cam.ome.zarr")["devices"] == devices
    with pytest.raises(omewd.OmewdError, match="over the limit"):
        omewd_daemon.client.set_metadata("cam", "devices", {"x": "y" * 5 * 2**20})
    omewd_daemon.client.stop_stream("cam")
    omewd_daemon.client.wait("cam", timeout=20)
    assert attributes(omewd_daemon.data / "cam.ome.zarr")["devices"] == devices


@pytest.mark.parametrize(
    ("namespace", "mapping"),
    [
        ("ome", {}),
        ("omewd", {}),
        ("", {}),
        ("a/b", {}),
        ("a b", {}),
        ("x" * 129, {}),
        ("..", {}),
        ("a\0b", {}),
        ("n", {"a": float("nan")}),
        ("n", {"a": {1}}),
    ],
)
def test_what_is_no_metadata_is_refused(omewd_daemon: DaemonProcess, namespace: str, mapping: dict[str, Any]) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:8,y:16,x:16"))
    with pytest.raises(omewd.OmewdError) as refusal:
        omewd_daemon.client.set_metadata("cam", namespace, mapping)
    assert refusal.value.code == "bad_metadata"
    with pytest.raises(omewd.OmewdError, match="no stream"):
        omewd_daemon.client.set_metadata("nobody", "lab", {})
    omewd_daemon.client.stop_stream("cam")
    omewd_daemon.client.wait("cam", timeout=20)


def deep(levels: int) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for _ in range(levels):
        mapping = {"a": mapping}
    return mapping


def test_no_mapping_harms_the_daemon(omewd_daemon: DaemonProcess) -> None:
    """Nested deeper than Python recurses, or too large; and what is just small enough is taken."""
    spec = make_spec("cam", "t:8,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for mapping in (deep(100), deep(800), {"x": "y" * 4 * 2**20}):
            with pytest.raises(omewd.OmewdError) as refusal:
                omewd_daemon.client.set_metadata("cam", "lab", mapping)
            assert refusal.value.code == "bad_metadata"
        omewd_daemon.client.set_metadata("cam", "deep", deep(60))
        omewd_daemon.client.set_metadata("cam", "large", {"x": "y" * (4 * 2**20 - 8)})
        for index in range(8):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(omewd_daemon.data / spec.output, spec, 8)
    assert attributes(omewd_daemon.data / spec.output)["deep"] == deep(60)


def test_metadata_goes_to_the_dataset_of_its_stream_alone(omewd_daemon: DaemonProcess) -> None:
    for name in ("first", "second"):
        omewd_daemon.client.start_stream(make_spec(name, "t:8,y:16,x:16", output="o.ome.zarr", overwrite=True))
        omewd_daemon.client.set_metadata(name, "who", {"name": name})
        omewd_daemon.client.stop_stream(name)
        omewd_daemon.client.wait(name, timeout=20)
    with pytest.raises(omewd.OmewdError, match="is no longer the dataset of that stream"):
        omewd_daemon.client.set_metadata("first", "who", {"name": "late"})
    assert attributes(omewd_daemon.data / "o.ome.zarr")["who"] == {"name": "second"}


def test_it_stays_when_the_daemon_is_killed(tmp_path: Path) -> None:
    spec = make_spec("cam", "p:2,t:4,y:16,x:16")
    kept = KeptDaemon(tmp_path, "--writers", "2", "--memory", "512MiB")
    try:
        kept.now.client.start_stream(spec)
        kept.now.client.set_metadata("cam", "lab", {"operator": "Ada"})
        with kept.now.connect("cam") as producer:
            producer.append(make_frame(0, spec.frame_shape, spec.dtype))
            kept.now.process.kill()
            for index in range(1, 8):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        assert attributes(kept.now.data / spec.output)["lab"] == {"operator": "Ada"}
        assert verify(kept.now.data / spec.output).problems == []
    finally:
        kept.end()


def test_metadata_of_frames(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:8,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    told: list[dict[str, Any]] = [
        {"delta_t": 0.5, "exposure_time": 0.01, "position_x": 1, "position_y": -2.5, "position_z": 0.0},
        {"anything": {"nested": [1, None, "µ"]}},
        {"delta_t": np.float32(1.5), "exposure_time": np.int64(2), "roi": np.arange(4), "on": np.bool_(True)},
    ]
    with omewd_daemon.connect("cam") as producer:
        for index, metadata in enumerate(told):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), metadata=metadata)
        for wrong in (
            {"delta_t": "soon"},
            {"exposure_time": True},
            {"position_x": None},
            {"a": object()},
            {"a": float("inf")},
        ):
            with pytest.raises(omewd.OmewdError) as refusal:
                producer.append(make_frame(3, spec.frame_shape, spec.dtype), metadata=wrong)
            assert refusal.value.code == "bad_metadata"
    rows = {row["frame"]: row for row in ledger_rows(omewd_daemon.data / spec.output) if row}
    assert rows[0]["metadata"] == told[0]
    assert rows[1]["metadata"] == told[1]
    assert rows[2]["metadata"] == {"delta_t": 1.5, "exposure_time": 2, "roi": [0, 1, 2, 3], "on": True}
    assert len(rows) == 3


def test_on_the_command_line(omewd_daemon: DaemonProcess) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:1,y:16,x:16"))
    (omewd_daemon.data / "lab.json").write_text('{"operator": "Ada"}')
    assert omewd_daemon.omewd("set-metadata", "cam", "lab", "@lab.json").returncode == 0
    assert omewd_daemon.omewd("set-metadata", "cam", "room", '{"t": 21.5}').returncode == 0
    found = attributes(omewd_daemon.data / "cam.ome.zarr")
    assert (found["lab"], found["room"]) == ({"operator": "Ada"}, {"t": 21.5})
    assert omewd_daemon.omewd("set-metadata", "cam", "tags", "[1, null]").returncode == 0
    assert attributes(omewd_daemon.data / "cam.ome.zarr")["tags"] == [1, None]
    wrong_place = omewd_daemon.omewd("set-metadata", "cam", "lab", "1", "--position", "3")
    assert (wrong_place.returncode, wrong_place.stderr.count("\n")) == (1, 1)
    for wrong in ("{", "{]", "@nowhere.json"):
        done = omewd_daemon.omewd("set-metadata", "cam", "lab", wrong)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    omewd_daemon.client.stop_stream("cam")
    omewd_daemon.client.wait("cam", timeout=20)
