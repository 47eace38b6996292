"""The daemon's record of its progress: one of the two is whole at any moment, whoever is killed."""

from __future__ import annotations

from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import PROGRESS, PROGRESS_WORDS
from omewd.ring.progress import Progress, read_progress, write_progress
from tests.unit.rings import open_ring


def test_nothing_is_done_in_a_new_ring() -> None:
    with open_ring() as ends:
        assert read_progress(ends.segment.words)[0] == Progress()


def test_the_newest_whole_record_counts_and_stays_while_the_next_is_written() -> None:
    """Also across daemons: a new one goes on with the other place."""
    with open_ring() as ends:
        words = ends.segment.words
        for done in range(1, 9):
            last, number = read_progress(words)
            assert last.units == done - 1
            before = bytes(words)
            write_progress(words, Progress(units=done, frames=4 * done, released=3 * done), number + 1)
            after = bytes(words)
            assert read_progress(words)[0] == Progress(done, 4 * done, 3 * done)
            # Killed in the middle of it, at whatever word: the last record is still there.
            changed = [place for place in PROGRESS if before[place * 8 :][:56] != after[place * 8 :][:56]]
            assert len(changed) == 1
            for word in range(PROGRESS_WORDS):
                torn = memoryview(bytearray(after)).cast("Q")
                torn[changed[0] + word] ^= 1
                assert read_progress(torn)[0] == last


def test_a_daemon_that_takes_over_does_not_write_over_the_newest_record() -> None:
    with open_ring(8) as ends:
        for frames in range(1, 6):
            ends.publish()
            daemon = DaemonRing(ends.segment)
            daemon.resume()
            kept = [bytes(ends.segment.words[place : place + PROGRESS_WORDS]) for place in PROGRESS]
            newest = read_progress(ends.segment.words)[1]
            daemon.release_below(frames, durable=True, units=frames)
            now = [bytes(ends.segment.words[place : place + PROGRESS_WORDS]) for place in PROGRESS]
            if frames > 1:
                assert now[newest] == kept[newest]
            assert read_progress(ends.segment.words)[0].frames == frames
