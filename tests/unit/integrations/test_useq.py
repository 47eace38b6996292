"""useq sequences become streams, and each event has a frame index in them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import useq

from omewd.errors import OmewdError
from omewd.integrations.settings import fields_of
from omewd.integrations.useq import event_grid, load_sequence, stream_fields, with_field_of_view
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

SHAPE = (40, 60)
PIXEL_UM = 0.5

TILES = {"rows": 2, "columns": 3}
STACK = {"range": 4, "step": 1}
LOOPS = {"interval": 2, "loops": 3}
TWO = ["DAPI", "FITC"]
STAGES = [{"x": 0, "y": 0, "z": 5, "name": "home"}, {"x": 100, "y": 50}]


def stage(**plans: Any) -> dict[str, Any]:
    return {"x": 10, "y": 20, "sequence": plans}


def plate(**fields: Any) -> useq.WellPlatePlan:
    return useq.WellPlatePlan(plate=96, a1_center_xy=(0, 0), selected_wells=([0, 1], [0, 3]), **fields)


SINGLE_CHANNEL_SKIPS = [{"config": "DAPI"}, {"config": "FITC", "acquire_every": 2, "do_stack": False}]

# name → (the sequence, its dimensions)
SEQUENCES: dict[str, tuple[dict[str, Any], str]] = {
    "time": ({"time_plan": LOOPS}, "t:3"),
    "tcz": ({"time_plan": LOOPS, "channels": TWO, "z_plan": STACK}, "t:3 c:2 z:5"),
    "zct": ({"time_plan": LOOPS, "channels": TWO, "z_plan": STACK, "axis_order": "zct"}, "z:5 c:2 t:3"),
    "stages": ({"stage_positions": STAGES, "channels": TWO}, "p:2 c:2"),
    "grid": ({"grid_plan": TILES, "channels": TWO}, "p:6 c:2"),
    "stages and grid": ({"stage_positions": STAGES, "grid_plan": TILES, "channels": TWO}, "p:12 c:2"),
    "grid and stages": (
        {"stage_positions": STAGES, "grid_plan": TILES, "channels": TWO, "axis_order": "tgpcz"},
        "p:12 c:2",
    ),
    "edges": ({"grid_plan": {"top": 100, "left": 0, "bottom": 0, "right": 80}}, "p:15"),
    "a stage between": (
        {"stage_positions": STAGES[:1], "grid_plan": TILES, "channels": TWO, "axis_order": "pcgz"},
        "c:2 p:6",
    ),
    "plate": ({"stage_positions": plate(), "channels": TWO}, "p:2 c:2"),
    "plate with fields": ({"stage_positions": plate(well_points_plan=TILES), "z_plan": STACK}, "p:12 z:5"),
    "plate with grid": ({"stage_positions": plate(), "grid_plan": TILES}, "p:12"),
    "random": (
        {"grid_plan": {"num_points": 4, "max_width": 9, "max_height": 9, "random_seed": 3}, "channels": TWO},
        "p:4 c:2",
    ),
    "skips": ({"time_plan": LOOPS, "channels": SINGLE_CHANNEL_SKIPS, "z_plan": STACK}, "t:3 c:2 z:5"),
    "one plane": ({"channels": [{"config": "DAPI", "do_stack": False}], "z_plan": STACK}, "c:1 z:5"),
    "a grid of its own": ({"stage_positions": [*STAGES, stage(grid_plan=TILES)], "channels": ["DAPI"]}, "p:8 c:1"),
    "grid in the inside": ({"stage_positions": [stage(grid_plan=TILES)], "channels": TWO}, "c:2 p:6"),
    "channels of its own": (
        {"stage_positions": [STAGES[0], stage(grid_plan=TILES, channels=["Cy5", "FITC"])], "channels": ["FITC"]},
        "p:7 c:2",
    ),
    "a stack of its own": (
        {"stage_positions": [*STAGES, stage(z_plan=STACK)], "channels": TWO, "time_plan": LOOPS},
        "t:3 p:3 c:2 z:5",
    ),
    "longer stack": (
        {"stage_positions": [STAGES[0], stage(z_plan={"range": 8, "step": 1})], "z_plan": STACK},
        "p:2 z:9",
    ),
    "times of its own": ({"stage_positions": [STAGES[0], stage(time_plan=LOOPS)], "channels": TWO}, "p:2 c:2 t:3"),
    "autofocus": (
        {"stage_positions": STAGES, "autofocus_plan": {"autofocus_motor_offset": 1, "axes": ["p"]}, "time_plan": LOOPS},
        "t:3 p:2",
    ),
}
RAGGED = {"skips", "one plane", "channels of its own", "a stack of its own", "longer stack", "times of its own"}


def images(sequence: useq.MDASequence) -> list[useq.MDAEvent]:
    return [event for event in sequence if isinstance(event.action, useq.AcquireImage)]


def as_run(which: str) -> useq.MDASequence:
    """A sequence as an engine runs it, with the field of view of its camera."""
    sequence = useq.MDASequence(**SEQUENCES[which][0])
    return with_field_of_view(sequence, SHAPE[1] * PIXEL_UM, SHAPE[0] * PIXEL_UM)


def dims(spec: StreamSpec) -> str:
    return " ".join(f"{d.name}:{'inf' if d.count is None else d.count}" for d in spec.dimensions[:-2])


@pytest.mark.filterwarnings("ignore:.*RandomPoints.*:UserWarning")
@pytest.mark.parametrize("which", SEQUENCES)
def test_each_event_has_its_frame(which: str) -> None:
    """Frame indexes grow from event to event, and each is at what the event is."""
    given, expected = SEQUENCES[which]
    sequence = as_run(which)
    fields = stream_fields(useq.MDASequence(**given), SHAPE, pixel_size_um=PIXEL_UM)
    spec = StreamSpec.parse({"name": "s", **fields})
    assert dims(spec) == expected
    grid = event_grid(sequence)
    events = images(sequence)
    indexes = [grid.frame_index(event.index) for event in events]
    assert indexes == sorted(set(indexes))
    frames = grid.frames
    assert frames is not None
    assert grid.end is not None
    assert indexes[-1] + 1 == grid.end <= frames == Plan.of(spec).frames_total
    assert (len(events) < frames) == (which in RAGGED)
    counts = [dim.count or 1 for dim in spec.dimensions[:-2]]
    for event, index in zip(events, indexes, strict=True):
        place = dict(zip((d.name for d in spec.dimensions), unravel(index, counts), strict=False))
        if "c" in place:
            assert event.channel is not None
            assert spec.dimensions[list(place).index("c")].labels[place["c"]] == event.channel.config
        if "p" in place:
            position = spec.positions[place["p"]]
            assert (position.x_coord, position.y_coord) == pytest.approx((event.x_pos, event.y_pos))
        for axis in "tz":
            assert place.get(axis, 0) == event.index.get(axis, 0)


def unravel(index: int, counts: list[int]) -> list[int]:
    place = []
    for count in reversed(counts):
        index, last = divmod(index, count)
        place.append(last)
    return place[::-1]


@pytest.mark.parametrize("which", ["tcz", "plate with fields", "a stack of its own", "skips", "edges"])
def test_json_is_as_good_as_the_object(which: str) -> None:
    sequence = useq.MDASequence(**SEQUENCES[which][0])
    expected = stream_fields(sequence, SHAPE, pixel_size_um=PIXEL_UM)
    for other in (sequence.model_dump_json(), json.loads(sequence.model_dump_json(exclude_unset=True))):
        assert stream_fields(other, SHAPE, pixel_size_um=PIXEL_UM) == expected


def test_a_sequence_is_not_changed_and_not_cached() -> None:
    """The engine sets the field of view later; useq keeps what was iterated before."""
    sequence = useq.MDASequence(grid_plan=TILES, channels=SINGLE_CHANNEL_SKIPS, time_plan=LOOPS)
    stream_fields(sequence, SHAPE, pixel_size_um=PIXEL_UM)
    event_grid(sequence)
    assert sequence.grid_plan is not None
    assert sequence.grid_plan.fov_width is None
    sequence.grid_plan.fov_width = sequence.grid_plan.fov_height = 100.0
    assert {event.x_pos for event in sequence} == {-100.0, 0.0, 100.0}


def spec_of(sequence: Any = None, /, **plans: Any) -> StreamSpec:
    sequence = sequence or useq.MDASequence(**plans)
    return StreamSpec.parse({"name": "s", **stream_fields(sequence, SHAPE, pixel_size_um=PIXEL_UM)})


def test_positions_of_a_plate() -> None:
    spec = spec_of(stage_positions=plate(well_points_plan=TILES))
    assert spec.plate is not None
    assert (len(spec.plate.row_names), len(spec.plate.column_names), spec.plate.name) == (8, 12, "96-well")
    wells = [(p.plate_row, p.plate_column) for p in spec.positions]
    assert wells == [("A", "1")] * 6 + [("B", "4")] * 6
    assert [(p.grid_row, p.grid_column) for p in spec.positions[:6]] == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    assert len({p.name for p in spec.positions}) == 12


def test_wells_that_positions_name() -> None:
    spec = spec_of(stage_positions=[useq.Position(plate_row=1, plate_col=2), useq.Position(plate_row=0, plate_col=0)])
    assert spec.plate is not None
    assert spec.plate.row_names == ("A", "B")
    assert spec.plate.column_names == ("1", "2", "3")
    assert [(p.plate_row, p.plate_column) for p in spec.positions] == [("B", "3"), ("A", "1")]
    assert spec_of(stage_positions=[useq.Position(plate_row=1, plate_col=2), useq.Position(x=0, y=0)]).plate is None


def test_positions_have_names_of_their_own() -> None:
    stages = [useq.Position(name="a"), useq.Position(name="a"), useq.Position()]
    assert [p.name for p in spec_of(stage_positions=stages).positions] == ["a", "a_1", "2"]
    names = [p.name for p in spec_of(stage_positions=STAGES, grid_plan={"rows": 1, "columns": 2}).positions]
    assert names == ["home_0000", "home_0001", "1_0000", "1_0001"]


def test_random_points_without_a_seed_have_no_coordinates() -> None:
    grid = {"num_points": 3, "max_width": 9, "max_height": 9}
    assert [(p.name, p.x_coord) for p in spec_of(grid_plan=grid).positions] == [(f"000{n}", None) for n in range(3)]


@pytest.mark.parametrize(
    ("plan", "scale", "translation", "coords"),
    [
        (STACK, 1.0, -2.0, None),
        ({"bottom": 10, "top": 12, "step": 0.5}, 0.5, 10.0, None),
        ({"bottom": 10, "top": 12, "step": 1, "go_up": False}, 1.0, 10.0, (12.0, 11.0, 10.0)),
        ({"relative": [0, 1, 5]}, 1.0, 0.0, (0.0, 1.0, 5.0)),
        ({"absolute": [3]}, 1.0, 3.0, None),
    ],
)
def test_planes(plan: dict[str, Any], scale: float, translation: float, coords: tuple[float, ...] | None) -> None:
    z = spec_of(z_plan=plan).dimensions[0]
    assert (z.scale, z.translation, z.unit, z.coords) == (scale, translation, "micrometer", coords)


@pytest.mark.parametrize("plan", [STACK, {"above": 2, "below": 1, "step": 0.5}, {"bottom": 10, "top": 12, "step": 0.5}])
def test_planes_are_where_the_stage_goes(plan: dict[str, Any]) -> None:
    """An image starts at its position's z and the dimension's translation together."""
    sequence = useq.MDASequence(z_plan=plan, stage_positions=[{"x": 0, "y": 0, "z": 5}, {"x": 1, "y": 1, "z": 7.5}])
    spec = spec_of(sequence)
    z = spec.dimensions[1]
    for event in sequence:
        start = (spec.positions[event.index["p"]].z_coord or 0.0) + z.translation
        assert start + z.scale * event.index["z"] == pytest.approx(event.z_pos)


@pytest.mark.parametrize(
    ("plan", "count", "scale", "coords"),
    [
        (LOOPS, 3, 2.0, None),
        ({"duration": 10, "loops": 5}, 5, 2.5, None),
        ({"duration": 10, "loops": 1}, 1, 1.0, None),
        ({"interval": 0, "loops": 4}, 4, 1.0, None),
        ({"interval": 0, "duration": 4}, None, 1.0, None),
        ([{"interval": 1, "loops": 3}, {"interval": 1, "loops": 3}], 5, 1.0, None),
        ([{"interval": 1, "loops": 3}, {"interval": 5, "loops": 3}], 5, 1.0, (0.0, 1.0, 2.0, 7.0, 12.0)),
    ],
)
def test_times(plan: Any, count: int | None, scale: float, coords: tuple[float, ...] | None) -> None:
    t = spec_of(time_plan=plan).dimensions[0]
    assert (t.count, t.scale, t.unit, t.coords) == (count, scale, "second", coords)


def test_a_ragged_sequence_without_end() -> None:
    sequence = useq.MDASequence(time_plan={"interval": 0, "duration": 4}, channels=SINGLE_CHANNEL_SKIPS)
    grid = event_grid(sequence)
    assert (grid.axes, grid.counts, grid.frames, grid.end) == ("tc", (None, 2), None, None)
    assert grid.frame_index({"t": 10**9, "c": 1}) == 2 * 10**9 + 1


@pytest.mark.parametrize("order", ["tpgcz", "tpgzc", "pctgz", "cztpg"])
@pytest.mark.parametrize("loops", [1, 5, 12, 13, 14, 19, 30])
@pytest.mark.filterwarnings("ignore:Channels with skipped frames:UserWarning")
def test_long_ragged_sequences_end_where_their_events_do(loops: int, order: str) -> None:
    """Only some rounds of them are looked at."""
    channels = [{"config": "a", "acquire_every": 2}, {"config": "b", "acquire_every": 3, "do_stack": False}]
    plans = {"time_plan": {"interval": 0, "loops": loops}, "z_plan": STACK, "channels": channels}
    sequence = useq.MDASequence(**plans, axis_order=order, stage_positions=STAGES)
    grid = event_grid(sequence)
    indexes = [grid.frame_index(event.index) for event in sequence]
    assert indexes == sorted(set(indexes))
    assert grid.end == indexes[-1] + 1


def test_channels_of_one_name_are_told_apart() -> None:
    spec = spec_of(channels=["DAPI", {"config": "DAPI", "group": "Other"}, "FITC", {"config": "FITC", "exposure": 3}])
    assert spec.dimensions[0].labels == ("Channel DAPI", "Other DAPI", "Channel FITC", "Channel FITC #2")


def test_several_cameras_are_part_of_the_channels() -> None:
    sequence = useq.MDASequence(channels=TWO, time_plan=LOOPS)
    grid = event_grid(sequence, cameras=2)
    assert (grid.axes, grid.counts) == ("tc", (3, 4))
    assert grid.frame_index({"t": 1, "c": 1, "cam": 1}) == 7
    labels = StreamSpec.parse({"name": "s", **stream_fields(sequence, SHAPE, cameras=2)}).dimensions[1].labels
    assert labels == ("DAPI camera 1", "DAPI camera 2", "FITC camera 1", "FITC camera 2")
    alone = stream_fields(useq.MDASequence(time_plan=LOOPS), SHAPE, cameras=2)
    assert StreamSpec.parse({"name": "s", **alone}).dimensions[1].labels == ("camera 1", "camera 2")
    with pytest.raises(OmewdError, match=r'z comes after the channels.*axis_order "tpgzc"'):
        event_grid(useq.MDASequence(channels=TWO, z_plan=STACK), cameras=2)
    assert event_grid(useq.MDASequence(channels=TWO, z_plan=STACK, axis_order="zc"), cameras=2).counts == (5, 4)


def test_chunks_shards_and_pixels() -> None:
    fields = stream_fields(
        useq.MDASequence(time_plan=LOOPS, stage_positions=STAGES),
        SHAPE,
        dtype="uint8",
        pixel_size_um=0.25,
        chunks={"t": 1, "y": 20, "x": 20, "z": 7},
        shards={"t": 3},
    )
    spec = StreamSpec.parse({"name": "s", **fields})
    assert spec.chunk_shape == (1, 1, 20, 20)
    assert spec.key_shape == (3, 1, 20, 20)
    assert [d.scale for d in spec.dimensions[-2:]] == [0.25, 0.25]
    assert spec.dtype == "uint8"
    for chunks, message in (({"p": 2}, "image of its own"), ({"w": 2}, "are for t, c, z, y and x, not 'w'")):
        with pytest.raises(OmewdError, match=message):
            stream_fields(useq.MDASequence(time_plan=LOOPS), SHAPE, chunks=chunks)


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ({"stage_positions": STAGES, "grid_plan": TILES, "channels": TWO, "axis_order": "pcgz"}, "side by side"),
        (
            {"stage_positions": [*STAGES, stage(grid_plan=TILES)], "channels": TWO},
            "p=2, c=1, g=0 comes after p=2, c=0, g=5.*own sequence beside its grid_plan",
        ),
        ({"stage_positions": [STAGES[0], stage(time_plan=LOOPS)], "time_plan": LOOPS}, "can't go back"),
        (
            {"time_plan": {"interval": 0, "duration": 1}, "channels": TWO, "axis_order": "ct"},
            "t is unbounded.*Put t first",
        ),
    ],
)
def test_what_makes_no_grid_is_refused(plans: dict[str, Any], message: str) -> None:
    with pytest.raises(OmewdError, match=message) as caught:
        stream_fields(useq.MDASequence(**plans), SHAPE)
    assert caught.value.code == "bad_spec"


def test_an_event_of_another_sequence() -> None:
    grid = event_grid(useq.MDASequence(time_plan=LOOPS, channels=TWO))
    for index in ({"t": 3}, {"t": 0, "c": 2}, {"t": -1}, {"t": 0, "c": 0, "cam": 1}, {"t": 0, "g": 1, "c": 7}):
        with pytest.raises(OmewdError, match="not in the grid t:3, c:2"):
            grid.frame_index(index)


@pytest.mark.parametrize("given", [7, "no JSON", {"time_plan": 5}, {"axis_order": "tq"}, b"[]"])
def test_what_is_no_sequence(given: Any) -> None:
    with pytest.raises(OmewdError, match="useq sequence") as caught:
        load_sequence(given)
    assert caught.value.code == "bad_spec"


def test_without_useq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "useq", None)
    with pytest.raises(OmewdError, match="pip install useq-schema") as caught:
        load_sequence({"channels": TWO})
    assert caught.value.code == "not_installed"


# -- files of settings -------------------------------------------------------------------------


def test_a_file_of_settings_is_told_by_its_fields() -> None:
    frame = "y:40:20:2,x:60"
    own = fields_of({"name": "a", "dims": f"t:5,{frame}", "dtype": "uint8"})
    assert dims(StreamSpec.parse(own)) == "t:5"
    assert dims(StreamSpec.parse(fields_of({"name": "a", "dims": "t:5,y:1,x:1"}, f"t:7,{frame}"))) == "t:7"
    writers = {"root_path": "b.zarr", "dimensions": [{"name": n, "count": 8} for n in "tyx"], "dtype": "uint8"}
    assert StreamSpec.parse(fields_of(writers)).output == "b.zarr"
    sequence = json.loads(useq.MDASequence(time_plan=LOOPS, channels=TWO, metadata={"by": "me"}).model_dump_json())
    spec = StreamSpec.parse({"name": "c", **fields_of(sequence, f"t:3:1:3,{frame}")})
    assert dims(spec) == "t:3 c:2"
    assert spec.key_shape == (3, 1, 40, 60)


@pytest.mark.parametrize(
    ("document", "dims", "message"),
    [
        ({"channels": TWO}, None, "the size of the frame.*--dims"),
        ({"channels": TWO}, "t:3", "y and x"),
        ({"channels": TWO}, "y:3,z:4", "y and x"),
        ({"channels": TWO}, "t:3,y:3,x:4", "t:3, but the sequence has no t"),
        ({"channels": TWO}, "c:3,y:3,x:4", "c:3, but the sequence has c:2"),
        ({"channels": TWO, "root_path": "a.zarr"}, None, "channels and root_path"),
        ({"channels": TWO, "dims": "y:3,x:3"}, None, "channels and dims"),
        ({"dims": 5}, None, "dims must be a string"),
    ],
)
def test_files_of_settings_that_are_refused(document: dict[str, Any], dims: str | None, message: str) -> None:
    with pytest.raises(OmewdError, match=message) as caught:
        fields_of(document, dims)
    assert caught.value.code == "usage"


def test_tiles_of_a_file_need_the_size_of_a_frame() -> None:
    document = {"grid_plan": {"rows": 2, "columns": 2, "overlap": 0}, "channels": ["DAPI"]}
    with pytest.raises(OmewdError, match="no places") as refusal:
        fields_of(document, "y:512,x:512")
    assert "--scale" in refusal.value.remedy
    fields = fields_of(document, "y:512,x:512", pixel_size_um=0.5)
    places = {(p["x_coord"], p["y_coord"]) for p in next(d for d in fields["dimensions"] if d["name"] == "p")["coords"]}
    assert places == {(x, y) for x in (-128.0, 128.0) for y in (-128.0, 128.0)}
    sized = {"grid_plan": {"rows": 1, "columns": 2, "fov_width": 256, "fov_height": 256}}
    assert fields_of(sized, "y:512,x:512")["dimensions"][0]["count"] == 2


def test_positions_at_their_own_paces_have_no_common_interval() -> None:
    stages = [stage(time_plan={"interval": n, "loops": 3}) for n in (1, 10)]
    assert spec_of(stage_positions=stages, channels=["DAPI"]).dimensions[1].scale == 1.0
    [t] = [d for d in stream_fields(useq.MDASequence(stage_positions=stages), SHAPE)["dimensions"] if d["name"] == "t"]
    assert "scale" not in t
