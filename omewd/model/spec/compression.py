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
    """``zarr``: the Zarr v3 codec; ``inner``: the compressor inside blosc, "" for a codec without shuffles."""

    name: str
    zarr: str
    inner: str
    lowest: int
    highest: int
    level: int

    @property
    def is_blosc(self) -> bool:
        return self.zarr == "blosc"


# The default levels are what camera noise is worth: measured on one core with 256 × 256 uint16 tiles, blosc-lz4 5
# encodes 2.6 GB/s at ratio 1.9 (level 1: 1.2 GB/s), blosc-zstd 1 0.52 GB/s at 2.5, zstd 1 0.27 GB/s at 1.9.
# Zstandard has levels down to -131072; below -7 there is nothing to gain.
CODECS = {
    codec.name: codec
    for codec in (
        Codec("blosc-lz4", "blosc", "lz4", lowest=0, highest=9, level=5),
        Codec("blosc-zstd", "blosc", "zstd", lowest=0, highest=9, level=1),
        Codec("zstd", "zstd", "", lowest=-7, highest=22, level=1),
    )
}
NAMES = (*CODECS, "none")
HELP = f"{', '.join(CODECS)} or none; also with a level and a shuffle, as in blosc-zstd:3+bitshuffle."

_GRAMMAR = re.compile(r"(?P<codec>[a-z0-9-]+?)(?::(?P<level>-?[0-9]{1,6}))?(?:\+(?P<shuffle>[a-z]+))?")


@dataclass(frozen=True)
class Compression:
    """``shuffle``: one of :data:`SHUFFLES`; None: "shuffle" for pixels of more than one byte, else "noshuffle"."""

    codec: Codec
    level: int
    shuffle: str | None = None

    @classmethod
    def parse(cls, text: Any) -> Compression | None:
        """What a compression's text means; None for "none" and None. Raises ValueError that says what is wrong."""
        if text is None or text == "none":
            return None
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        codec = CODECS.get(match["codec"]) if match else None
        if match is None or codec is None:
            raise ValueError(f"it is {HELP[:-1]}")
        level = codec.level if match["level"] is None else int(match["level"])
        if not codec.lowest <= level <= codec.highest:
            raise ValueError(f"levels of {codec.name} are from {codec.lowest} to {codec.highest}, not {level}")
        shuffle = match["shuffle"]
        if shuffle is not None and not codec.is_blosc:
            raise ValueError(f"{codec.name} has no shuffle; those of blosc have")
        if shuffle is not None and shuffle not in SHUFFLES:
            raise ValueError(f"a shuffle is one of {', '.join(SHUFFLES)}, not {shuffle}")
        return cls(codec, level, shuffle)

    def __str__(self) -> str:
        """The canonical text: without a level that is the codec's default."""
        level = "" if self.level == self.codec.level else f":{self.level}"
        return f"{self.codec.name}{level}" + (f"+{self.shuffle}" if self.shuffle else "")

    def shuffle_of(self, item_bytes: int) -> str:
        """The shuffle of pixels of so many bytes."""
        return self.shuffle or ("shuffle" if item_bytes > 1 else "noshuffle")


def canonical(text: Any) -> str | None:
    """A compression's canonical text; None without compression. Raises ValueError."""
    compression = Compression.parse(text)
    return None if compression is None else str(compression)
