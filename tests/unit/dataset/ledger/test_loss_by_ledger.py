"""What became of a failed stream's frames is counted by its ledger: writers may have died before they could report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger.account import Account
from omewd.dataset.ledger.ledger import DROPPED, SKIPPED, WRITTEN
from omewd.dataset.ledger.marks import Marks
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from tests.unit.cameras import act, camera, check_loss, steps
from tests.unit.rings import plans

MARKS = {"frame": WRITTEN, "skipped": SKIPPED, "dropped": DROPPED}


@given(plans(), steps, st.integers(0, 20), st.lists(st.booleans(), min_size=60, max_size=60))
def test_frames_on_record_that_nobody_has_reported_are_written(
    plan: Plan, history: list[tuple[str, int]], spare: int, on_record: list[bool]
) -> None:
    with camera(plan, plan.window_frames + spare) as it:
        for step, number in history:
            if it.stream.takes_frames or step in ("take", "finish", "poll"):
                act(it, step, number)
        it.stream.fail(OmewdError("bad_ring", "damaged"), 9)
        for job, recorded in zip(it.out, on_record, strict=False):
            if recorded:
                it.done_units.update(range(job.unit, job.unit + job.units))
        marks = Marks()
        for frame, fate in enumerate(it.fates[: it.source.received]):
            if plan.unit_of(frame) in it.done_units:
                marks.put(frame, 1, 1, MARKS[fate])
        it.stream.finalized([Account(marks, it.source.received).totals()], 9)
        it.stream.tell_loss()
        check_loss(it)
        assert it.source.received == it.source.written + sum(it.source.gaps.values()) + it.source.lost_frames
        assert it.source.totals.lost_frames == sum(count for _, count in it.source.lost)
        assert it.stream.has_kept_frames == bool(it.source.lost)
