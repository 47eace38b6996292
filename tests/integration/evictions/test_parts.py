"""Parts of an acquisition, each of which is evicted by the daemon or the command that has it."""

from __future__ import annotations

from pathlib import Path

from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.dataset.verify import verify
from tests.integration.evictions.test_evict import keys_here
from tests.support.copies import Lab
from tests.support.parts import CHANNELS, check_whole, part_spec, recorded

LENGTHS = (9, 4, 13)


def test_parts_are_evicted_and_make_one_dataset(tmp_path: Path, lab: Lab) -> None:
    parts = [
        recorded(tmp_path / name, part_spec(name), 101 + number, LENGTHS[number : number + 1])
        for number, name in enumerate(CHANNELS)
    ]
    counts = [len(keys_here(part)) for part in parts]
    for turn in (1, 2):  # the second time, nothing is left to do
        for number, part in enumerate(parts):
            outcome = copy(part, lab.url, evict=True)
            assert (outcome.evicted_files, keys_here(part)) == (counts[number], [])
            assert outcome.missing == (CHANNELS[number + 1 :] if turn == 1 else ())
            report = verify(part)
            assert (report.problems, report.evicted_to) == ([], {lab.url: counts[number]})
        check_whole(lab.copy, part_spec(), LENGTHS)
        assert verify_copy(lab.url, deep=True).problems == []
