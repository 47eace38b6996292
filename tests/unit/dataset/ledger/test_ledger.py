"""The frame ledger: its lines, and reading it back after a crash."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Ledger
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.dataset.ledger.ledger import DROPPED, SKIPPED, UNACCOUNTED, WRITTEN
from omewd.model.spec.dimensions import Dimension, parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from tests.support.datasets import ledger_rows
from tests.support.frames import frame_line


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / ledger.FOLDER).mkdir()
    return tmp_path


def statuses(ledger: Ledger, *frames: int) -> list[list[int]]:
    """What became of the first so many frames of each source."""
    return [account.marks.at(np.arange(n)).tolist() for account, n in zip(ledger.accounts, frames, strict=True)]


def received(dataset: Path, sources: int) -> list[int]:
    return [account.received for account in Ledger.read(dataset, sources).accounts]


def append(dataset: Path, data: bytes) -> None:
    with (dataset / ledger.FOLDER / ledger.FILE).open("ab") as file:
        file.write(data)


def test_a_written_frame_is_one_json_object_on_a_line() -> None:
    line = frame_line(17, 1_700_000_000_000_000_000, 123, b'{"exposure_time":0.01}')
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "frame": 17,
        "image": 0,
        "index": {"t": 17},
        "wall_ns": 1_700_000_000_000_000_000,
        "monotonic_ns": 123,
        "metadata": {"exposure_time": 0.01},
    }


def test_a_frame_without_metadata_has_no_such_field() -> None:
    assert json.loads(frame_line(0, 1, 2, b"")).keys() == {"frame", "image", "index", "wall_ns", "monotonic_ns"}


def test_a_gap_is_one_json_object_on_a_line() -> None:
    line = ledger.gap_line(18, 3, "skipped")
    assert json.loads(line) == {"frame": 18, "count": 3, "gap": "skipped"}
    assert line.count("\n") == 1


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.booleans()), max_size=4))
def test_a_camera_s_metadata_comes_through(tags: dict[str, object]) -> None:
    text = json.dumps(tags, separators=(",", ":")).encode()
    assert json.loads(frame_line(0, 1, 2, text))["metadata"] == tags


@given(st.binary(min_size=1, max_size=60))
def test_no_metadata_in_shared_memory_spoils_a_line(metadata: bytes) -> None:
    line = frame_line(5, 1, 2, metadata)
    row = json.loads(line)
    assert (row["frame"], row["wall_ns"], row["monotonic_ns"]) == (5, 1, 2)
    assert set(row) == {"frame", "image", "index", "wall_ns", "monotonic_ns", "metadata"}


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b'{"a":1}}',
        b'1},"frame":9,"x":{"a":2}',
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        pytest.param(
            b'{"a":\n1}',
        ),
        pytest.param(
            b"[" * 2000 + b"]" * 2000,
        ),
    ],
)
def test_metadata_that_would_spoil_the_line_is_kept_as_text(dataset: Path, metadata: bytes) -> None:
    line = frame_line(5, 1, 2, metadata)
    assert line.count("\n") == 1
    append(dataset, ledger.batch([line], 1))
    [row] = ledger_rows(dataset)
    assert row is not None
    assert row["frame"] == 5


def test_rows_come_back_in_file_order(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(1, 1, 2, b""), ledger.gap_line(0, 1, "dropped")], 0))
    append(dataset, ledger.batch([frame_line(2, 3, 4, b'{"\xc2\xb5":1}')], 0))
    frames = [row["frame"] for row in ledger_rows(dataset) if row is not None]
    assert frames == [1, 0, 2]


def test_a_torn_line_costs_itself_only(dataset: Path) -> None:
    line = frame_line(0, 1, 2, b"").encode()
    first, second = ledger.batch([line.decode()], 1), ledger.batch([frame_line(1, 1, 2, b"")], 2)
    for kept in range(len(first)):
        path = dataset / ledger.FOLDER / ledger.FILE
        path.write_bytes(first[:kept] + b"\n" + second)
        read = Ledger.read(dataset, 1)
        whole = kept >= len(first) - 1
        assert statuses(read, 2) == [[WRITTEN if whole else UNACCOUNTED, WRITTEN]]
        assert read.unreadable_lines == (0 if kept == 0 or whole else 1)
        assert received(dataset, 1) == [2]


def test_a_ledger_of_version_1_is_read(dataset: Path) -> None:
    """With blank lines, torn ones between them, and lines that only say what was received."""
    batches = [
        b'\n{"frame":0,"wall_ns":7,"monotonic_ns":8,"metadata":{"a":1}}\n{"received":3}\n',
        b'\n{"frame":1,"wall_ns":7,"mono',
        b'\n{"frame":1,"wall_ns":7,"monotonic_ns":8}\n{"frame":2,"count":2,"gap":"dropped"}\n{"received":6}\n',
    ]
    append(dataset, b"".join(batches))
    read = Ledger.read(dataset, 1)
    assert statuses(read, 5) == [[WRITTEN, WRITTEN, DROPPED, DROPPED, UNACCOUNTED]]
    assert read.unreadable_lines == 1
    assert received(dataset, 1) == [6]


def test_every_line_is_a_json_object_and_the_last_of_a_job_says_what_was_received(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(0, 1, 2, b'{"a":\n1,"b":"\xc2\xb5"}'), frame_line(1, 1, 2, b"")], 5))
    append(dataset, ledger.batch([], 7))
    append(dataset, ledger.batch([ledger.gap_line(2, 3, "skipped")], 9))
    with (dataset / ledger.FOLDER / ledger.FILE).open() as lines:
        found = [json.loads(line) for line in lines]
    assert [(row["frame"], row.get("received")) for row in found] == [(0, None), (1, 5), (2, 9)]
    assert found[0]["metadata"] == {"a": 1, "b": "µ"}


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_json_is_kept_as_text(constant: str) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    line = frame_line(0, 1, 2, f'{{"a":{constant}}}'.encode())
    row = json.loads(line, parse_constant=refuse)
    assert row["metadata"] == {"omewd_unreadable": f'{{"a":{constant}}}'}


def test_a_line_says_where_its_frame_is_stored() -> None:
    p = Dimension.model_validate({"name": "p", "coords": ["here", "there"]})
    t, *inner = parse_dims("t:4,z:3,c:2,y:4,x:5")
    spec = StreamSpec(name="s", dimensions=(t, p, *inner))
    frames = np.arange(4 * 2 * 3 * 2)
    lines = FrameLines.of(spec, 0).text(frames, frames, frames, [b""] * len(frames)).splitlines()
    for frame, row in enumerate(map(json.loads, lines)):
        place = (frame // 12, frame % 2, frame // 2 % 3)
        assert row == {
            "frame": frame,
            "image": frame // 6 % 2,
            "index": dict(zip("tcz", place, strict=True)),
            "wall_ns": frame,
            "monotonic_ns": frame,
        }
        assert list(row["index"]) == ["t", "c", "z"]  # as on disk


def test_what_was_received_is_known_beyond_what_is_written(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(3, 1, 2, b"")], 9))
    append(dataset, ledger.batch([ledger.gap_line(4, 2, "skipped")], 7))
    assert received(dataset, 1) == [9]
    assert [row["frame"] for row in ledger_rows(dataset) if row] == [3, 4]
    append(dataset, b'{"received":"x"}\n{"received":')
    assert received(dataset, 1) == [9]


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        b"[]",
        b"5",
        b'"frame"',
        b"{}",
        b'{"frame":"1"}',
        b'{"frame":1.5}',
        b'{"frame":null}',
        b'{"frame":1,"count":"2","gap":"skipped"}',
        b"\xff\xff",
        b"9" * 5000,
        pytest.param(b'{"frame":1,"gap":[]}'),
        pytest.param(b"[" * 100_000),
    ],
)
def test_a_line_that_is_no_row_is_counted_and_passed_over(dataset: Path, line: bytes) -> None:
    append(dataset, line + b"\n" + ledger.batch([frame_line(1, 1, 2, b"")], 0))
    read = Ledger.read(dataset, 1)
    assert statuses(read, 3) == [[UNACCOUNTED, WRITTEN, UNACCOUNTED]]
    assert read.unreadable_lines == 1


def test_the_last_line_of_a_frame_counts(dataset: Path) -> None:
    append(dataset, ledger.batch([ledger.gap_line(0, 4, "skipped"), frame_line(1, 1, 2, b"")], 0))
    append(dataset, ledger.batch([ledger.gap_line(2, 1, "dropped"), frame_line(3, 1, 2, b"")], 0))
    append(dataset, ledger.batch([ledger.gap_line(3, 1, "skipped")], 0))
    assert statuses(Ledger.read(dataset, 1), 5) == [[SKIPPED, WRITTEN, DROPPED, SKIPPED, UNACCOUNTED]]


rows = st.lists(
    st.tuples(st.integers(-3, 25), st.integers(-2, 9) | st.just(2**70), st.sampled_from(["", "skipped", "dropped"])),
    max_size=20,
)


@given(rows, st.integers(0, 20))
def test_each_frame_has_the_status_of_its_last_line(lines: list[tuple[int, int, str]], frames: int) -> None:
    expected = [UNACCOUNTED] * frames
    texts = []
    for frame, count, gap in lines:
        texts.append(ledger.gap_line(frame, count, gap) if gap else frame_line(frame, 1, 2, b""))
        for place in range(frame, min(frame + (count if gap else 1), frames)):
            if frame >= 0:
                expected[place] = {"": WRITTEN, "skipped": SKIPPED, "dropped": DROPPED}[gap]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ledger.FOLDER).mkdir()
        append(Path(folder), ledger.batch(texts, 0))
        assert statuses(Ledger.read(Path(folder), 1), frames) == [expected]


def test_a_dataset_without_a_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ledger.read(tmp_path, 1)


def test_the_totals_are_json_with_the_whole_spec() -> None:
    spec = StreamSpec(name="s", dimensions=parse_dims("t:inf:2,y:4,x:5"))
    lost = Totals(received=9, written=5, gaps=1, lost=((3, 2), (8, 1)), lost_frames=3)
    document = ledger.summary_json(spec, state="failed", totals=[lost], ended_by="failure")
    document = json.loads(json.dumps(document, allow_nan=False))
    totals = document["attributes"]["omewd"]
    assert (document["zarr_format"], document["node_type"]) == (3, "group")
    assert (totals["state"], totals["lost"]) == ("failed", [[3, 2], [8, 1]])
    assert totals["received"] == totals["written"] + totals["gaps"] + sum(n for _, n in totals["lost"])
    assert StreamSpec.parse(totals["stream"]) == spec


# -- several sources -------------------------------------------------------------------------------


def two_cameras() -> StreamSpec:
    v = Dimension.model_validate({"name": "v", "coords": ["left", "right"]})
    t, *frame = parse_dims("t:inf:2,y:4,x:5")
    return StreamSpec(name="s", dimensions=(t, v, *frame), source_dimension="v")


def test_lines_say_of_which_source_they_are_where_there_are_several(dataset: Path) -> None:
    assert [ledger.source_of(two_cameras(), n) for n in (0, 1)] == [0, 1]
    assert ledger.source_of(StreamSpec(name="s", dimensions=parse_dims("t:2,y:4,x:5")), 0) is None
    frame = frame_line(17, 3, 4, b'{"a":1}', source=1)
    assert json.loads(frame) == {
        "frame": 17,
        "source": 1,
        "image": 0,
        "index": {"t": 17, "v": 1},
        "wall_ns": 3,
        "monotonic_ns": 4,
        "metadata": {"a": 1},
    }
    assert json.loads(frame_line(0, 3, 4, b"", source=0))["source"] == 0
    gap = ledger.gap_line(18, 2, "dropped", source=1)
    assert json.loads(gap) == {"frame": 18, "source": 1, "count": 2, "gap": "dropped"}
    append(dataset, ledger.batch([frame, gap], 20))
    last = (dataset / ledger.FOLDER / ledger.FILE).read_bytes().splitlines()[-1]
    assert json.loads(last) == {"frame": 18, "source": 1, "count": 2, "gap": "dropped", "received": 20}


def test_frames_of_the_same_index_of_two_sources_are_two(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(0, 1, 2, b"", 1), ledger.gap_line(1, 2, "skipped", 1)], 3))
    append(dataset, ledger.batch([frame_line(1, 1, 2, b"", 0), ledger.gap_line(2, 1, "lost", 0)], 4))
    read = Ledger.read(dataset, 2)
    assert statuses(read, 3, 4) == [
        [UNACCOUNTED, WRITTEN, UNACCOUNTED],
        [WRITTEN, SKIPPED, SKIPPED, UNACCOUNTED],
    ]
    assert [account.written(np.arange(3)).tolist() for account in read.accounts] == [
        [False, True, False],
        [True, False, False],
    ]
    assert read.totals([3, 4]) == [
        Totals(received=3, written=1, gaps=0, lost=((0, 1), (2, 1)), lost_frames=2),
        Totals(received=4, written=1, gaps=2, lost=((3, 1),), lost_frames=1),
    ]
    assert received(dataset, 2) == [4, 3]
    assert read.unreadable_lines == 0


def test_what_each_source_has_received_is_known_beyond_what_is_written(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(3, 1, 2, b"", 0)], 9))
    append(dataset, ledger.batch([ledger.gap_line(4, 2, "skipped", 2)], 5))
    append(dataset, b'{"received":"x","source":1}\n{"received":70,"source":')
    assert received(dataset, 3) == [9, 0, 6]


def test_the_lines_of_a_stream_with_one_source_are_those_of_the_first(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(1, 1, 2, b"")], 3))
    assert statuses(Ledger.read(dataset, 2), 2, 2) == [[UNACCOUNTED, WRITTEN], [UNACCOUNTED] * 2]
    assert received(dataset, 2) == [3, 0]


@pytest.mark.parametrize("source", ["2", "-1", '"0"', "null", "0.0", "[]", "9999999999999999999999"])
def test_a_line_of_a_source_that_there_is_not_is_counted_and_passed_over(dataset: Path, source: str) -> None:
    append(dataset, f'{{"frame":0,"source":{source}}}\n{{"received":7,"source":{source}}}\n'.encode())
    append(dataset, ledger.batch([frame_line(1, 1, 2, b"", 1)], 2))
    read = Ledger.read(dataset, 2)
    assert statuses(read, 2, 2) == [[UNACCOUNTED] * 2, [UNACCOUNTED, WRITTEN]]
    assert read.unreadable_lines >= 1
    assert received(dataset, 2) == [0, 2]


rows_of_sources = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 12), st.integers(1, 5), st.sampled_from(["", "skipped", "dropped", "lost"])
    ),
    max_size=30,
)


@given(rows_of_sources, st.lists(st.integers(0, 10), min_size=3, max_size=3))
def test_each_frame_of_each_source_has_the_status_of_its_last_line(
    lines: list[tuple[int, int, int, str]], frames: list[int]
) -> None:
    expected = [[UNACCOUNTED] * count for count in frames]
    marks = {"": WRITTEN, "skipped": SKIPPED, "dropped": DROPPED, "lost": UNACCOUNTED}
    known = [0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ledger.FOLDER).mkdir()
        for source, frame, count, gap in lines:
            count = count if gap else 1
            line = ledger.gap_line(frame, count, gap, source) if gap else frame_line(frame, 1, 2, b"", source)
            append(Path(folder), ledger.batch([line], frame))
            known[source] = max(known[source], frame + count)
            for place in range(frame, min(frame + count, frames[source])):
                expected[source][place] = marks[gap]
        append(Path(folder), b"\n")
        read = Ledger.read(Path(folder), 3)
        assert statuses(read, *frames) == expected
        assert received(Path(folder), 3) == known
        for totals, status in zip(read.totals(frames), expected, strict=True):
            assert totals.received == totals.written + totals.gaps + totals.lost_frames == len(status)
            assert totals.written == status.count(WRITTEN)
            lost = [first + n for first, count in totals.lost for n in range(count)]
            assert lost == [frame for frame, mark in enumerate(status) if mark == UNACCOUNTED]


def test_of_many_runs_that_are_lost_the_first_are_told(dataset: Path) -> None:
    append(dataset, ledger.batch([frame_line(frame, 1, 2, b"") for frame in range(0, 3000, 2)], 3000))
    [totals] = Ledger.read(dataset, 1).totals()
    assert totals.lost == tuple((2 * n + 1, 1) for n in range(1000))
    assert (totals.lost_frames, totals.written) == (1500, 1500)


def test_the_totals_of_several_sources_stand_under_their_names() -> None:
    each = [
        Totals(received=9, written=5, gaps=1, lost=((3, 2), (8, 1)), lost_frames=3),
        Totals(received=4, written=2, gaps=1, lost=((0, 1),), lost_frames=1),
    ]
    document = ledger.summary_json(two_cameras(), state="failed", epoch=7, totals=each, ended_by="failure")
    totals = json.loads(json.dumps(document, allow_nan=False))["attributes"]["omewd"]
    together = {name: totals[name] for name in ("received", "written", "gaps", "lost", "lost_frames")}
    assert together == {"received": 13, "written": 7, "gaps": 2, "lost": [], "lost_frames": 4}
    assert [source["name"] for source in totals["sources"]] == ["left", "right"]
    assert totals["sources"][1] == {
        "name": "right",
        "received": 4,
        "written": 2,
        "gaps": 1,
        "lost": [[0, 1]],
        "lost_frames": 1,
    }
    assert (totals["epoch"], totals["ended_by"]) == (7, "failure")
    assert ledger.totals_in(totals) == each
    assert StreamSpec.parse(totals["stream"]) == two_cameras()


def test_the_totals_of_one_source_stand_alone() -> None:
    spec = StreamSpec(name="s", dimensions=parse_dims("t:inf:2,y:4,x:5"))
    each = [Totals(received=9, written=5, gaps=1, lost=((3, 2), (8, 1)), lost_frames=3)]
    totals = ledger.summary_json(spec, state="complete", totals=each)["attributes"]["omewd"]
    assert "sources" not in totals
    assert ledger.totals_in(json.loads(json.dumps(totals))) == each


def test_a_dataset_that_is_being_written_has_totals_of_nothing() -> None:
    totals = ledger.summary_json(two_cameras(), state="writing", epoch=3)["attributes"]["omewd"]
    assert ledger.totals_in(totals) == [Totals(), Totals()]
    assert (totals["state"], totals["received"]) == ("writing", 0)


def test_a_summary_of_before_there_were_sources_is_understood() -> None:
    cut = {"chunk_size": None, "shard_size_chunks": None, "scale": 1.0}
    y, x = ({**cut, "name": name, "count": 4, "type": "space", "unit": "micrometer", "coords": None} for name in "yx")
    channels = [{"name": "DAPI", "color": "0000FF"}, {"name": "GFP", "color": "00FF00"}]
    c = {**cut, "name": "c", "count": 2, "type": "channel", "unit": None, "coords": channels}
    spec = {
        "name": "cam",
        "output": "cam.ome.zarr",
        "dimensions": [c, y, x],
        "dtype": "uint16",
        "backend": "direct",
        "compression": None,
        "backpressure": "block",
        "durability": "fsync",
        "on_producer_loss": "finalize",
        "on_disk_full": "wait",
        "overwrite": False,
        "ring_slots": None,
    }
    old = {
        "ledger": "ledger.jsonl",
        "version": 1,
        "state": "failed",
        "epoch": 0,
        "ended_by": "failure",
        "received": 5,
        "written": 3,
        "gaps": 1,
        "lost_frames": 1,
        "lost": [[4, 1]],
        "stream": spec,
    }
    assert ledger.totals_in(old) == [Totals(received=5, written=3, gaps=1, lost=((4, 1),), lost_frames=1)]
    parsed = StreamSpec.parse(spec)
    assert (parsed.sources, parsed.images, parsed.levels, parsed.waits_for_producer) == (1, 1, 1, False)
    assert parsed.dimensions[0].labels == ("DAPI", "GFP")
