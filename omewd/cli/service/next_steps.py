"""What to do after the demo."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

_TEXT = """
What next? Look at it
    in a viewer of OME-Zarr 0.5, such as napari with napari-ome-zarr: open {dataset}
    {python} -c {look}
    {omewd} ledger {dataset}
Verify it
    {omewd} verify {dataset}
Stream your own camera: start the daemon in the folder where datasets should go, open a stream from another terminal
    {omewd} serve
    {omewd} start-stream cam0 --dims {dims}
and hand frames over in the camera's program, here frames of {size} × {size} pixels of uint16
    import omewd
    with omewd.connect("cam0") as producer:
        producer.append(frame)
The tutorial goes on from there: docs/tutorial.md
"""


def next_steps(dataset: Path, dims: str, size: int) -> str:
    """Lines to be copied, with the programs of this environment; what is typed is indented by four spaces."""
    python = _shortest(Path(sys.executable))
    program = Path(sys.executable).parent / "omewd"
    return _TEXT.format(
        dataset=shlex.quote(str(dataset)),
        look=shlex.quote(f'import zarr; print(zarr.open_array({json.dumps(str(dataset / "0"))}, mode="r")[-1])'),
        dims=dims,
        size=size,
        omewd=_shortest(program) if program.exists() else f"{python} -m omewd",
        python=python,
    )


def _shortest(program: Path) -> str:
    """The name of a program if the shell finds this one by it, else its path."""
    found = shutil.which(program.name)
    return program.name if found and Path(found) == program else shlex.quote(str(program))
