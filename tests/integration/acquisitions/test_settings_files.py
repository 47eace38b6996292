"""``omewd start-stream --settings-file``: files of ome-writers and of useq open streams as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import useq
from ome_writers import AcquisitionSettings, Channel, Dimension

from tests.support.daemons import DaemonProcess


def test_files_of_other_programs_open_streams(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    settings = AcquisitionSettings(
        root_path="by-writers.ome.zarr",
        dimensions=[
            Dimension(name="c", coords=[Channel(name="DAPI", color="blue"), Channel(name="GFP", color="#0f0")]),
            Dimension(name="y", count=32, type="space", unit="um", scale=0.5),
            Dimension(name="x", count=32, type="space", unit="um", scale=0.5),
        ],
        dtype="uint8",
        format="tensorstore",
    )
    sequence = useq.MDASequence(
        stage_positions=[(1, 2), (3, 4)],
        channels=["DAPI", {"config": "GFP", "do_stack": False}],
        z_plan={"range": 4, "step": 2},
    )
    (tmp_path / "writers.json").write_text(settings.model_dump_json())
    (tmp_path / "sequence.json").write_text(sequence.model_dump_json())

    started = omewd_daemon.omewd("start-stream", "--json", "-f", str(tmp_path / "writers.json"))
    assert started.returncode == 0, started.stderr
    status = json.loads(started.stdout)
    assert (status["name"], status["backend"], status["frames"]["declared"]) == ("by-writers", "tensorstore", 2)

    sequence_file = ("-f", str(tmp_path / "sequence.json"))
    started = omewd_daemon.omewd("start-stream", "seq", "--json", *sequence_file, "-d", "y:64:32,x:64:32")
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["frames"]["declared"] == 12

    refused = omewd_daemon.omewd("start-stream", "other", *sequence_file)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "the size of the frame" in refused.stderr
    assert "--dims y:2048" in refused.stderr

    with omewd_daemon.connect("by-writers") as producer:
        producer.append(np.zeros((32, 32), np.uint8))
        producer.append(np.ones((32, 32), np.uint8))
    omewd_daemon.client.stop_stream("seq")
    omewd_daemon.client.wait("seq", timeout=60)
    image = json.loads((omewd_daemon.data / "by-writers.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert [channel["color"] for channel in image["omero"]["channels"]] == ["0000FF", "00FF00"]
    assert (omewd_daemon.data / "seq.ome.zarr" / "1" / "zarr.json").exists()
