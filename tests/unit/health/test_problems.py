"""``omewd health``: what counts as a problem of a daemon and its streams."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omewd.health.problems import Limits, Problem, problems
from omewd.protocol.status import (
    DaemonStatus,
    DiskStatus,
    ErrorStatus,
    FramesStatus,
    KeptRingStatus,
    SourceStatus,
    StreamStatus,
    WriterStatus,
)

CAMERA = SourceStatus(open=True, producer=77, silent_s=0.1, frames=FramesStatus(declared=100, received=40))
STREAM = StreamStatus(
    name="cam", state="ACTIVE", sources=(CAMERA,), frames=CAMERA.frames, disk=DiskStatus(10**12, 9999.0)
)
WRITERS = (WriterStatus(id=1, ready=True), WriterStatus(id=2, ready=False))
DAEMON = DaemonStatus(writers=WRITERS, streams=(STREAM,))
FAILED = replace(
    STREAM, state="FAILED", settled=True, kept_in_ring=True, error=ErrorStatus("disk_error", "it broke.", "Mend it")
)


def of_camera(camera: SourceStatus) -> StreamStatus:
    return replace(STREAM, sources=(camera,))


def test_nothing_is_wrong_with_what_works() -> None:
    assert problems(DAEMON) == []
    assert problems(STREAM) == []
    assert problems(replace(STREAM, state="DONE", settled=True, disk=DiskStatus(0, 0.0))) == []


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (FAILED, "disk_error", "it broke"),
        (replace(FAILED, settled=False), "disk_error", "it broke"),
        (replace(STREAM, paused=ErrorStatus("disk_full", "no space", "Free some")), "disk_full", "nothing is written"),
        (replace(STREAM, disk=DiskStatus(5 * 10**9, 90.0)), "disk_nearly_full", "in 1.5 minutes at this rate: 5.00 GB"),
        (
            replace(STREAM, disk=DiskStatus(10**9, 9999.0, needs_bytes=10**10)),
            "disk_nearly_full",
            "takes 10.00 GB: 1.00",
        ),
        (replace(STREAM, frames=FramesStatus(received=40, dropped=3)), "frames_dropped", "3 of 40 frames"),
        (of_camera(replace(CAMERA, producer=None)), "no_camera", "is gone after 40 frames of 100"),
        (of_camera(replace(CAMERA, silent_s=61.0)), "silent_camera", "nothing for 61 s"),
        (of_camera(replace(CAMERA, name="left", silent_s=61.0)), "silent_camera", "camera 'left'"),
        (replace(DAEMON, writers=WRITERS[1:], streams=()), "no_writers", "none of the 1 writers"),
        (replace(DAEMON, writers=(*WRITERS[1:], WriterStatus(ready=True, aside=True))), "no_writers", "none of the 1"),
        (replace(DAEMON, stopping=True), "stopping", "takes no new streams"),
        (replace(DAEMON, kept_rings=(KeptRingStatus("old", bytes=2**20, code="bad_ring"),)), "bad_ring", "1.0 MiB"),
    ],
)
def test_a_problem_is_one_line_with_a_code(status: DaemonStatus | StreamStatus, code: str, says: str) -> None:
    [problem] = problems(status)
    assert problem.code == code
    assert says in problem.message
    assert problem.remedy
    if isinstance(status, StreamStatus):
        assert problem.stream == "cam"
        assert problems(replace(DAEMON, streams=(status, replace(STREAM, name="other")))) == [problem]


@pytest.mark.parametrize(
    "camera",
    [
        replace(CAMERA, silent_s=59.0),
        replace(CAMERA, silent_s=None, producer=None),  # its program has not begun
        replace(CAMERA, silent_s=None, open=False, producer=None),
    ],
)
def test_a_camera_may_be_silent_for_a_while_before_its_first_frame_and_after_its_last(camera: SourceStatus) -> None:
    assert problems(of_camera(camera)) == []


@pytest.mark.parametrize(
    "stream",
    [
        replace(STREAM, disk=DiskStatus(None, None, needs_bytes=10**10)),
        replace(STREAM, disk=DiskStatus(10**9, 60.0, needs_bytes=10**9)),  # it ends before
        replace(STREAM, disk=DiskStatus(10**9, 9999.0, needs_bytes=10**10), compression="zstd"),
    ],
)
def test_a_disk_that_suffices_as_far_as_is_known_is_no_problem(stream: StreamStatus) -> None:
    assert problems(stream) == []


def test_limits_can_be_set() -> None:
    status = replace(of_camera(replace(CAMERA, silent_s=5.0)), disk=DiskStatus(1, 5.0))
    assert problems(status) == problems(status, Limits(silent_s=60.0, disk_lasts_s=600.0))
    codes = [problem.code for problem in problems(status, Limits(silent_s=4.0, disk_lasts_s=6.0))]
    assert codes == ["disk_nearly_full", "silent_camera"]
    assert problems(status, Limits(silent_s=6.0, disk_lasts_s=4.0)) == []


def test_a_failure_says_what_to_do_until_somebody_knows_of_it() -> None:
    [kept] = problems(FAILED)
    assert kept.remedy == "Mend it. omewd resume-stream writes the frames in its ring, stop-stream cam discards them"
    [let_go] = problems(replace(FAILED, kept_in_ring=False))
    assert let_go.remedy == "Mend it. omewd stop-stream cam takes note of it"
    assert problems(replace(FAILED, kept_in_ring=False, acknowledged=True)) == []


def test_a_problem_is_read_as_it_was_written() -> None:
    [problem] = problems(FAILED)
    assert Problem.from_json(problem.to_json()).to_json() == problem.to_json()
