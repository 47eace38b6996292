"""The stall report: where frames waited on their way to disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from omewd.cli.show.units import duration
from omewd.model.waits import STAGES, StageWaits

if TYPE_CHECKING:
    from rich.table import Table

Waits = Mapping[str, StageWaits]


def waits_rows(waits: Waits) -> list[list[str]]:
    """The titles, then a row for each stage of a stream's waits."""
    rows = [[stage, *map(duration, (wait.p50_ns, wait.p99_ns, wait.max_ns))] for stage, wait in waits.items()]
    return [["stage", "p50", "p99", "max"], *rows]


def waits_table(waits: Waits) -> Table:
    """The rows as a table that explains each stage."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    titles, *rows = waits_rows(waits)
    for title in titles:
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    table.add_column("while the frame is", style="dim")
    slowest = slowest_stage(waits)
    for stage, *figures in rows:
        table.add_row(stage, *figures, STAGES[stage], style="yellow" if stage == slowest else None)
    return table


def slowest_stage(waits: Waits) -> str | None:
    """The stage in which frames wait longest, by the median; None if there are no waits."""
    return max(waits, key=lambda stage: waits[stage].p50_ns, default=None)
