"""Backends: one record for each. Checks, help, planning, memory budget and the order of "auto" derive from it.

A record describes a backend without importing any of it. The code of backends is in ``omewd/store/encoders``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# What an encoder makes: single chunks, or whole keys (a shard, or without sharding a chunk).
Cell = Literal["chunk", "key"]

AUTO = "auto"


@dataclass(frozen=True)
class Package:
    """A required package. ``module``: the module to import. ``pip``: the argument of pip install."""

    module: str
    pip: str


@dataclass(frozen=True)
class Backend:
    """One backend. ``encodes``: the cells of a write unit; chunks go into shards in progress, keys become files.

    ``copies``: the bytes that a writer holds beside the ring for each byte that it encodes at once: 1 gathered, and the
    rest at the peak inside the library and encoded. ``needs``: the required packages. ``leaves_zeros_out``: whether it
    does not store chunks that only hold the fill value. ``local_only``: not for network filesystems. ``is_own``:
    whether it is omewd's own, not a library that other programs use, too.
    """

    name: str
    about: str
    encodes: Cell
    copies: int
    needs: tuple[Package, ...]
    leaves_zeros_out: bool = False
    local_only: bool = False
    is_own: bool = False

    def fills_shards(self, *, sharded: bool) -> bool:
        """Whether its cells go into shards in progress. ``sharded``: whether the array is sharded."""
        return sharded and self.encodes == "chunk"


_ZARR = Package("zarr", "'zarr>=3'")

# In the order in which "auto" tries them. The copies were measured with units of 32 and 64 MiB: 1.5, 2 to 4, 3, 3 to 4
# beside the gathered unit. Those of direct are for each chunk that it is compressing.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "direct",
            "omewd's own encoder: writes chunk by chunk, past the page cache",
            encodes="chunk",
            copies=3,
            needs=(Package("numcodecs", "numcodecs"), Package("google_crc32c", "google-crc32c")),
            local_only=True,
            is_own=True,
        ),
        Backend(
            "tensorstore",
            "Google's library; the fastest for network filesystems",
            encodes="key",
            copies=3,
            needs=(Package("tensorstore", "tensorstore"),),
        ),
        Backend(
            "acquire-zarr",
            "the library of the Acquire project",
            encodes="key",
            copies=5,
            needs=(Package("acquire_zarr", "acquire-zarr"),),
            leaves_zeros_out=True,
        ),
        Backend(
            "zarrs-python",
            "zarr-python with the codecs of zarrs, in Rust",
            encodes="key",
            copies=5,
            needs=(_ZARR, Package("zarrs", "'omewd[zarrs]'")),
            leaves_zeros_out=True,
        ),
        Backend("zarr-python", "the reference library", encodes="key", copies=4, needs=(_ZARR,)),
    )
}
NAMES = (AUTO, *BACKENDS)
HELP = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}."


def backend_name(value: Any) -> str:
    """Check the name of a backend, or "auto". Raises ValueError that lists the names."""
    if not isinstance(value, str) or value not in {AUTO, *BACKENDS}:
        raise ValueError(f"it is {HELP[:-1]}")
    return value


def first_choice(name: str) -> Backend:
    """The backend with this name; for "auto", the one that is tried first."""
    return next(iter(BACKENDS.values())) if name == AUTO else BACKENDS[name]
