"""Chunks compressed into a buffer: any decoder reads them, with and without c-blosc's own function."""

from __future__ import annotations

import ctypes
from typing import Any

import numcodecs
import numpy as np
import pytest

from omewd.store.encoders.compress import BloscCompressor, Compressor, compressor

Array = np.ndarray[Any, Any]
ALL = ["blosc-lz4", "blosc-lz4:0", "blosc-lz4:9+bitshuffle", "blosc-zstd+noshuffle", "zstd", "zstd:-7"]


def decoder(compression: str) -> Any:
    return numcodecs.Blosc() if compression.startswith("blosc") else numcodecs.Zstd()


def chunks_of(kind: str, chunk: int) -> Array:
    rng = np.random.default_rng(chunk)
    if kind == "noise":
        return rng.integers(0, 65536, (5, chunk), np.uint16)
    return rng.poisson(20, (5, chunk)).astype(np.uint16)


@pytest.fixture(params=["c-blosc", "numcodecs"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A build of numcodecs that exports c-blosc, and one that does not."""
    if request.param == "numcodecs":

        class Hidden:
            def __init__(self, path: str) -> None:
                assert path == numcodecs.blosc.__file__

        monkeypatch.setattr(ctypes, "CDLL", Hidden)
    return str(request.param)


@pytest.mark.parametrize("kind", ["noise", "camera"])
@pytest.mark.parametrize("chunk", [1, 7, 4096, 100_000])
@pytest.mark.parametrize("compression", ALL)
def test_chunks_lie_one_behind_the_other(library: str, compression: str, chunk: int, kind: str) -> None:
    packer = compressor(compression, "uint16")
    assert packer is not None
    assert isinstance(packer, BloscCompressor) == (library == "c-blosc" and compression.startswith("blosc"))
    chunks = chunks_of(kind, chunk)
    room = len(chunks) * packer.room(chunks[0].nbytes)
    out = np.full(room + 64, 170, np.uint8)
    sizes = packer.encode_into(chunks, out[:room])
    assert sizes.dtype == np.uint64
    assert len(sizes) == len(chunks)
    assert (out[room:] == 170).all()
    end = 0
    for size, chunk_pixels in zip(sizes.tolist(), chunks, strict=True):
        encoded = out[end : end + size].tobytes()
        assert encoded == packer.encode(chunk_pixels)
        assert np.array_equal(np.frombuffer(decoder(compression).decode(encoded), np.uint16), chunk_pixels)
        end += size


def test_c_blosc_is_found_in_this_build_of_numcodecs() -> None:
    """Otherwise small chunks are compressed at two thirds of the speed."""
    assert hasattr(ctypes.CDLL(numcodecs.blosc.__file__), "blosc_compress_ctx")


def test_an_error_of_the_codec_is_raised() -> None:
    packer = compressor("blosc-lz4", "uint16")
    assert isinstance(packer, BloscCompressor)
    packer._name = b"no such codec"
    with pytest.raises(RuntimeError, match="could not compress a chunk of 64 bytes"):
        packer.encode_into(np.zeros((1, 32), np.uint16), np.zeros(1000, np.uint8))


def test_a_buffer_that_is_too_small_is_not_overrun() -> None:
    packer = compressor("blosc-lz4", "uint16")
    assert packer is not None
    with pytest.raises(ValueError, match="the buffer has 100 bytes, and 3 chunks of 64 may take"):
        packer.encode_into(np.zeros((3, 32), np.uint16), np.zeros(100, np.uint8))


def test_no_compression() -> None:
    assert compressor(None, "uint16") is None
    assert Compressor.room(1 << 20) > 1 << 20
