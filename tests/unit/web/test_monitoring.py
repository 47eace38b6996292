"""The dashboard, the alert rules and the page about them name figures that there are."""

from __future__ import annotations

import json
import math
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from omewd.model.waits import OCTAVES, StageCounts
from omewd.protocol.status import DaemonStatus, DiskStatus, SourceStatus, StreamStatus, WriterStatus
from omewd.web.daemons import Daemons
from omewd.web.figures.metrics import metrics
from tests.support.places import REPOSITORY

OPERATIONS = REPOSITORY / "docs" / "operations"


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """All series with their labels."""
    stream = StreamStatus(
        id=1,
        name="cam",
        state="ACTIVE",
        sources=(SourceStatus(silent_s=1.0),),
        disk=DiskStatus(free_bytes=1, lasts_s=1.0),
        wait_counts={"write": StageCounts((2, 1, *[0] * (len(OCTAVES) - 2), 4), 3 * 10**9)},
    )
    return {sample.name: set(sample.labels) for sample in samples_of(stream)}


def samples_of(*streams: StreamStatus) -> list[Sample]:
    daemons = Daemons([None])
    daemons.all[0].status = DaemonStatus(streams=streams, writers=(WriterStatus(ready=True),))
    families = text_string_to_metric_families(metrics(daemons).decode())
    return [sample for family in families for sample in family.samples]


def test_a_stage_is_a_histogram() -> None:
    counts = (2, 1, *[0] * (len(OCTAVES) - 2), 4)
    stream = StreamStatus(id=1, name="cam", wait_counts={"write": StageCounts(counts, 3 * 10**9)})
    stages = [sample for sample in samples_of(stream) if sample.name.startswith("omewd_stage_seconds")]
    below = {float(one.labels["le"]): one.value for one in stages if one.name.endswith("_bucket")}
    assert len(below) == len(OCTAVES) + 1
    assert (below[1.6384e-05], below[3.2768e-05], max(below.values())) == (2, 3, below[math.inf])
    assert {one.name: one.value for one in stages if "le" not in one.labels} == {
        "omewd_stage_seconds_count": 7,
        "omewd_stage_seconds_sum": 3,
    }


def test_only_the_last_ended_streams_have_their_stages() -> None:
    """A histogram has hundreds of series."""
    waits = {"write": StageCounts(tuple([1] * (len(OCTAVES) + 1)))}
    streams = [StreamStatus(id=n, name=f"cam{n}", settled=n >= 20, wait_counts=waits) for n in range(60)]
    with_stages = {one.labels["stream"] for one in samples_of(*streams) if one.name == "omewd_stage_seconds_count"}
    assert with_stages == {f"cam{n}" for n in range(28)}


def test_alert_rules_and_dashboard_name_series_that_there_are(series: dict[str, set[str]]) -> None:
    rules = (OPERATIONS / "prometheus-alerts.yml").read_text()
    panels = json.loads((OPERATIONS / "grafana-dashboard.json").read_text())["panels"]
    expressions = re.findall(r"expr: (.*)", rules) + [one["expr"] for panel in panels for one in panel["targets"]]
    assert len(expressions) > 20
    for expression in expressions:
        names = re.findall(r"omewd_\w+", expression)
        assert names
        assert set(names) <= set(series), expression
    for panel in panels:
        for target in panel["targets"]:
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert labels <= set.intersection(*(series[name] for name in re.findall(r"omewd_\w+", target["expr"])))


def test_the_page_names_all_series(series: dict[str, set[str]]) -> None:
    page = (OPERATIONS / "monitoring.md").read_text()
    named = set(re.findall(r"`(omewd_\w+)`", page))
    named |= {f"omewd_frames_{rest}" for rest in re.findall(r"`…_(\w+)`", page)}
    assert named == set(series)
