"""What makes a stream, and every refusal of what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import Channel, Dimension, Plate, Position, parse_dims
from omewd.model.spec.spec import MAX_FRAME_BYTES, StreamSpec
from omewd.protocol.jobs.datasets import CheckPlace
from omewd.protocol.jobs.job import job_message
from omewd.protocol.messages import encode
from tests.unit.rings import make_geometry

YX: list[dict[str, Any]] = [{"name": "y", "count": 4}, {"name": "x", "count": 5}]


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return StreamSpec(name="cam0", dimensions=parse_dims(dims), **fields)


def refusal(**fields: Any) -> OmewdError:
    with pytest.raises(OmewdError) as error:
        StreamSpec.parse({"name": "cam0", "dimensions": YX, **fields})
    assert error.value.code == "bad_spec"
    assert "\n" not in str(error.value)
    return error.value


def refusal_of(dims: str, **fields: Any) -> str:
    return refusal(dimensions=[d.model_dump() for d in parse_dims(dims)], **fields).message


def test_the_defaults() -> None:
    spec = spec_of("y:4,x:5")
    assert (spec.output, spec.dtype, spec.backend, spec.compression) == ("cam0.ome.zarr", "uint16", "auto", None)
    assert (spec.backpressure, spec.durability, spec.overwrite, spec.ring_slots) == ("block", "fsync", False, None)


@pytest.mark.parametrize("output", ["", None])
def test_no_output_is_the_default_one(output: str | None) -> None:
    assert StreamSpec.parse({"name": "a", "dimensions": YX, "output": output}).output == "a.ome.zarr"


@pytest.mark.parametrize("name", ["cam0", "A-b_9", "x" * 64])
def test_names_that_are_taken(name: str) -> None:
    assert StreamSpec.parse({"name": name, "dimensions": YX}).name == name


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "..", "a.b", "é", "a\n", "a\0", "x" * 65, None, 5, [], {"a": 1}, "\ud800"]
)
def test_names_that_are_refused(name: Any) -> None:
    assert "name" in refusal(name=name).message


@pytest.mark.parametrize("output", ["a\0b", "\0", "x" * 4097, 5, [5], "\ud800"])
def test_outputs_that_are_refused(output: Any) -> None:
    assert "output" in refusal(output=output).message


@pytest.mark.parametrize("field", ["backend", "compression", "backpressure", "durability", "overwrite", "ring_slots"])
@pytest.mark.parametrize("value", ["sideways", [], {}, 0.5, -1])
def test_policies_that_do_not_exist_are_refused(field: str, value: Any) -> None:
    assert field in refusal(**{field: value}).message


def test_files_go_only_from_a_stream_that_is_copied() -> None:
    fields = {"name": "cam0", "dimensions": "t:4,y:8,x:8", "copy_evict": True}
    assert StreamSpec.parse({**fields, "copy_to": "s3://lab/cam0.ome.zarr"}).copy_evict
    with pytest.raises(OmewdError, match="copy_to") as caught:
        StreamSpec.parse(fields)
    assert caught.value.code == "bad_spec"


@pytest.mark.parametrize("slots", [0, 2**24 + 1])
def test_ring_slots_out_of_range_are_refused(slots: int) -> None:
    assert "ring_slots" in refusal(ring_slots=slots).message


def test_compression_none_may_be_written_out() -> None:
    assert StreamSpec.parse({"name": "a", "dimensions": YX, "compression": "none"}).compression is None


def test_a_field_that_does_not_exist_is_refused() -> None:
    assert "framerate" in refusal(framerate=5).message


@pytest.mark.parametrize("fields", [None, [], "cam0", 5, {}, {"name": "a"}])
def test_what_is_no_spec_is_refused(fields: Any) -> None:
    with pytest.raises(OmewdError) as error:
        StreamSpec.parse(fields)
    assert error.value.code == "bad_spec"


# -- dtypes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_each_pixel_type_has_its_bytes(dtype: str) -> None:
    assert np.dtype(dtype).itemsize == ITEM_BYTES[dtype]
    assert spec_of("y:4,x:5", dtype=dtype).frame_bytes == 20 * np.dtype(dtype).itemsize


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("<u2", "uint16"), (">u2", "uint16"), (np.uint8, "uint8"), (np.dtype("f4"), "float32"), ("e", "float16")],
)
def test_other_spellings_of_a_dtype_are_understood(spelling: Any, name: str) -> None:
    assert StreamSpec.parse({"name": "a", "dimensions": YX, "dtype": spelling}).dtype == name


@pytest.mark.parametrize("letter", "bBhHiIlLqQefd")
def test_letters_mean_what_they_mean_to_numpy(letter: str) -> None:
    for spelling in (letter, f"<{letter}", np.dtype(letter).str, f"{np.dtype(letter).kind}{np.dtype(letter).itemsize}"):
        assert spec_of("y:4,x:5", dtype=spelling).dtype == np.dtype(letter).name


@pytest.mark.parametrize(
    "dtype",
    [
        *("", "uint17", "UINT16", "uint16 ", "u2\0", "\ud800", "x" * 10_000, None, 5, 1.5, True, [], {}),
        *("bool", "complex64", "O", "S4", "M8[s]", "u2,u2", "i4,,", "(2,2)u2", "(99999999999,99999999)u2"),
        *([["a", "u2"]], {"a": 1}, {"names": ["a"], "formats": ["u2"], "offsets": [10**30]}),
    ],
)
def test_what_is_no_pixel_type_is_refused(dtype: Any) -> None:
    assert "dtype" in refusal(dtype=dtype).message


# -- dimensions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "complaint"),
    [
        ("t:4,t:3,y:4,x:5", "'t' is used more than once"),
        ("y:4,y:5", "'y' is used more than once"),
        ("p:3,p:2,y:4,x:5", "'p' is used more than once"),
        ("y:4,p:2,x:5", "'p' is not"),
        (
            "t:4,z:inf,y:4,x:5",
            "'z' can't be unbounded; only the first dimension outside the frame can be, and not one of positions",
        ),
        (
            "y:inf,x:5",
            "'y' can't be unbounded; only the first dimension outside the frame can be, and not one of positions",
        ),
        ("y:4,x:inf", "'x' can't be unbounded"),
        ("t:inf,z:inf,y:4,x:5", "'z' can't be unbounded"),
        ("t:4,y:5", "the last two must be the frame's y and x, of type space; 't' is not"),
        ("y:4,x:5,c:3", "'c' is not"),
        ("y:4,x:5,a:3", "'a' is not"),
        ("c:2,a:3,b:2,y:4,x:5", "at most one each of time, channel and another type"),
        ("a:2,b:3,y:4,x:5", "these are a (other), b (other), y (space), x (space)"),
        ("x:5", "at least 2"),
        ("t:2,c:2,a:2,z:2,y:4,x:5", "OME-Zarr 0.5 takes at most 5"),
        ("t:2,c:2,a:2,z:2,p:2,y:4,x:5", "at most 6"),
        (f"y:{2**20},x:{2**20}", str(MAX_FRAME_BYTES)),
        (f"t:{2**40},z:{2**40},y:4,x:5", f"{2**80} frames are over the limit"),
        (f"t:inf,c:{2**40},z:{2**40},y:4,x:5", "frames are over the limit"),
    ],
)
def test_dimensions_that_make_no_image_are_refused(dims: str, complaint: str) -> None:
    assert complaint in refusal_of(dims)


def test_two_dimensions_of_time_are_refused() -> None:
    fields = [{"name": "t", "count": 2}, {"name": "lag", "count": 2, "type": "time"}, *YX]
    assert "at most one each of time" in refusal(dimensions=fields).message


def test_four_dimensions_of_space_are_refused() -> None:
    fields = [{"name": "a", "count": 2, "type": "space"}, {"name": "z", "count": 2}, *YX]
    assert "2 or 3 of type space" in refusal(dimensions=fields).message


def test_the_largest_frame_is_taken_and_one_byte_more_is_not() -> None:
    assert spec_of(f"y:{2**17},x:{2**17}", dtype="uint8").frame_bytes == MAX_FRAME_BYTES
    with pytest.raises(OmewdError, match="over the limit"):
        spec_of(f"y:{2**17},x:{2**17 + 1}", dtype="uint8")


def test_a_spec_of_any_size_that_is_taken_fits_in_a_message_to_a_writer() -> None:
    for count in (10_000, 100_000):
        coords = {"name": "c", "count": count, "coords": ["a"] * count}
        if count == 10_000:
            spec = StreamSpec.parse({"name": "cam0", "dimensions": [coords, *YX], "output": "\N{MICROSCOPE}" * 1000})
            path = "/" + "\N{MICROSCOPE}" * 1000
            job = CheckPlace(path, path, spec.model_dump(mode="json"))
            assert encode(job_message(1, job))
        else:
            assert "over the limit" in refusal(dimensions=[coords, *YX]).message


def test_every_complaint_is_told_at_once() -> None:
    message = refusal(dtype="uint17", backend="tape", dimensions=[{"name": "y", "count": 0}, YX[1]]).message
    for part in ("dtype", "backend", "dimensions.0.count"):
        assert part in message


names = st.sampled_from(["t", "c", "z", "a", "y", "x", "p"])
json_scalars = st.none() | st.booleans() | st.integers(-2, 2**65) | st.floats() | st.text(max_size=5)
anything = st.recursive(
    json_scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
wild_dimensions = st.fixed_dictionaries(
    {"name": names | anything, "count": st.integers(1, 2**41) | anything},
    optional={
        key: st.integers(1, 9) | anything
        for key in ("chunk_size", "shard_size_chunks", "type", "unit", "scale", "coords")
    },
)
wild_specs = st.fixed_dictionaries(
    {"name": st.just("a") | anything, "dimensions": st.lists(wild_dimensions, max_size=6) | anything},
    optional={
        "dtype": st.sampled_from(["uint8", "f4", ",", "i4,,", "(", "u2,("])
        | st.text("u24,()<[]", max_size=6)
        | anything,
        **dict.fromkeys(("output", "backend", "compression", "overwrite", "ring_slots", "other"), anything),
    },
)


@given(wild_specs)
def test_any_json_is_a_spec_that_can_be_planned_or_a_bad_spec(fields: dict[str, Any]) -> None:
    try:
        spec = StreamSpec.parse(fields)
    except OmewdError as error:
        assert error.code == "bad_spec"  # noqa: PT017
        return
    plan = Plan.of(spec)
    geometry = make_geometry(1, frame_shape=(1, 1), frames_total=plan.frames_total)
    assert geometry.pack()


# -- storage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "stored"),
    [
        ("t:2,c:2,z:2,y:4,x:5", "tczyx"),
        ("z:2,c:2,t:2,y:4,x:5", "tczyx"),
        ("c:2,t:2,y:4,x:5", "tcyx"),
        ("z:2,t:2,y:4,x:5", "tzyx"),
        ("z:2,a:2,t:2,y:4,x:5", "tazyx"),
        ("x:4,y:5", "xy"),
        ("y:4,x:5", "yx"),
    ],
)
def test_storage_order_is_time_channel_space_and_the_frame_last(dims: str, stored: str) -> None:
    spec = spec_of(dims)
    assert "".join(d.name for d in spec.disk_dimensions) == stored
    assert spec.stored(tuple(range(len(stored)))) == spec.disk_order


def test_shapes_of_chunks_and_keys() -> None:
    spec = spec_of("t:64:2:16,c:3,y:2048:256:8,x:1000")
    assert spec.chunk_shape == (2, 1, 256, 1000)
    assert spec.key_shape == (32, 1, 2048, 1000)
    assert spec.sharded
    assert spec.frame_shape == (2048, 1000)
    assert not spec_of("t:64:2,y:4,x:5").sharded


def test_a_spec_comes_back_out_of_json() -> None:
    channels = Dimension.model_validate({"name": "c", "count": 2, "coords": ["DAPI", "µ"]})
    spec = StreamSpec(name="a", dimensions=(channels, *parse_dims("y:4,x:5")), compression="zstd", ring_slots=9)
    assert StreamSpec.parse(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    unbounded = spec_of("t:inf:4:2,y:4,x:5")
    assert StreamSpec.parse(json.loads(json.dumps(unbounded.model_dump(mode="json")))) == unbounded


def test_a_spec_does_not_change() -> None:
    with pytest.raises(OmewdError, match="can't be changed"):
        spec_of("y:4,x:5").name = "other"


def test_what_programs_have_is_taken() -> None:
    spec = StreamSpec(name="a", dims="t:5,y:4,x:5", output=Path("b.zarr"), dtype=np.uint8, ring_slots=np.int64(7))  # type: ignore[call-arg,arg-type]
    assert spec == StreamSpec(
        name="a", dimensions=parse_dims("t:5,y:4,x:5"), output="b.zarr", dtype="uint8", ring_slots=7
    )
    assert Dimension(name="t", count=np.uint16(5), scale=np.float32(0.5)) == Dimension(name="t", count=5, scale=0.5)  # type: ignore[arg-type]
    z = Dimension(name="z", count=None, coords=np.array([1.0, 3.0]))  # type: ignore[arg-type]
    assert (z.count, z.translation, z.scale) == (2, 1.0, 2.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StreamSpec(name="a b", dimensions=parse_dims("y:4,x:5")),
        lambda: StreamSpec(name="a", dims="y:4;x:5"),  # type: ignore[call-arg]
        lambda: StreamSpec(name="a", dims="y:4,x:5", dimensions=parse_dims("y:4,x:5")),  # type: ignore[call-arg]
        lambda: StreamSpec(name="a", dimensions=parse_dims("y:4,x:5"), dtype=complex),  # type: ignore[arg-type]
        lambda: StreamSpec(name="a", dimensions=5),  # type: ignore[arg-type]
        lambda: Dimension(name="t", count=-1),
        lambda: Channel(name="", color="red"),
        lambda: Position(name="a", plate_row="A"),
        lambda: Plate(row_names=(), column_names=("1",)),
        lambda: parse_dims(b"t:5"),  # type: ignore[arg-type]
        lambda: parse_dims(None),  # type: ignore[arg-type]
    ],
)
def test_all_that_is_wrong_is_said_in_one_way(make: Callable[[], Any]) -> None:
    with pytest.raises(OmewdError) as error:
        make()
    assert error.value.code == "bad_spec"
    assert error.value.remedy
    assert "http" not in str(error.value)
    assert "--" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "my cam"}, "name: it must be 1 to 64 letters, digits, - and _ (got 'my cam')"),
        ({"backpressure": "wait"}, "backpressure: it must be 'block', 'drop' or 'fail' (got 'wait')"),
        ({"whatever": 5}, "whatever: there is no such field"),
        ({"dtype": "int12"}, "dtype: pixels of dtype 'int12' can't be stored; use one of uint8,"),
        ({"dims": "t:10,y:512"}, "'t' is not. Give the slowest first, as in t:100,y:512,x:512"),
    ],
)
def test_a_mistake_is_told_in_plain_words(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(OmewdError) as error:
        StreamSpec.parse({"name": "a", "dims": "y:4,x:5", **fields})
    assert says in error.value.message
    assert error.value.message.count("int12") <= 1


def test_dimensions_that_are_missing_are_told() -> None:
    with pytest.raises(OmewdError, match="dimensions: it is missing"):
        StreamSpec.parse({"name": "a"})


def test_a_field_that_is_misspelt_gets_a_suggestion() -> None:
    assert refusal(compresion="zstd").remedy == "Did you mean `compression`?"
    assert "durability" in refusal(whatever=5).remedy


@pytest.mark.parametrize(
    ("dims", "levels", "says"),
    [
        ("p:2147483648,y:4,x:5", 1, "2147483648 positions are over the limit of 10000"),
        ("p:10001,y:4,x:5", 1, "10001 positions are over the limit"),
        (
            "p:100000,y:4,x:5",
            2,
            "They have 300000 zarr.json files, each in a folder of its own",
        ),
        ("p:10000,y:64,x:64", 5, "60000 zarr.json files"),
        ("y:131072:1,x:131072:1", 1, "17179869184 chunks in a frame are over the limit of 65536"),
        ("y:65537:1,x:1", 1, "65537 chunks in a frame are over the limit"),
        (f"t:inf:1:{2**24 + 1},y:64,x:64", 1, "shards of 16777217 chunks are over the limit"),
    ],
)
def test_counts_are_bounded(dims: str, levels: int, says: str) -> None:
    assert says in refusal_of(dims, levels=levels, dtype="uint8")


@pytest.mark.parametrize("dims", ["p:10000,y:4,x:5", f"t:{2**40},c:{2**20},y:4,x:5", "y:65536:1,x:1"])
def test_large_counts_cost_nothing(dims: str) -> None:
    spec = spec_of(dims)
    assert spec.images in (1, 10_000)
    assert Plan.of(spec).frames_total
