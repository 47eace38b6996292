"""What is made of several parts: the summary, the attributes, the ledger."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from omewd.copier.parts.acquisition import common_of, whole_of
from omewd.copier.parts.ledgers import _whole_lines, join_ledgers, renumbered
from omewd.copier.parts.merging import Told, documents, summary
from omewd.dataset.copies.places import Places, is_of_parts
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Ledger
from omewd.dataset.ledger.reading import make_runs_again
from omewd.dataset.made_by import MadeBy
from omewd.dataset.metadata import documents as documents_of
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from tests.support.frames import frame_line
from tests.support.parts import part_spec


def told(
    spec: StreamSpec,
    epoch: int,
    totals: list[Totals],
    groups: dict[str, Any] | None = None,
    *,
    backend: str = "direct",
    state: str = "complete",
    ended_by: str = "",
) -> Told:
    made = ledger.summary_json(
        spec, state=state, epoch=epoch, totals=totals, ended_by=ended_by, made_by=MadeBy(backend, "1")
    )
    written = {path: document.json for path, document in documents_of(spec, [t.received for t in totals])}
    there = {**written, **(groups or {})}
    return Told(
        epoch, spec.source_elements, made["attributes"]["omewd"], f"md5-{epoch}", lambda path: there.get(path, {})
    )


def totals(received: int, lost: int = 0) -> Totals:
    return Totals(received, received - lost, 0, ((0, lost),) if lost else (), lost)


def test_the_summary_has_the_totals_of_all_sources_in_their_order() -> None:
    whole = whole_of(common_of(part_spec()))
    first = told(part_spec("DAPI", "RFP"), 5, [totals(9), totals(4, lost=1)], ended_by="stopped")
    second = told(part_spec("GFP"), 3, [totals(7)], ended_by="stopped")
    made = summary(whole, [first, second])["attributes"]["omewd"]
    assert [(s["name"], s["received"], s["lost_frames"]) for s in made["sources"]] == [
        ("DAPI", 9, 0),
        ("GFP", 7, 0),
        ("RFP", 4, 1),
    ]
    assert (made["received"], made["written"], made["state"], made["ended_by"]) == (20, 19, "complete", "stopped")
    assert made["parts"] == [
        {"epoch": 5, "sources": ["DAPI", "RFP"], "manifest": "md5-5"},
        {"epoch": 3, "sources": ["GFP"], "manifest": "md5-3"},
    ]
    failed = told(part_spec("GFP"), 3, [totals(7)], state="failed", ended_by="the disk is gone")
    made = summary(whole, [first, failed])["attributes"]["omewd"]
    assert (made["state"], made["ended_by"]) == ("failed", "stopped; the disk is gone")


def test_a_backend_that_leaves_zeros_out_is_named_if_any_part_has_one() -> None:
    whole = whole_of(common_of(part_spec()))
    parts = [
        told(part_spec("DAPI"), 1, [totals(1)], backend="direct"),
        told(part_spec("GFP", "RFP"), 2, [totals(1)] * 2, backend="tensorstore"),
    ]
    leaving = [MadeBy(name).leaves_zeros_out("auto") for name in ("direct", "tensorstore")]
    made = MadeBy.of(summary(whole, parts)["attributes"]["omewd"])
    assert made.leaves_zeros_out("auto") == any(leaving)


def windowed(spec: StreamSpec, received: list[int], starts: list[int], **more: Any) -> dict[str, Any]:
    """A group as it is on disk, with these windows and attributes of users."""
    group: dict[str, Any] = json.loads(json.dumps(dict(documents_of(spec, received))["zarr.json"].json))
    channels = group["attributes"]["ome"]["omero"]["channels"]
    for channel, start in zip(channels, starts, strict=True):
        channel["window"] = {"start": start, "end": start + 100, "min": 0, "max": 65535}
    group["attributes"].update(more)
    return group


def test_each_channel_is_shown_as_its_own_part_shows_it() -> None:
    whole = whole_of(common_of(part_spec()))
    one, two = part_spec("DAPI", "RFP"), part_spec("GFP")
    parts = [
        told(one, 5, [totals(9), totals(4)], {"zarr.json": windowed(one, [9, 4], [10, 11, 12], lab={"by": "one"})}),
        told(two, 3, [totals(7)], {"zarr.json": windowed(two, [7], [20, 21, 22], lab={"by": "two"}, notes="hm")}),
    ]
    made = dict(documents(whole, parts))
    attributes = made["zarr.json"].json["attributes"]
    assert [c["window"]["start"] for c in attributes["ome"]["omero"]["channels"]] == [10, 21, 12]
    assert [c["label"] for c in attributes["ome"]["omero"]["channels"]] == ["DAPI", "GFP", "RFP"]
    assert (attributes["lab"], attributes["notes"]) == ({"by": "one"}, "hm")
    assert made["0/zarr.json"].json["shape"] == [9, 3, 16, 16]  # the longest counts
    assert set(made) == {path for path, _ in documents_of(whole, [9, 7, 4])}
    assert [document.text for document in made.values()] == [d.text for d in dict(documents(whole, parts)).values()]


def test_what_users_set_for_channels_is_joined() -> None:
    whole = whole_of(common_of(part_spec()))
    one, two = part_spec("DAPI", "RFP"), part_spec("GFP")

    def edits(**channels: Any) -> dict[str, Any]:
        return {"omero": {"channels": {name[1:]: fields for name, fields in channels.items()}}}

    of_one = windowed(one, [1, 1], [1, 1, 1], omewd=edits(_0={"color": "FF0000"}))
    of_two = windowed(two, [1], [1, 1, 1], omewd=edits(_0={"color": "00FF00"}, _1={"label": "mine"}))
    parts = [
        told(one, 5, [totals(1)] * 2, {"zarr.json": of_one}),
        told(two, 3, [totals(1)], {"zarr.json": of_two}),
    ]
    channels = dict(documents(whole, parts))["zarr.json"].json["attributes"]["ome"]["omero"]["channels"]
    assert [c["label"] for c in channels] == ["DAPI", "mine", "RFP"]
    assert channels[0]["color"] == "FF0000"


def test_an_image_of_one_source_is_described_by_its_part() -> None:
    fields: dict[str, Any] = {"dims": "t:2,p:3,y:16,x:16", "source_dimension": "p"}
    whole = whole_of(common_of(part_spec(**fields)))
    specs = [part_spec("0", "2", **fields), part_spec("1", **fields)]
    parts = []
    for number, spec in enumerate(specs):
        received = [2] * spec.sources
        group = json.loads(json.dumps(dict(documents_of(spec, received))["1/zarr.json"].json))
        group["attributes"]["lab"] = number
        parts.append(told(spec, number + 1, [totals(2)] * spec.sources, {"1/zarr.json": group}))
    made = dict(documents(whole, parts))
    assert made["1/zarr.json"].json["attributes"]["lab"] == 1


LINES = [
    b'{"frame":0,"source":0,"image":0,"index":{"t":0,"c":0},"wall_ns":1,"monotonic_ns":1}\n',
    b'{"frame":7,"source":1,"count":2,"gap":"skipped","received":9}\n',
    b'{"frame":1,"source":0,"image":0,"index":{},"wall_ns":1,"monotonic_ns":1,"metadata":{"frame":3,"source":1}}\n',
]


def test_lines_get_the_numbers_of_all_sources_and_stay_as_they_are_otherwise() -> None:
    text = b"".join(LINES)
    expected = text.replace(b'0,"source":0', b'0,"source":2').replace(b'7,"source":1', b'7,"source":5')
    expected = expected.replace(b'1,"source":0', b'1,"source":2')
    assert renumbered(text, [2, 5]) == expected
    assert renumbered(text, [0, 1]) == text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"   \n", b""),
        (b'{"frame":3,"sour', b""),
        (b'{"frame":3,"source":9,"count":1,"gap":"lost"}', b""),
        (b'{"source":1,"received":4}', b'{"source":5,"received":4}\n'),
        (b'{"frame": 3, "source": 1, "count": 1, "gap": "lost"}', b'{"frame":3,"source":5,"count":1,"gap":"lost"}\n'),
    ],
)
def test_lines_that_omewd_does_not_write_so(line: bytes, expected: bytes) -> None:
    assert renumbered(LINES[1] + line + b"\n", [2, 5]) == renumbered(LINES[1], [2, 5]) + expected


def test_lines_are_read_in_blocks_however_long_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omewd.copier.parts.ledgers._BLOCK_BYTES", 7)
    monkeypatch.setattr("omewd.copier.parts.ledgers.MOST_LINE_BYTES", 30)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"one\n\ntwo and more of it\n" + b"x" * 60 + b"\nthree\n" + b"y" * 100 + b"\nlast")
    with path.open("rb") as file:
        assert b"".join(_whole_lines(file)) == b"one\n\ntwo and more of it\nthree\nlast\n"


@pytest.mark.parametrize("damage", ["", "no record", "half a record", "a strange line"])
def test_the_joined_ledger_has_the_frames_of_all_sources(tmp_path: Path, damage: str) -> None:
    """And a record of its runs that says what the lines say, whatever the parts had."""
    parts: list[tuple[Path, tuple[int, ...]]] = []
    for number, lengths in enumerate([(3, 5), (40,)]):
        folder = tmp_path / str(number)
        (folder / "omewd").mkdir(parents=True)
        lines = [
            ledger.batch([frame_line(n, 0, 0, b"", source=source) for n in range(length)], length)
            for source, length in enumerate(lengths)
        ]
        if damage == "a strange line":
            lines.insert(1, b"   \n" + b'{"frame": 50, "source": 0, "count": 2, "gap": "skipped"}\n')
        (folder / "omewd" / "ledger.jsonl").write_bytes(b"".join(lines))
        if damage != "no record":
            make_runs_again(folder)
        if damage == "half a record":
            os.truncate(folder / "omewd" / "ledger.runs", 48 + 48)
        parts.append((folder, [(0, 12), (1,)][number]))
    join_ledgers(parts, tmp_path / "whole")
    ends = (52, 52, 5) if damage == "a strange line" else (3, 40, 5)
    found = Ledger.read(tmp_path / "whole", 13, checks=True)
    assert [account.received for account in found.accounts] == [*ends[:2], *[0] * 10, ends[2]]
    assert (found.unreadable_lines, found.misfits) == (0, 0)
    assert [t.written for t in found.totals()] == [3, 40, *[0] * 10, 5]
    trusting = Ledger.read(tmp_path / "whole", 13)
    assert (trusting.read_lines, trusting.totals()) == (0, found.totals())  # all have their records
    before = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "omewd").iterdir()}
    assert set(before) == {"ledger.jsonl", "ledger.runs"}
    join_ledgers(parts, tmp_path / "whole")
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole" / "omewd").iterdir()} == before


def test_keys_are_at_their_paths_and_other_files_in_the_part() -> None:
    places = Places(part_spec("GFP"), 7)
    for path in ("0/c/0/1/0/0", "1/c/3/1/0/0"):
        assert places.of(path) == path
    for path in ("0/c/0/0/0/0", "zarr.json", "0/zarr.json", "omewd/ledger.jsonl", "notes.txt", "omewd/parts/x"):
        assert places.of(path) == f"omewd/parts/7/{path}.part"
        assert is_of_parts(places.of(path))
    assert places.manifest == "omewd/parts/7.jsonl"
    alone = Places(part_spec(), 7)
    assert (alone.of("zarr.json"), alone.manifest) == ("zarr.json", "omewd/copies/this.jsonl")
