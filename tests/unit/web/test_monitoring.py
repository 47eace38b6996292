"""The dashboard, the alert rules and the page about them name figures that there are."""

from __future__ import annotations

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from omewd.model.waits import StageWaits
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
        recent_waits={"write": StageWaits(1, 2, 3)},
    )
    daemons = Daemons([None])
    daemons.all[0].status = DaemonStatus(streams=(stream,), writers=(WriterStatus(ready=True),))
    families = text_string_to_metric_families(metrics(daemons).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


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
