"""A long run: memory stays flat and nothing is left over."""

from __future__ import annotations

import psutil
import pytest

from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_tensorstore
from tests.support.frames import frame_index, make_frame, make_spec
from tests.support.processes import wait_for

FRAMES = 20_000
# What Python and its libraries may still pick up after the first tenth of the run.
ALLOWED_GROWTH_BYTES = 24 << 20


def memory_of(pids: list[int]) -> dict[int, int]:
    """Private memory in bytes of each process: shared memory and mapped libraries are not counted."""
    return {pid: psutil.Process(pid).memory_full_info().uss for pid in pids}


def descriptors_of(pids: list[int]) -> int:
    return sum(psutil.Process(pid).num_fds() for pid in pids)


@pytest.mark.alone
@pytest.mark.stress
def test_20000_small_frames_through_64_slots(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", f"t:{FRAMES}:1:16,y:64:32:2,x:64:32:2", ring_slots=64)
    status = omewd_daemon.client.start_stream(spec)
    assert status["ring"]["slots"] == 64
    pids = [omewd_daemon.process.pid, *omewd_daemon.writer_pids()]
    descriptors_before, memory_early = 0, {}
    with omewd_daemon.connect("cam") as producer:
        for index in range(FRAMES):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), metadata={"exposure_time": 0.01})
            if index == FRAMES // 10:
                memory_early = memory_of(pids)
                descriptors_before = descriptors_of(pids)
        memory_late = memory_of(pids)
    for pid in pids:
        assert memory_late[pid] - memory_early[pid] < ALLOWED_GROWTH_BYTES, f"{memory_early} → {memory_late}"
    wait_for(lambda: descriptors_of(pids) <= descriptors_before + len(pids))  # jobs in flight have files open
    assert [omewd_daemon.process.pid, *omewd_daemon.writer_pids()] == pids
    final = omewd_daemon.client.wait("cam")
    assert final["frames"]["written"] == final["frames"]["durable"] == FRAMES
    array = read_tensorstore(omewd_daemon.data / "cam.ome.zarr")
    for index in range(FRAMES):
        assert frame_index(array[index]) == index
        assert array[index].tobytes() == make_frame(index, spec.frame_shape, spec.dtype).tobytes()
    assert not omewd_daemon.shared_memory()
    assert not list((omewd_daemon.folder / "state" / "streams").iterdir())
