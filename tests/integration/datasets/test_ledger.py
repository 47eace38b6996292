"""What cameras say of their frames comes out again: while it is written, afterwards, and on the command line."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from tests.support.daemons import DaemonProcess
from tests.support.frames import frame_index, make_frame, make_spec
from tests.support.processes import wait_for

POSITIONS = ["here", "there"]


def metadata_of(index: int) -> dict[str, Any] | None:
    return {"delta_t": index / 10, "number": index, "name": f"µ{index}"} if index % 3 else None


def append(producer: omewd.Producer, spec: StreamSpec, indexes: range) -> None:
    for index in indexes:
        producer.append(make_frame(index, spec.frame_shape, spec.dtype), metadata=metadata_of(index))


def acquisition(backend: str = "direct", **fields: Any) -> StreamSpec:
    t, *inner = omewd.parse_dims("t:6:2,c:2,z:3:3,y:16,x:16")
    p = omewd.Dimension.model_validate({"name": "p", "coords": POSITIONS})
    return make_spec("cam", "t:1,y:16,x:16", backend=backend, **fields).model_copy(
        update={"dimensions": (t, p, *inner)}
    )


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_rows_lead_to_the_pixels(omewd_daemon: DaemonProcess, backend: str) -> None:
    """Each row's image and index, as every program reads them from the file, name the place where its frame is."""
    import zarr

    spec = acquisition(backend)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        append(producer, spec, range(20))
        producer.skip(3)
        append(producer, spec, range(23, 70))
    dataset = omewd_daemon.data / spec.output
    with (dataset / "omewd/ledger.jsonl").open() as lines:
        plain = {row["frame"]: row for row in map(json.loads, lines)}
    rows = omewd.open_ledger(dataset)
    images = [zarr.open_array(str(dataset / path / "0"), mode="r") for path in rows.images]
    assert [row.frame for row in rows] == list(range(70))
    for row in rows:
        pixels = np.asarray(images[row.image][tuple(row.index.values())])
        if row.gap:
            assert (row.gap, row.frame in (20, 21, 22)) == ("skipped", True)
            assert not pixels.any()
            continue
        assert frame_index(pixels) == row.frame
        assert row.metadata == metadata_of(row.frame)
        line = plain[row.frame]
        assert (line["image"], line["index"]) == (row.image, row.index)
        assert (line["wall_ns"], line["monotonic_ns"]) == (row.wall_ns, row.monotonic_ns)
    stamps = [row.wall_ns for row in rows if row.wall_ns is not None]
    assert stamps == sorted(stamps)
    columns = rows.columns()
    assert columns["number"].tolist() == [
        (metadata_of(n) or {}).get("number") if n not in (20, 21, 22) else None for n in range(70)
    ]
    plan = Plan.of(spec)
    assert list(zip(columns["t"], columns["c"], columns["z"], strict=True)) == [plan.place(n) for n in range(70)]


def test_a_plate(omewd_daemon: DaemonProcess) -> None:
    fields = {
        "plate": {"row_names": ["A"], "column_names": ["1", "2"]},
        "dimensions": [
            {"name": "p", "coords": [{"name": str(n), "plate_row": "A", "plate_column": str(n)} for n in (1, 2)]},
            {"name": "t", "count": 2},
            {"name": "y", "count": 16},
            {"name": "x", "count": 16},
        ],
    }
    spec = StreamSpec.parse({"name": "cam", "output": "cam.ome.zarr", **fields})
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        append(producer, spec, range(4))
    rows = omewd.open_ledger(omewd_daemon.data / spec.output)
    assert rows.images == ("A/1/0", "A/2/0")
    assert [(row.image, row.index["t"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_dataset_that_is_being_written(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16:8:2,x:16:8:2")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        dataset = omewd_daemon.data / spec.output
        assert len(omewd.open_ledger(dataset)) == 0
        append(producer, spec, range(10))
        wait_for(lambda: producer.durable == 10)
        first = omewd.open_ledger(dataset)
        assert [row.metadata for row in first] == [metadata_of(n) for n in range(10)]
        append(producer, spec, range(10, 20))
        wait_for(lambda: producer.durable == 20)
        assert (len(first), len(omewd.open_ledger(dataset))) == (10, 20)


def is_stored(viewed: omewd.View, below: int) -> bool:
    return viewed.stored == below


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_a_view_knows_frames_that_have_left_the_ring(omewd_daemon: DaemonProcess, backend: str) -> None:
    spec = make_spec("cam", "t:inf,c:2,y:16,x:16", ring_slots=4, backend=backend, source_dimension="c")
    omewd_daemon.client.start_stream(spec)
    with (
        omewd.view("cam", source=1, socket=omewd_daemon.socket) as viewed,
        omewd.connect("cam", source=1, socket=omewd_daemon.socket) as producer,
    ):
        for stop in range(8, 48, 8):
            append(producer, spec, range(stop - 8, stop - 1))
            producer.skip()
            wait_for(partial(is_stored, viewed, stop))
            stamps = []
            for index in range(stop):
                seen = viewed.frame(index)
                gap = index % 8 == 7
                assert seen.metadata == (None if gap else metadata_of(index))
                assert (seen.wall_ns is None) == gap
                assert frame_index(seen.array) == (0 if gap else index)
                stamps.append(seen.wall_ns or 0)
            assert sorted(filter(None, stamps)) == list(filter(None, stamps))
    rows = [row for row in omewd.open_ledger(omewd_daemon.data / spec.output) if row.source]
    omewd_daemon.client.stop_stream("cam")
    omewd_daemon.client.wait("cam", timeout=20)
    with omewd.view("cam", source=1, socket=omewd_daemon.socket) as viewed:
        latest = viewed.latest()
        assert latest is not None
        assert (latest.index, latest.in_ring, latest.metadata) == (38, False, metadata_of(38))
        assert [viewed.frame(n).wall_ns for n in range(40)] == [row.wall_ns for row in rows]
    shown = omewd_daemon.omewd("view", "cam", "--source", "1", "--index", "38", "--json")
    known = json.loads(shown.stdout)
    assert (known["from"], known["metadata"], known["wall_ns"]) == ("dataset", metadata_of(38), rows[38].wall_ns)


def test_a_view_does_not_read_a_ledger_that_is_another_s(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        append(producer, spec, range(4))
    with omewd.view("cam", socket=omewd_daemon.socket) as viewed:
        seen = viewed.frame(1)
        assert seen.metadata == metadata_of(1)
        unread = viewed.frame(2)
        again = make_spec("again", "t:inf,y:16,x:16", output=spec.output, overwrite=True)
        omewd_daemon.client.start_stream(again)
        assert seen.metadata == metadata_of(1)
        with pytest.raises(omewd.OmewdError, match="another stream has replaced it"):
            _ = unread.metadata
        omewd_daemon.client.stop_stream("again")
        omewd_daemon.client.wait("again", timeout=20)


# -- the command line ---------------------------------------------------------------------------------


@pytest.fixture(name="dataset")
def recorded(omewd_daemon: DaemonProcess) -> Path:
    spec = acquisition()
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        append(producer, spec, range(20))
        producer.skip(3)
        append(producer, spec, range(23, 70))
        producer.skip(2)
    return omewd_daemon.data / spec.output


def test_a_table(omewd_daemon: DaemonProcess, dataset: Path) -> None:
    done = omewd_daemon.omewd("ledger", "cam.ome.zarr", "--csv")
    assert done.returncode == 0, done.stderr
    whole = done.stdout
    table = list(csv.DictReader(io.StringIO(whole)))
    rows = omewd.open_ledger(dataset)
    assert list(table[0]) == list(rows.columns())
    assert len(table) == len(rows) == 72
    for line, row in zip(table, rows, strict=True):
        said = row.metadata or {}
        expected = [row.frame, row.image, *row.index.values(), row.wall_ns, row.monotonic_ns, row.gap]
        expected += [said.get(key) for key in ("delta_t", "number", "name")]
        assert list(line.values()) == ["" if value is None else str(value) for value in expected]
    done = omewd_daemon.omewd("ledger", "cam.ome.zarr", "--csv", "--output", "frames.csv")
    assert (done.returncode, done.stdout) == (0, "")
    assert (omewd_daemon.data / "frames.csv").read_text() == whole


def test_json(omewd_daemon: DaemonProcess, dataset: Path) -> None:
    done = omewd_daemon.omewd("ledger", "cam.ome.zarr", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(done.stdout.splitlines()) == len(found) + 2 == 74
    for document, row in zip(found, omewd.open_ledger(dataset), strict=True):
        assert document == {name: getattr(row, name) for name in row.__slots__}
    done = omewd_daemon.omewd("ledger", "cam.ome.zarr", "--json", "-o", "frames.json")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((omewd_daemon.data / "frames.json").read_text()) == found


def test_a_summary(omewd_daemon: DaemonProcess, dataset: Path) -> None:
    done = omewd_daemon.omewd("ledger", "cam.ome.zarr")
    assert done.returncode == 0, done.stderr
    head, frames, gaps, metadata = done.stdout.splitlines()
    assert head == "cam.ome.zarr: complete, 67 frames, 5 gaps"
    times = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d to (20\d\d-\d\d-\d\d )?\d\d:\d\d:\d\d \S+, [0-9.]+ a second"
    assert re.fullmatch(rf"  frames    67 frames, {times}", frames)
    assert gaps == "            5 skipped: 20-22, 70-71"
    assert metadata == "  metadata  delta_t (of 44 frames), number (of 44 frames), name (of 44 frames)"
    lines = (dataset / "omewd/ledger.jsonl").read_text().splitlines(keepends=True)
    (dataset / "omewd/ledger.jsonl").write_text("".join(line for line in lines if '"frame":30,' not in line))
    last = omewd_daemon.omewd("ledger", "cam.ome.zarr").stdout.splitlines()[-1]
    assert last == "1 received frame not on record: omewd verify lists them"


def test_a_summary_of_several_sources(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf,c:2,y:16,x:16", source_dimension="c")
    omewd_daemon.client.start_stream(spec)
    for source in (0, 1):
        with omewd.connect("cam", source=source, socket=omewd_daemon.socket) as producer:
            append(producer, spec, range(source, 9))
            for _ in range(10 * source):
                producer.skip()
                append(producer, spec, range(1))
    head, *lines, metadata = omewd_daemon.omewd("ledger", "cam.ome.zarr").stdout.splitlines()
    assert head == "cam.ome.zarr: complete, 27 frames, 10 gaps"
    assert [line.split(",")[0] for line in lines[:2]] == ["  source 0  9 frames", "  source 1  18 frames"]
    assert lines[2:] == ["            10 skipped: 8, 10, 12, 14, 16, 18, 20, 22, and 2 more runs"]
    assert metadata == "  metadata  delta_t (of 12 frames), number (of 12 frames), name (of 12 frames)"


@pytest.mark.usefixtures("dataset")
def test_wrong_use(omewd_daemon: DaemonProcess) -> None:
    for arguments, status, text in [
        (["cam.ome.zarr", "--csv", "--json"], 2, "exclude each other"),
        (["cam.ome.zarr", "--output", "x"], 2, "--output needs --csv or --json"),
        (["cam.ome.zarr", "--csv", "--output", "no/x"], 2, "no/x can't be written: No such file"),
        (["cam.ome.zarr/0"], 1, "no dataset of omewd"),
        (["nothing"], 2, "does not exist"),
    ]:
        done = omewd_daemon.omewd("ledger", *arguments)
        assert done.returncode == status, done.stderr
        assert text in done.stdout + done.stderr
    done = omewd_daemon.omewd("ledger", "cam.ome.zarr/0", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "not_a_dataset"
