"""omewd-client: what a camera's program needs, without the daemon and without the libraries that write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import omewd
from omewd.dataset.verify import verify
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_spec
from tests.support.places import REPOSITORY

LEFT_OUT = {"__main__.py", "bench", "cli", "copier", "daemon", "health", "web", "writer"}

# Of what is installed, lets in what the wheel requires: numpy, pydantic and theirs.
ONLY_WHAT_IT_REQUIRES = """
import sys
from importlib.machinery import PathFinder

ALLOWED = {"numpy", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}

class Wall:
    def find_spec(self, name, path=None, target=None):
        found = PathFinder.find_spec(name, path)
        installed = found is not None and "site-packages" in (found.origin or "")
        if installed and name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.path[:0] = [sys.argv[1]]
sys.meta_path.insert(0, Wall())
"""

CAMERA = """
import json, sys
import numpy as np
import omewd

assert omewd.__file__.startswith(sys.argv[1])
said = {}
client = omewd.Client()
dims = omewd.parse_dims(sys.argv[2])
client.start_stream(omewd.StreamSpec(name="cam", dimensions=dims, compression=sys.argv[3] or None, ring_slots=8))
digits = [[(index // 100**k) % 100 for k in range(4)] for index in range(24)]
with omewd.connect("cam") as producer:
    for index in range(23):
        pixels = (np.arange(256) * 7 + index * 13) % 101
        pixels[:4] = digits[index]
        producer.append(pixels.astype(np.uint16).reshape(16, 16), metadata={"exposure_time": 0.5})
    with omewd.view("cam") as looking:
        said["latest"] = looking.latest().index
    with producer.claim() as slot:
        pixels = (np.arange(256) * 7 + 23 * 13) % 101
        pixels[:4] = digits[23]
        slot.array[:] = pixels.reshape(16, 16)
said["state"] = client.status("cam")["state"]
said["rows"] = len(omewd.open_ledger(client.status("cam")["path"]))
try:
    with omewd.view("cam") as looking:
        said["first"] = int(looking.frame(0).array[0, 4])
except omewd.OmewdError as error:
    said["error"] = [error.code, str(error)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY / "packaging" / "client", check=True, capture_output=True, timeout=60)
    [built] = folder.glob("*.whl")
    return built


def test_it_has_all_parts_but_those_of_other_processes(wheel: Path) -> None:
    def files(folder: Path) -> set[str]:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".py", ".typed"))
        return {str(path) for path in paths if path.parts[0] not in LEFT_OUT}

    with ZipFile(wheel) as archive:
        packed = {name.removeprefix("omewd/") for name in archive.namelist() if name.startswith("omewd/")}
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
    assert packed == files(Path(omewd.__file__).parent)
    assert set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, re.MULTILINE)) == {"numpy", "pydantic"}
    assert f"Version: {omewd.__version__}\n" in text


@pytest.mark.parametrize(
    ("dims", "compression", "lacks"),
    [
        ("t:24:1,y:16:16,x:16:16", "", None),
        ("t:24:1:4,y:16:16,x:16:16", "", "google-crc32c is not installed; it is needed to read and write shards"),
        ("t:24:1,y:16:16,x:16:16", "zstd", "numcodecs is not installed; it is needed to read compressed chunks"),
    ],
    ids=["plain chunks", "shards", "compressed"],
)
def test_a_camera_needs_no_library_that_writes(
    omewd_daemon: DaemonProcess, tmp_path: Path, wheel: Path, dims: str, compression: str, lacks: str | None
) -> None:
    """It opens a stream, feeds it, looks at it and reads the ledger; an error says what more would take to install."""
    unpacked = tmp_path / "site"
    ZipFile(wheel).extractall(unpacked)
    done = subprocess.run(
        [sys.executable, "-P", "-c", ONLY_WHAT_IT_REQUIRES + CAMERA, str(unpacked), dims, compression],
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMEWD_SOCKET": str(omewd_daemon.socket)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["latest"], said["state"], said["rows"]) == (22, "DONE", 24)
    if lacks is None:
        assert said["first"] == 28
    else:
        [code, text] = said["error"]
        assert (code, text) == ("not_installed", f"{lacks}. Run: pip install {lacks.partition(' ')[0]}")
    dataset = omewd_daemon.data / "cam.ome.zarr"
    check_dataset(dataset, make_spec("cam", dims, compression=compression or None), 24)
    assert verify(dataset).problems == []
