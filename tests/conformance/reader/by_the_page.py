"""A reader written after docs/internals and docs/reference/dataset.md alone: nothing of omewd is imported.

It finds frames by the ledger, and reads their chunks out of shards in progress, shards, or plain chunks. That it passes
the suite shows that the pages say enough.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.producer.by_the_page import Control, RefusedError

Pixels = np.ndarray[Any, Any]
ABSENT = 2**64 - 1


class ReaderByThePage:
    """The frames of a stream with a single source, at full resolution."""

    def __init__(self, socket: Path, name: str) -> None:
        control = Control(socket)
        status, descriptors = control.ask("view", name=name)
        for descriptor in descriptors:
            os.close(descriptor)
        control.socket.close()
        self._dataset = Path(status["path"])
        self._spec = self._read_json("omewd/zarr.json")["attributes"]["omewd"]["stream"]
        has_positions = any(dim["type"] == "position" for dim in self._spec["dimensions"])
        series = self._read_json("OME/zarr.json")["attributes"]["ome"]["series"] if has_positions else [""]
        self._folders = [f"{image}/0" if image else "0" for image in series]

    def _read_json(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self._dataset / path).read_text())
        return document

    # -- the ledger ------------------------------------------------------------------------------

    def _row(self, index: int) -> dict[str, Any]:
        """The last line that has the frame index counts."""
        found: dict[str, Any] | None = None
        for line in (self._dataset / "omewd" / "ledger.jsonl").read_bytes().split(b"\n")[:-1]:
            row = json.loads(line)
            if "frame" in row and row["frame"] <= index < row["frame"] + row.get("count", 1):
                found = row
        if found is None or found.get("gap") == "lost":
            raise RefusedError("no_frame", f"the ledger does not have frame {index}")
        return found

    def metadata(self, index: int) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._row(index).get("metadata")
        return found

    # -- pixels ----------------------------------------------------------------------------------

    def frame(self, index: int) -> Pixels:
        row = self._row(index)
        height, width = (dim["count"] for dim in self._spec["dimensions"][-2:])
        frame = np.zeros((height, width), self._spec["dtype"])
        if "gap" in row:
            return frame
        folder = self._folders[row["image"]]
        array = self._read_json(f"{folder}/zarr.json")
        shard, codecs = array["chunk_grid"]["configuration"]["chunk_shape"], array["codecs"]
        sharded = codecs[0]["name"] == "sharding_indexed"
        chunk = codecs[0]["configuration"]["chunk_shape"] if sharded else shard
        codecs = codecs[0]["configuration"]["codecs"] if sharded else codecs
        outer = list(row["index"].values())
        for y, x in itertools.product(range(-(-height // chunk[-2])), range(-(-width // chunk[-1]))):
            at = [*(place // size for place, size in zip(outer, chunk, strict=False)), y, x]
            grid = [size // part for size, part in zip(shard, chunk, strict=True)]
            key = [place // count for place, count in zip(at, grid, strict=True)]
            number = int(np.ravel_multi_index([place % count for place, count in zip(at, grid, strict=True)], grid))
            data = self._chunk(folder, row, shard, key, number if sharded else None, math.prod(grid))
            pixels = decoded(data, codecs).view(self._spec["dtype"]).reshape(chunk)
            plane = pixels[tuple(place % size for place, size in zip(outer, chunk, strict=False))]
            part = frame[y * chunk[-2] : (y + 1) * chunk[-2], x * chunk[-1] : (x + 1) * chunk[-1]]
            part[:] = plane[: part.shape[0], : part.shape[1]]
        return frame

    def _chunk(
        self, folder: str, row: dict[str, Any], shard: list[int], key: list[int], number: int | None, chunks: int
    ) -> bytes:
        """The stored bytes of a chunk; ``number``: which one of its shard, None without shards."""
        path = self._dataset / folder / "c" / "/".join(map(str, key))
        for _ in range(5):
            if number is None:
                return self._whole(path)
            staged = self._dataset / "omewd" / "staging" / self._staged_name(row, shard, key)
            try:
                with staged.with_name(staged.name + ".table").open("rb") as table, staged.open("rb") as data:
                    entries = table.read()
                    if entries[:8] == b"OMEWDSHD":
                        offset, length = struct.unpack_from("<QQ", entries, 16 + 16 * number)
                        if not length:
                            break
                        data.seek(offset)
                        return data.read(length)
            except FileNotFoundError:
                pass
            if path.exists():
                return self._of_shard(path, number, chunks)
        raise RefusedError("not_stored", f"chunk {number} of {path} is not there")

    def _staged_name(self, row: dict[str, Any], shard: list[int], key: list[int]) -> str:
        unit = 0
        sizes = dict(zip(row["index"], shard, strict=False))
        for dim in self._spec["dimensions"][:-2]:
            is_position = dim["type"] == "position"
            place = row["image"] if is_position else row["index"][dim["name"]]
            size = 1 if is_position else sizes[dim["name"]]
            unit = unit * -(-(dim["count"] or 1) // size) + place // size
        return f"shard-0-0-{unit}-{key[-2]}-{key[-1]}"

    def _whole(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise RefusedError("not_stored", f"{path} is not there") from None

    @staticmethod
    def _of_shard(path: Path, number: int, chunks: int) -> bytes:
        import google_crc32c

        shard = path.read_bytes()
        index = shard[-16 * chunks - 4 :]
        if len(index) < 16 * chunks + 4 or google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise RefusedError("not_stored", f"{path} has a torn index")
        offset, length = struct.unpack_from("<QQ", index, 16 * number)
        if offset == ABSENT:
            raise RefusedError("not_stored", f"chunk {number} is not in {path}")
        return shard[offset : offset + length]

    def close(self) -> None:
        pass


def decoded(data: bytes, codecs: list[dict[str, Any]]) -> Pixels:
    """The bytes of a chunk's pixels, by the codecs that its array's zarr.json names."""
    import numcodecs

    for codec in reversed(codecs):
        if codec["name"] in ("blosc", "zstd"):
            data = (numcodecs.Blosc() if codec["name"] == "blosc" else numcodecs.Zstd()).decode(data)
    return np.frombuffer(data, np.uint8)
