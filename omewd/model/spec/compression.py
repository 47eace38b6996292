"""Compressions: one record for each codec. Checks, documents, help and encoders derive from it.

A compression is written ``codec[:level][+shuffle]``, such as ``blosc-zstd:3+bitshuffle``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# The Zarr v3 "blosc" codec's names, in the order of c-blosc's numbers.
SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


@dataclass(frozen=True)
class Codec:
    """One codec and its range of levels; ``level`` is the default.

    ``zarr``: the name of the Zarr v3 codec. ``numcodecs``: the class of numcodecs that encodes and decodes it.
    ``inner``: the compressor inside blosc, "" for other codecs. ``settings``: what its document has beside the level.
    """

    name: str
    zarr: str
    numcodecs: str
    inner: str
    lowest: int
    highest: int
    level: int
    settings: tuple[tuple[str, bool], ...] = ()

    @property
    def is_blosc(self) -> bool:
        return self.zarr == "blosc"


# Higher default levels would not pay for camera noise. Measured on one core with camera-like 256 × 256 uint16 tiles:
# blosc-lz4 encodes 4 GB/s at ratio 1.94, whatever the level from 1 to 5 (level 9: 3.3 GB/s, with the same ratio), and
# with bit shuffle 2.9 GB/s at 2.09; blosc-zstd at 1 1.0 GB/s at 2.61 (level 3: 0.33 GB/s at 2.57); zstd at 1 0.4 GB/s
# at 1.96. Zstandard's levels go down to -131072, but below -7 there is nothing to gain.
CODECS = {
    codec.name: codec
    for codec in (
        Codec("blosc-lz4", "blosc", "Blosc", "lz4", lowest=0, highest=9, level=5),
        Codec("blosc-zstd", "blosc", "Blosc", "zstd", lowest=0, highest=9, level=1),
        Codec("zstd", "zstd", "Zstd", "", lowest=-7, highest=22, level=1, settings=(("checksum", False),)),
    )
}
NAMES = (*CODECS, "none")
HELP = f"{', '.join(CODECS)} or none; also with a level and a shuffle, as in blosc-zstd:3+bitshuffle."

_GRAMMAR = re.compile(r"(?P<codec>[a-z0-9-]+?)(?::(?P<level>-?[0-9]{1,6}))?(?:\+(?P<shuffle>[a-z]+))?")


@dataclass(frozen=True)
class Compression:
    """A codec with its settings.

    ``shuffle``: one of :data:`SHUFFLES`, or None for "shuffle" if a pixel has more than one byte, else "noshuffle".
    """

    codec: Codec
    level: int
    shuffle: str | None = None

    @classmethod
    def parse(cls, text: Any) -> Compression | None:
        """Parse a compression's text; returns None for "none" and None. Raises ValueError with the reason."""
        if text is None or text == "none":
            return None
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        codec = CODECS.get(match["codec"]) if match else None
        if match is None or codec is None:
            raise ValueError(f"must be {HELP[:-1]}")
        level = codec.level if match["level"] is None else int(match["level"])
        if not codec.lowest <= level <= codec.highest:
            raise ValueError(f"{codec.name} has levels from {codec.lowest} to {codec.highest}, not {level}")
        shuffle = match["shuffle"]
        if shuffle is not None and not codec.is_blosc:
            raise ValueError(f"{codec.name} has no shuffle; only the blosc codecs have one")
        if shuffle is not None and shuffle not in SHUFFLES:
            raise ValueError(f"the shuffle must be one of {', '.join(SHUFFLES)}, not {shuffle}")
        return cls(codec, level, shuffle)

    def __str__(self) -> str:
        """The canonical text; it omits the codec's default level."""
        level = "" if self.level == self.codec.level else f":{self.level}"
        return f"{self.codec.name}{level}" + (f"+{self.shuffle}" if self.shuffle else "")

    def shuffle_of(self, item_bytes: int) -> str:
        """The shuffle for pixels of ``item_bytes`` bytes."""
        return self.shuffle or ("shuffle" if item_bytes > 1 else "noshuffle")


def canonical(text: Any) -> str | None:
    """A compression's canonical text; None without compression. Raises ValueError."""
    compression = Compression.parse(text)
    return None if compression is None else str(compression)
