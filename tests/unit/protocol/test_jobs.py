"""Jobs and results as messages: what is sent arrives, and what is none is refused in few words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.copier.worker import KINDS as COPIERS_KINDS
from omewd.errors import OmewdError
from omewd.model.contrast import FRACTIONS
from omewd.model.totals import Totals
from omewd.model.waits import Histogram
from omewd.protocol.jobs import values
from omewd.protocol.jobs.copies import Confirmed
from omewd.protocol.jobs.datasets import Finalized, Leftovers, PlaceChecked, Recovered
from omewd.protocol.jobs.frames import WriteUnits, Written
from omewd.protocol.jobs.job import (
    CLEANER,
    COPIER,
    MAINTAINER,
    WRITER,
    Job,
    Opened,
    Result,
    StreamJob,
    StreamToOpen,
    done_message,
    failed_message,
    job_message,
    job_of,
    result_of,
)
from omewd.protocol.jobs.values import Wire
from omewd.protocol.messages import MAX_MESSAGE_BYTES, decode, encode
from omewd.writer.handlers.table import JOBS, KINDS

KINDS = {**KINDS, **COPIERS_KINDS}
JOBS = [*JOBS, *COPIERS_KINDS.values()]
KINDS_OF_JOBS = JOBS
RESULTS: list[type[Result]] = [Result, PlaceChecked, Leftovers, Recovered, Finalized, Written, Confirmed]

numbers = st.integers(0, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
totals = st.builds(
    Totals,
    received=numbers,
    written=numbers,
    gaps=numbers,
    lost=st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
    lost_frames=numbers,
)
windows = st.lists(st.tuples(numbers, finite, finite, finite, finite), max_size=3).map(tuple)
histograms = st.builds(Histogram, st.dictionaries(st.integers(0, 1008), st.integers(1, 1000), max_size=4), numbers)
sketches = st.lists(finite, min_size=len(FRACTIONS), max_size=len(FRACTIONS)).map(tuple)
# By the names of fields, which mean the same wherever they are.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "outline": st.dictionaries(st.text(), json_values, max_size=3),
    "details": st.binary(max_size=20),
    "value": st.binary(max_size=20),
    "position": st.none() | st.integers() | st.text(),
    "well": st.none() | st.text(),
    "windows": windows,
    "totals": st.lists(totals, max_size=3).map(tuple),
    "frames": numbers,
    "free_bytes": st.none() | numbers,
    "gap_kinds": st.lists(st.tuples(numbers, st.sampled_from(["skipped", "dropped"])), max_size=4).map(tuple),
    "gap_frames": st.none() | st.tuples(numbers, numbers),
    "contrast": st.lists(st.tuples(numbers, sketches), max_size=3).map(tuple),
    "parts": st.lists(st.tuples(numbers, numbers, numbers), max_size=3).map(tuple),
    "limit": st.none() | finite,
    "missing": st.lists(st.text(), max_size=3).map(tuple),
    "waits": st.dictionaries(st.text(), histograms, max_size=3),
}


def values_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    fields = {field.name: FIELDS[field.name] for field in dataclasses.fields(kind) if field.name in FIELDS}
    if kind.__name__ == "GrowShape":
        fields["frames"] = st.lists(numbers, max_size=4).map(tuple)
    plain = {"int": numbers, "str": st.text(), "bool": st.booleans()}
    plain["tuple[int, ...]"] = st.lists(numbers, max_size=4).map(tuple)
    for field in dataclasses.fields(kind):
        if field.name not in fields:
            fields[field.name] = plain[str(field.type)]
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", KINDS_OF_JOBS, ids=lambda kind: kind.kind)
@given(data=st.data())
def test_a_job_comes_back_as_it_was(kind: type[Job], data: st.DataObject) -> None:
    job = data.draw(values_of(kind))
    message = decode(encode(job_message(7, job)))
    assert message["lease"] == 7
    if job.attachment:
        message["attachment"] = job.attachment
    assert job_of(message, KINDS) == job


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_result_comes_back_as_it_was(kind: type[Result], data: st.DataObject) -> None:
    result = data.draw(values_of(kind))
    message = decode(encode(done_message(7, result)))
    assert (message["done"], kind.from_json(message["result"])) == (7, result)


@given(values_of(StreamToOpen))
def test_a_stream_to_open_comes_back_as_it_was(stream: StreamToOpen) -> None:
    assert StreamToOpen.from_json(decode(encode(stream.to_json())), stream.attachment) == stream


def test_a_result_is_of_the_type_that_belongs_to_its_job() -> None:
    job = WriteUnits(1, 0, 0, 1, 0, 1, 1)
    with pytest.raises(OmewdError, match="not a Written") as caught:
        result_of(job, done_message(1, Leftovers(True)))
    assert caught.value.code == "bad_message"
    for missing in ({"done": 1}, {"done": 1, "result": None}, {"done": 1, "result": []}):
        with pytest.raises(OmewdError, match="not a Written"):
            result_of(job, missing)


def test_an_error_is_told_with_the_lease() -> None:
    error = OmewdError("disk_full", "no space", "Free some")
    assert failed_message(3, error) == {"failed": 3, "error": error.to_dict()}


def test_the_largest_write_job_fits_in_a_message() -> None:
    big = 2**62
    kinds = tuple((big + n, "skipped" if n % 2 else "dropped") for n in range(500))
    job = WriteUnits(big, big, big, big, big, big, big, kinds, (big, big))
    assert len(encode(job_message(big, job))) < MAX_MESSAGE_BYTES


# -- bad input -------------------------------------------------------------------------------------

WILD: list[Any] = [
    None,
    True,
    -1,
    2**63,
    1.5,
    float("nan"),
    "x" * 10_000,
    [],
    [[]],
    [1, 2, 3],
    {},
    {"a": [1]},
    [[0] * 10_000],
]


def fits(build: Callable[[], Wire]) -> bool:
    refused: OmewdError | None = None
    try:
        build()
    except OmewdError as error:
        refused = error
    assert refused is None or (refused.code == "bad_message" and len(str(refused)) < 600)
    return refused is None


@pytest.mark.parametrize("kind", [*KINDS_OF_JOBS, *RESULTS, StreamToOpen], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_bad_fields_are_refused_in_few_words(kind: type[Wire], data: st.DataObject) -> None:
    good = json.loads(json.dumps(data.draw(values_of(kind)).to_json()))
    assert fits(lambda: kind.from_json(good))
    assert not fits(lambda: kind.from_json({**good, "one_more": 1}))
    for name in good:
        less = {key: value for key, value in good.items() if key != name}
        assert not fits(lambda less=less: kind.from_json(less))  # type: ignore[misc]
        for wild in WILD:
            fits(lambda name=name, wild=wild: kind.from_json({**good, name: wild}))  # type: ignore[misc]
    for wild in WILD:
        if wild != {} or good:
            assert not fits(lambda wild=wild: kind.from_json(wild))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unit", -1),
        ("unit", True),
        ("unit", 2**63),
        ("unit", "5"),
        ("stream", None),
        ("gap_kinds", [[1]]),
        ("gap_kinds", [["skipped", 1]]),
        ("gap_frames", [1, 2, 3]),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any) -> None:
    good = json.loads(json.dumps(WriteUnits(1, 0, 0, 1, 0, 1, 1).to_json()))
    with pytest.raises(OmewdError, match=f"not a WriteUnits: {field}: "):
        WriteUnits.from_json({**good, field: value})


@pytest.mark.parametrize(
    "packed", [[], [1, 2], [1, [1]], [1, [1, "2"]], [1, [-1, 2]], [1, [10**9, 2]], ["1"], {}, "ab"]
)
def test_a_histogram_has_buckets_that_there_are(packed: Any) -> None:
    good = json.loads(json.dumps(Written(1, 2, 8, 3, "page cache", (), {"ring": Histogram({7: 1}, 5)}, 4).to_json()))
    assert fits(lambda: Written.from_json(good))
    assert not fits(lambda: Written.from_json({**good, "waits": {"ring": packed}}))


@pytest.mark.parametrize("sketch", [[0.5] * (len(FRACTIONS) - 1), [0.5] * 100, [], ["a"] * len(FRACTIONS)])
def test_a_sketch_has_its_numbers(sketch: list[Any]) -> None:
    good = json.loads(json.dumps(Written(1, 2, 8, 3, "page cache", (), {}, 4).to_json()))
    assert fits(lambda: Written.from_json(good))
    assert not fits(lambda: Written.from_json({**good, "contrast": [[0, sketch]]}))


def test_a_kind_that_is_not_known_is_refused() -> None:
    for kind in ("dance", "", None, "x" * 10_000, [1]):
        with pytest.raises(OmewdError, match="is not a known kind of job") as caught:
            job_of({"do": "job", "lease": 1, "kind": kind, "job": {}}, KINDS)
        assert len(str(caught.value)) < 600


# -- the table -------------------------------------------------------------------------------------


def test_kinds_have_names_of_their_own() -> None:
    assert len(KINDS) == len(JOBS)


@pytest.mark.parametrize("kind", KINDS_OF_JOBS, ids=lambda kind: kind.kind)
def test_what_a_kind_needs_fits_together(kind: type[Job]) -> None:
    needs = kind.needs
    assert needs.tries >= 1
    assert {needs.role, needs.long_role or MAINTAINER} <= {WRITER, MAINTAINER, CLEANER, COPIER}
    assert issubclass(kind, StreamJob) == (needs.opened is not Opened.NOTHING)
    assert needs.documents == (needs.long_role is not None)


def test_no_kind_of_job_is_left_to_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_SHAPES", {})
    values.prepare()
    assert set(values._SHAPES) >= {StreamToOpen, *KINDS_OF_JOBS, *RESULTS}
