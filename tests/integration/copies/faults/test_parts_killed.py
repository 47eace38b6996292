"""Copies of the parts of an acquisition, killed at random over a bad network: one dataset, exact in the end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from omewd.copier.verify import verify_copy
from omewd.dataset.copies.manifest import FOLDER
from omewd.dataset.verify import verify
from tests.support.copies import Lab
from tests.support.parts import CHANNELS, check_whole, part_spec, recorded
from tests.support.s3 import FAULTS, Sometimes

KILLS = int(os.environ.get("OMEWD_COPY_KILLS", "6"))
LENGTHS = (30, 17, 24)


def test_row_35_kills_and_faults_at_random(tmp_path: Path, lab: Lab) -> None:
    """$OMEWD_COPY_KILLS kills; three copies at a time, of one source each, on one place after another."""
    seed = int(os.environ.get("OMEWD_SEED", "1"))
    chance = random.Random(seed)
    datasets = [
        recorded(tmp_path / name, part_spec(name, dims="t:inf:1:2,c:3,y:32:16:2,x:32"), 101 + number, [LENGTHS[number]])
        for number, name in enumerate(CHANNELS)
    ]
    done = copies = 0
    while done < KILLS or not copies:
        lab.proxy.faults = Sometimes(chance.randrange(1 << 30), FAULTS, 0.05)
        run = [sys.executable, "-m", "omewd", "copy", "--limit", "200kB/s", "--json"]
        processes = [
            subprocess.Popen([*run, str(dataset), lab.url], stdout=subprocess.PIPE, text=True) for dataset in datasets
        ]
        said = []
        for process in chance.sample(processes, len(processes)):
            try:
                said.append(process.communicate(timeout=chance.random() * (3 if done < KILLS else 60))[0])
            except subprocess.TimeoutExpired:
                process.kill()
                done += 1
                said.append(process.communicate()[0])
        lab.proxy.faults = lambda *_: None
        assert not any('"output_exists"' in text for text in said), (seed, said)
        if (lab.copy / "zarr.json").exists():  # a copy that opens is complete
            check_whole(lab.copy, part_spec(dims="t:inf:1:2,c:3,y:32:16:2,x:32"), LENGTHS)
        if all(process.returncode == 0 for process in processes):
            assert verify_copy(lab.url, deep=True).problems == [], f"seed {seed}"
            assert verify(lab.copy).problems == []
            copies += 1
            # Then all of it once more, to a place where nothing is yet.
            for dataset in datasets:
                for path in (dataset / FOLDER).iterdir():
                    path.unlink()
            lab.number += 1
