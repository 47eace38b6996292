"""A job's lines in the ledger, held against the ring, frame by frame."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.model.plan.grid import places
from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring.layout import GAP_SKIPPED, METADATA_BYTES
from omewd.writer.lines import JobLines, ledger_lines
from omewd.writer.ring_reader import RingReader
from tests.unit.rings import Expected, open_ring, plans


@st.composite
def plans_of_datasets(draw: st.DrawFn) -> Plan:
    """Plans of one image or of several, of one source or of several."""
    plan = draw(plans())
    counts, extents, order = plan.counts, plan.extents, plan.order
    source = draw(st.integers(0, 3)) if draw(st.booleans()) else None
    if source is not None:
        counts, extents = (*counts, 1), (*extents, 1)
        order = tuple(draw(st.permutations(range(len(counts)))))
    images = draw(st.sampled_from([None, *range(len(counts))]))
    if images is not None and counts[images] is None:
        images = None
    return Plan(
        counts,
        extents,
        tuple(i for i in order if i != images),
        image_axis=images,
        source_axis=None if source is None else len(counts) - 1,
        source=source or 0,
    )


@given(plans_of_datasets())
def test_the_places_of_many_frames_are_those_of_each(plan: Plan) -> None:
    frames = np.arange(Expected(Plan(plan.counts, plan.extents, ())).frames)
    images, axes = places(plan, frames)
    assert images.tolist() == [plan.image(frame) for frame in frames.tolist()]
    assert len(axes) == len(plan.order)
    expected = [plan.place(frame) for frame in frames.tolist()]
    assert [tuple(axis[frame] for axis in axes) for frame in frames.tolist()] == expected


def check_runs(made: JobLines, source: int = 0) -> None:
    """Whether the runs of a job say what its lines do, and are about all of them."""
    end, received = 0, 0
    for run in made.runs:
        assert (run.offset, run.source) == (end, source)
        end += run.length
        rows = [json.loads(line) for line in made.text[run.offset : end].splitlines()]
        received = rows[-1].get("received", 0)
        assert run.received == received
        assert {ledger.KINDS[row["gap"]] if "gap" in row else ledger.WRITTEN for row in rows} == {run.kind}
        frames = [frame for row in rows for frame in range(row["frame"], row["frame"] + row.get("count", 1))]
        assert frames == [run.first + n * run.step for n in range(run.frames)]
        assert len(rows) == (run.frames if run.kind == ledger.WRITTEN else 1)
    assert end == len(made.text)
    assert received


LINES_FORMAT = '{"frame":%d,"image":%d,"wall_ns":%d,"monotonic_ns":%d'


@given(st.data())
def test_a_job_accounts_for_every_frame_of_its_units(data: st.DataObject) -> None:
    plan = data.draw(plans(max_frames=60))
    expected = Expected(plan)
    kinds = data.draw(st.lists(st.sampled_from(["", "", "frame with metadata", "gap"]), min_size=expected.frames))
    frontier = data.draw(st.integers(1, expected.frames))
    changes = sorted(data.draw(st.sets(st.integers(0, expected.frames), max_size=3)))
    gap_kinds = tuple((frame, ("dropped", "skipped")[n % 2]) for n, frame in enumerate(changes))
    lines = FrameLines(Plan(plan.counts, plan.extents, ()), LINES_FORMAT)
    with open_ring(expected.frames) as ends:
        for frame in range(frontier):
            match kinds[frame]:
                case "gap":
                    ends.producer.add_gap(1, GAP_SKIPPED)
                case kind:
                    ends.producer.publish(frame + 5, frame + 2**60, b'{"n":%d}' % frame if kind else b"")
        ends.daemon.poll()
        reader = RingReader(ends.segment, plan)
        units, end = plan.units_with(frontier), ends.daemon.map.released_below(frontier)
        job = WriteUnits(1, 0, 0, units, 0, end, frontier, gap_kinds)
        made = ledger_lines(reader, reader.locate(job), job, lines, None)
        del reader
    check_runs(made)
    rows = [json.loads(line) for line in made.text.splitlines()]
    assert rows  # a job always has something to say
    assert [row.pop("received", None) for row in rows] == [None] * (len(rows) - 1) + [frontier]
    found: dict[int, str] = {}
    for row in rows:
        frame = row["frame"]
        if "gap" in row:
            assert set(row) == {"frame", "count", "gap"}
            found |= dict.fromkeys(range(frame, frame + row["count"]), row["gap"])
        else:
            assert (row["wall_ns"], row["monotonic_ns"]) == (frame + 2**60, frame + 5)
            assert row.get("metadata") == ({"n": frame} if kinds[frame] else None)
            found[frame] = ""
    assert [row["frame"] for row in rows] == sorted(row["frame"] for row in rows)
    named = [("skipped", *(name for start, name in gap_kinds if start <= frame))[-1] for frame in range(frontier)]
    assert found == {frame: named[frame] if kinds[frame] == "gap" else "" for frame in range(frontier)}


def test_a_run_of_gaps_is_one_line() -> None:
    plan = Plan((None,), (12,), (0,))
    with open_ring(12) as ends:
        ends.publish()
        ends.producer.add_gap(4, GAP_SKIPPED)
        ends.publish()
        ends.producer.add_gap(6, GAP_SKIPPED)
        ends.daemon.poll()
        reader = RingReader(ends.segment, plan)
        job = WriteUnits(1, 0, 0, 1, 0, 2, 12, ((0, "skipped"), (8, "dropped")))
        found = reader.locate(job)
        made = ledger_lines(reader, found, job, FrameLines(Plan((None,), (12,), ()), LINES_FORMAT), 3)
        del reader
    check_runs(made, source=3)
    assert [json.loads(line) for line in made.text.splitlines() if b"gap" in line] == [
        {"frame": 1, "source": 3, "count": 4, "gap": "skipped"},
        {"frame": 6, "source": 3, "count": 2, "gap": "skipped"},
        {"frame": 8, "source": 3, "count": 4, "gap": "dropped", "received": 12},
    ]


@pytest.mark.parametrize("length", [2**63, 4033, 5000])
def test_a_length_of_metadata_that_is_damaged_reads_no_further_than_its_slot(length: int) -> None:
    with open_ring(2) as ends:
        ends.publish(2, b'"' + b"x" * 10 + b'"')
        ends.daemon.poll()
        reader = RingReader(ends.segment, Plan((None,), (2,), (0,)))
        reader._headers[0, METADATA_BYTES] = length
        _, _, metadata = reader.headers(np.array([0, 1]))
        assert len(metadata[0]) == ends.segment.geometry.metadata_max_bytes
        assert metadata[1] == b'"xxxxxxxxxx"'
        del reader
