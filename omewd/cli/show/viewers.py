"""Opens a stream's dataset in a viewer of the desktop, as it is now."""

from __future__ import annotations

from typing import Any

from omewd.errors import OmewdError
from omewd.reader.zarr_store import LiveStore
from omewd.store.format.libraries import required

VIEWERS = ("napari", "ndv")


def open_in(viewer: str, store: LiveStore, folder: str, name: str) -> None:
    """Show an image of a dataset at all resolutions; returns when the viewer is closed.

    ``folder``: of the image, "" for the dataset itself. Raises OmewdError ``not_installed``, ``no_frame``.
    """
    shows = required(viewer, "open the stream there")
    arrays = required("dask.array", "give frames to a viewer as it asks for them", "'dask[array]'")
    zarr = required("zarr", "read the dataset")
    group = zarr.open_group(store, path=folder, mode="r")
    multiscale: Any = group.attrs["ome"]["multiscales"][0]
    datasets = multiscale["datasets"]
    levels = [arrays.from_zarr(group[dataset["path"]]) for dataset in datasets]
    if 0 in levels[0].shape:
        raise OmewdError("no_frame", f"stream {name!r} has nothing on disk yet", "Wait for its camera")
    if viewer == "ndv":
        shows.imshow(levels[0])
        return
    channel = next((n for n, axis in enumerate(multiscale["axes"]) if axis.get("type") == "channel"), None)
    scale = list(datasets[0]["coordinateTransformations"][0]["scale"])
    if channel is not None:
        del scale[channel]
    several = len(levels) > 1
    shows.imshow(levels if several else levels[0], multiscale=several, channel_axis=channel, scale=scale, name=name)
    shows.run()
