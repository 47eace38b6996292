"""Whether an acquisition fits on its drive, beside the others."""

from __future__ import annotations

import pytest

from omewd.daemon.datasets.drive import Demand, check_space
from omewd.errors import OmewdError
from tests.unit.cameras import camera_of

FRAME_BYTES = 2 * 3 * 2
DIMS = "t:100,y:2,x:3"
WHOLE = 100 * FRAME_BYTES
NONE = Demand()


@pytest.mark.parametrize(
    ("free_bytes", "others", "compression", "found"),
    [
        (WHOLE, NONE, None, "fits"),
        (WHOLE - 1, NONE, None, "refused"),
        (None, NONE, None, "fits"),
        (2 * WHOLE, Demand(WHOLE, WHOLE), None, "fits"),
        (2 * WHOLE - 1, Demand(WHOLE, WHOLE), None, "refused"),
        (2 * WHOLE - 1, Demand(0, WHOLE), None, "warned"),
        (WHOLE, Demand(0, None), None, "fits"),
        (WHOLE, Demand(1, None), None, "refused"),
        (WHOLE, NONE, "zstd", "fits"),
        (WHOLE - 1, NONE, "zstd", "warned"),
        (WHOLE, Demand(WHOLE, WHOLE), "zstd", "warned"),
        (WHOLE - 1, Demand(WHOLE, WHOLE), "zstd", "refused"),  # not even the others fit
    ],
)
@pytest.mark.parametrize("on_disk_full", [None, "fail", "wait"])
def test_what_surely_can_not_fit_is_refused_and_what_may_not_is_warned_of(
    free_bytes: int | None, others: Demand, compression: str | None, found: str, on_disk_full: str | None
) -> None:
    with camera_of(DIMS) as it:
        it.stream.spec = it.stream.spec.model_copy(update={"compression": compression, "on_disk_full": on_disk_full})
        it.stream.drive.report(8, free_bytes)
        if found == "refused" and on_disk_full != "wait":
            with pytest.raises(OmewdError, match="on_disk_full='wait'") as refusal:
                check_space(it.stream, others)
            assert refusal.value.code == "no_disk_space"
            return
        warning = check_space(it.stream, others)
        assert (warning is None) == (found == "fits")
        if warning is not None:
            assert ("the stream fails" in warning.remedy) == (on_disk_full == "fail")


@pytest.mark.parametrize("on_disk_full", [None, "fail", "wait"])
def test_a_stream_whose_files_go_once_copied_is_never_refused(on_disk_full: str | None) -> None:
    with camera_of(DIMS) as it:
        spec = it.stream.spec.model_copy(update={"copy_evict": True, "on_disk_full": on_disk_full})
        it.stream.spec = spec
        it.stream.drive.report(8, WHOLE - 1)
        warning = check_space(it.stream, NONE)
        assert warning is not None
        assert "Files go once they are copied" in warning.remedy
        assert ("the stream fails" in warning.remedy) == (on_disk_full == "fail")
        assert check_space(it.stream, Demand(WHOLE, WHOLE)) is not None
        assert Demand.of(it.stream) == Demand(0, WHOLE)  # so that others are not refused because of it
        it.stream.drive.report(8, WHOLE)
        assert check_space(it.stream, NONE) is None


def test_the_numbers_are_told() -> None:
    with camera_of(DIMS) as it:
        it.stream.drive.report(8, 5_000_000_000)
        with pytest.raises(OmewdError) as refusal:
            check_space(it.stream, Demand(4_999_999_999, 10**10))
        assert refusal.value.message == (
            f"the acquisition takes 0.00 MB on disk, but 5.00 GB are free for {it.stream.dataset.path}, and other open "
            "streams are still to write 5.00 GB there"
        )
        it.stream.spec = it.stream.spec.model_copy(update={"overwrite": True})
        with pytest.raises(OmewdError, match="only removed at its end"):
            check_space(it.stream, Demand(4_999_999_999, 10**10))


def test_the_demand_falls_with_what_is_written_and_left_out() -> None:
    with camera_of(DIMS, capacity=20) as it:
        assert Demand.of(it.stream) == Demand(WHOLE, WHOLE)
        it.publish(4)
        it.gap("skipped", 6)
        it.poll()
        assert Demand.of(it.stream).least == 94 * FRAME_BYTES
        it.work()
        assert Demand.of(it.stream).least == 90 * FRAME_BYTES
        it.publish(3)
        it.stream.stop("asked", 9)
        assert Demand.of(it.stream).least == 3 * FRAME_BYTES
        it.work()
        assert Demand.of(it.stream) == NONE
        it.stream.settle()
        assert Demand.of(it.stream) == NONE


def test_the_demand_of_what_nobody_can_know() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        assert Demand.of(it.stream) == Demand(0, None)
        assert check_space(it.stream, Demand(10**12, 10**12)) is None
    with camera_of(DIMS) as it:
        it.stream.spec = it.stream.spec.model_copy(update={"compression": "zstd"})
        assert Demand.of(it.stream) == Demand(0, WHOLE)
    assert Demand.together([]) == NONE
    assert Demand.together([Demand(1, 2), Demand(3, 4)]) == Demand(4, 6)
    assert Demand.together([Demand(1, 2), Demand(0, None)]) == Demand(1, None)
