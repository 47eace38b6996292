"""Backends: one record for each. Checks, help, planning, memory counting and what "auto" tries derive from it.

A record says what a backend is without importing anything of it. What it does is in ``omewd/store/encoders``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# What an encoder makes by itself: single chunks, or whole keys (a shard, or a chunk where there are no shards).
Cell = Literal["chunk", "key"]

AUTO = "auto"


@dataclass(frozen=True)
class Package:
    """``module``: what is imported; ``pip``: what installs it."""

    module: str
    pip: str


@dataclass(frozen=True)
class Backend:
    """``encodes``: what a write unit is made of; chunks are put into shards in progress, keys are files at once.

    ``copies``: bytes that a writer holds beside the ring for each byte that it encodes at once: gathered (1), and at
    the peak in the library and encoded. ``needs``: the packages that it cannot do without. ``leaves_zeros_out``:
    whether it stores no chunk that holds the fill value alone. ``local_only``: not for network filesystems.
    ``is_own``: it is omewd's own, and no library that other programs use, too.
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
        """Whether it writes into shards in progress; ``sharded``: whether there are shards at all."""
        return sharded and self.encodes == "chunk"


_ZARR = Package("zarr", "'zarr>=3'")

# In the order in which "auto" tries them. Copies were measured with units of 32 and 64 MiB: 1.5, 2 to 3, 3, 3 to 4
# beside the gathered unit; those of direct are of each chunk that it compresses.
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
            copies=4,
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
    """The name of a backend, or "auto". Raises ValueError that says what there is."""
    if not isinstance(value, str) or value not in {AUTO, *BACKENDS}:
        raise ValueError(f"it is {HELP[:-1]}")
    return value


def first_choice(name: str) -> Backend:
    """The backend of a name; of "auto" the one that it tries first."""
    return next(iter(BACKENDS.values())) if name == AUTO else BACKENDS[name]
