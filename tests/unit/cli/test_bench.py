"""The pure parts of the benchmark: columns, figures, reports, recommendations."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import omewd
from omewd.bench.benchmark import check_space
from omewd.bench.candidates import Candidate, Trial, as_dims, best, first_round, second_round
from omewd.bench.plan import (
    IN_PROCESS,
    OME_WRITERS,
    OMEWD,
    Column,
    Options,
    Timed,
    columns,
)
from omewd.bench.report.figures import quantile_ns
from omewd.bench.report.report import as_csv, as_json, as_markdown
from omewd.bench.report.results import METRICS, shown_metrics, values
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from tests.unit.cli.outcomes import DIMS, OURS, geometry, outcome, sample

# -- columns ---------------------------------------------------------------------------------------


def test_columns_are_every_combination_and_others_do_not_depend_on_writers() -> None:
    made = columns(["a", "b"], [None, "zstd"], [1, 2], [OME_WRITERS])
    assert len(made) == 2 * 2 * 2 + 2 * 2
    assert len({column.label(made) for column in made}) == len(made)
    assert [c.label(made[:1]) for c in made[:1]] == ["a"]


def test_a_label_says_only_what_differs() -> None:
    two = columns(["a"], [None], [2], [IN_PROCESS])
    assert [c.label(two) for c in two] == ["a", "in-process: a"]
    by_writers = columns(["a"], [None], [1, 2], [])
    assert [c.label(by_writers) for c in by_writers] == ["a ×1", "a ×2"]


def test_several_cameras_are_columns_of_omewd_alone_and_are_named_where_they_differ() -> None:
    made = columns(["a"], [None], [2], [IN_PROCESS], [1, 2])
    assert [c.cameras for c in made] == [1, 2, 1]
    assert [c.label(made) for c in made] == ["a ×1 camera", "a ×2 cameras", "in-process: a ×1 camera"]
    assert [c.label(made[1:2]) for c in made[1:2]] == ["a"]
    by_writers = columns(["a"], [None], [1, 4], [], [3, 1])
    assert [c.label(by_writers) for c in by_writers] == [
        "a ×1 ×3 cameras", "a ×1 ×1 camera", "a ×4 ×3 cameras", "a ×4 ×1 camera",
    ]  # fmt: skip


def test_others_are_timed_with_what_is_installed_if_no_named_backend_is_theirs() -> None:
    made = columns(["direct"], [None], [2], [OME_WRITERS], libraries=["tensorstore", "acquire-zarr"])
    assert [c.label(made) for c in made] == ["direct", "ome-writers: tensorstore", "ome-writers: acquire-zarr"]
    named = columns(["direct", "zarr-python"], [None], [2], [OME_WRITERS], libraries=["tensorstore"])
    assert [c.backend for c in named if c.kind == OME_WRITERS] == ["zarr-python"]
    with pytest.raises(OmewdError, match="needs a library") as failure:
        columns(["direct"], [None], [2], [IN_PROCESS])
    assert failure.value.remedy == "pip install tensorstore"


def test_there_must_be_room_for_the_datasets_of_all_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_one = geometry().total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(of_one * 2.5)))
    check_space(tmp_path, geometry(), [OURS, replace(OURS, cameras=2)])
    with pytest.raises(OmewdError, match="are free in") as failure:
        check_space(tmp_path, geometry(), [OURS, replace(OURS, cameras=3)])
    assert failure.value.code == "disk_full"


def test_an_unbounded_acquisition_can_not_be_timed() -> None:
    with pytest.raises(OmewdError, match="unbounded"):
        geometry("t:inf,y:8,x:8").check()


def test_conditions_are_the_acquisition_s() -> None:
    conditions = dict(geometry().conditions(Options()))
    assert conditions["Total shape"] == "(20, 64, 64)"
    assert conditions["Shard shape (chunks/shard)"] == "(4, 4, 4)"
    assert conditions["Number of frames"] == "20"
    assert "fsync of every file" in conditions["Clock"]
    assert "without fsync" in dict(geometry().conditions(Options(durability="none")))["Clock"]


# -- figures ---------------------------------------------------------------------------------------


def test_the_figures_agree_with_each_other() -> None:
    timed = Timed(OURS, [sample(1.0), sample(3.0), sample(2.0)])
    result = outcome(timed)
    figures = values(timed, result)
    gb = 20 * 64 * 64 * 2 / 1e9
    assert figures["write_median_s"] == 2.0
    assert figures["fps"] == pytest.approx(10)
    assert figures["gb_per_s"] == pytest.approx(gb / 2)
    assert figures["disk_fraction"] == pytest.approx(0.5 / 2)  # by the medians
    spread = {"mean": 2.0, "std": np.std([1, 2, 3]), "min": 1.0, "max": 3.0, "median": 2.0}
    assert figures["write_s"] == pytest.approx(spread)
    assert figures["cpu_writers_s_per_gb"] == pytest.approx(0.5 / gb)
    assert figures["cpu_process_s_per_gb"] is None
    assert figures["compression_ratio"] == pytest.approx(1.0)


def test_the_figures_of_several_cameras_are_of_all_together() -> None:
    one = Timed(OURS, [sample(2.0)])
    three = Timed(replace(OURS, cameras=3), [sample(2.0, stored_bytes=3 * 163840)])
    result = outcome(one, three)
    figures, threefold = values(one, result), values(three, result)
    for key in ("fps", "gb_per_s", "disk_fraction"):
        assert threefold[key] == pytest.approx(3 * figures[key])
    assert threefold["cpu_writers_s_per_gb"] == pytest.approx(figures["cpu_writers_s_per_gb"] / 3)
    assert threefold["compression_ratio"] == pytest.approx(figures["compression_ratio"])
    for key in ("write_s", "peak_bytes", "files"):
        assert threefold[key] == figures[key]  # samples have these of all cameras


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 1000])
def test_quantiles_of_appends_are_exact(count: int) -> None:
    appends = np.random.default_rng(count).permutation(count).tolist()
    timed = Timed(OURS, [sample(appends_ns=appends[: count // 2]), sample(appends_ns=appends[count // 2 :])])
    for fraction in (0.5, 0.99, 1.0):
        assert quantile_ns(timed, fraction) == np.quantile(appends, fraction, method="inverted_cdf")


def test_the_time_before_the_fsync_is_shown_where_one_was_added() -> None:
    peer = Timed(Column(OME_WRITERS, "a", None, 0), [sample(2.0, closed_s=1.5, cpu_s={"process": 1.0})])
    ours = Timed(OURS, [sample()])
    result = outcome(ours, peer)
    assert values(peer, result)["unsynced_s"] == 1.5
    assert values(ours, result)["unsynced_s"] is None
    assert "unsynced_s" in [metric.key for metric in shown_metrics(result)]
    assert "unsynced_s" not in [metric.key for metric in shown_metrics(outcome(ours))]


def test_without_a_disk_there_is_no_fraction_of_it() -> None:
    timed = Timed(OURS, [sample()])
    assert values(timed, outcome(timed, disk_s=()))["disk_fraction"] is None


# -- reports ---------------------------------------------------------------------------------------


def failed() -> Timed:
    return Timed(Column(OMEWD, "broken", None, 2), error=OmewdError("backend_unusable", "it is broken", "Mend it"))


def test_json_has_base_units_and_the_reason_of_a_failure() -> None:
    document = json.loads(as_json([outcome(Timed(OURS, [sample()]), failed())], Options()))
    [benchmark] = document["benchmarks"]
    good, bad = benchmark["columns"]
    assert good["write_s"] == {"mean": 1.0, "std": 0.0, "min": 1.0, "max": 1.0, "median": 1.0}
    assert good["create_s"]["max"] == 0.1
    assert good["samples"][0]["cpu_s"]["writers"] == 0.5
    assert (bad["error"]["code"], bad["samples"], "fps" in bad) == ("backend_unusable", [], False)
    assert good["nearest_ceiling"]["name"] == "disk"
    assert benchmark["disk"]["gb_per_s"] == pytest.approx(benchmark["total_bytes"] / 1e9 / 0.5)


def test_csv_is_a_line_for_each_column() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([outcome(Timed(OURS, [sample()]), failed())], Options()))))
    assert [row["label"] for row in rows] == ["tensorstore", "broken"]
    assert [float(rows[0][f"write_s_{which}"]) for which in ("mean", "min", "max")] == [1.0, 1.0, 1.0]
    assert rows[0]["dims"] == DIMS
    assert rows[0]["nearest_ceiling"] == "disk"
    assert (rows[1]["error"], rows[1]["fps"]) == ("it is broken", "")


def test_markdown_is_a_table_with_every_metric() -> None:
    text = as_markdown([outcome(Timed(OURS, [sample()]), failed())], Options())
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {4}
    titles = {metric.title for metric in METRICS} - {
        "write, before fsync",
        "CPU, one process",
        "fraction of the codec, all cores",
        "fraction of memcpy",
    }
    assert all(any(line.startswith(f"| {title}") for line in table) for title in titles)
    assert "broken: it is broken. Mend it" in text
    assert sum("ERROR" in line for line in table) == len(table) - 2
    assert "Cameras" not in text


def test_reports_say_how_many_cameras_there_were() -> None:
    result = outcome(Timed(OURS, [sample()]), Timed(replace(OURS, cameras=2), [sample()]))
    [benchmark] = json.loads(as_json([result], Options()))["benchmarks"]
    assert [column["cameras"] for column in benchmark["columns"]] == [1, 2]
    rows = list(csv.DictReader(io.StringIO(as_csv([result], Options()))))
    assert [(row["label"], row["cameras"]) for row in rows] == [
        ("tensorstore ×1 camera", "1"),
        ("tensorstore ×2 cameras", "2"),
    ]
    text = as_markdown([result], Options())
    assert "- Cameras at once: 1, 2; each has the frames" in text
    assert "of the volume of one camera" in text


# -- recommendations -------------------------------------------------------------------------------


def trial(fps: float, bytes_a_frame: float, files_a_frame: float = 0.1, backend: str = "a") -> Trial:
    column = Column(OMEWD, backend, None if bytes_a_frame > 5 else "zstd", 2)
    return Trial(Candidate(f"{fps}", geometry(), column), fps, bytes_a_frame, files_a_frame)


def test_the_best_stores_least_among_those_that_are_comfortably_fast() -> None:
    fast, small, slow = trial(400, 8), trial(200, 4), trial(120, 2)
    assert best([fast, small, slow], 100) is small
    assert best([fast, small, slow], 50) is slow
    assert best([fast, small, slow], 300) is fast  # none is comfortable
    few_files, many_files = trial(200, 4.1, 0.01), trial(300, 4.0, 16)
    assert best([many_files, few_files], 100) is few_files


def test_what_is_tried_can_be_a_stream_and_keeps_the_user_s_counts() -> None:
    for dims in ("t:5000,y:2048,x:2048", "t:inf,c:3,y:300,x:500", "y:4096,x:4096", "t:7,z:5,y:64,x:64"):
        dimensions = omewd.parse_dims(dims)
        first = first_round(dimensions, "uint16", ["tensorstore", "zarr-python"], [None, "blosc-lz4"], 2)
        assert len(first) == 4
        trials = [Trial(c, 100.0 + n, 1, 1) for n, c in enumerate(first)]
        second = second_round(dimensions, "uint16", trials)
        assert {c.column.backend for c in second} == {"zarr-python"}  # the fastest of each compression
        assert len({(c.dims, c.column) for c in (*first, *second)}) == len(first) + len(second)
        for candidate in (*first, *second):
            spec = candidate.trial.spec(candidate.column, Options())
            assert Plan.of(spec).frames_total
            assert [d.count for d in omewd.parse_dims(candidate.dims)] == [d.count for d in dimensions]
            line = candidate.start_stream("uint16", "fsync").split()
            assert line[:4] == ["omewd", "start-stream", "--dims", candidate.dims]
            assert omewd.parse_dims(as_dims(omewd.parse_dims(candidate.dims))) == omewd.parse_dims(candidate.dims)
