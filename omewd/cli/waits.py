"""The stall report: where frames waited on their way to disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omewd.model.waits import STAGES

if TYPE_CHECKING:
    from rich.table import Table

WaitSummary = dict[str, dict[str, int]]


def waits_table(waits: WaitSummary, *, explained: bool = False) -> Table:
    """Stages as rows; ``waits`` as in a stream's status. ``explained``: with what each stage is."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    for title in ("p50", "p99", "max"):
        table.add_column(title, justify="right", no_wrap=True)
    if explained:
        table.add_column("a frame is here while it is", style="dim")
    slowest = slowest_stage(waits)
    for stage, wait in waits.items():
        row = [stage, *(duration(wait[f"{which}_ns"]) for which in ("p50", "p99", "max"))]
        table.add_row(*row, *([STAGES[stage]] if explained else []), style="yellow" if stage == slowest else None)
    return table


def slowest_stage(waits: WaitSummary) -> str | None:
    """The stage that a frame usually waits longest in; None without any."""
    return max(waits, key=lambda stage: waits[stage]["p50_ns"], default=None)


def duration(ns: float) -> str:
    """Nanoseconds as people read them."""
    for limit, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= limit:
            return f"{ns / limit:.3g} {unit}" if ns < 100 * limit else f"{ns / limit:.0f} {unit}"
    return f"{ns:.0f} ns" if ns else "0"
