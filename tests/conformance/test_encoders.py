"""What every encoder must do, whichever library it is: the same suite for all of them.

They are the ``IMPLEMENTATIONS`` of :mod:`tests.conformance.support`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from yaozarrs import validate_zarr_store

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.compression import CODECS, Codec, Compression
from omewd.model.spec.spec import StreamSpec
from omewd.reader.stored import StoredFrames
from omewd.store.encoders import ENCODERS, select
from omewd.store.encoders.base import Encoder, UnitArray
from omewd.store.encoders.files import zero_key
from tests.conformance.support import (
    IMPLEMENTATIONS,
    LAYOUTS,
    cells_of,
    columns_first,
    decode,
    encode,
    files_under,
    other_reader,
    read_zarrs,
    ring_like,
    unit_block,
    usual_frames,
    write_dataset,
)
from tests.support.frames import Array, make_frame, make_spec


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda implementation: implementation[0].name)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend, which has its record and its encoder in the registries."""
    record, encoder = request.param
    monkeypatch.setitem(BACKENDS, record.name, record)
    monkeypatch.setitem(ENCODERS, record.name, encoder)
    name: str = record.name
    return name


def open_encoder(backend: str, array: UnitArray, scratch: Path, threads: int = 2) -> Encoder:
    return ENCODERS[backend](array, threads=threads, scratch=scratch)


COMPRESSIONS = (None, "blosc-lz4", "blosc-zstd", "zstd")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where a encoder may make its folder: in memory, as in a writer."""
    with tempfile.TemporaryDirectory(prefix="conformance-", dir="/dev/shm") as folder:
        yield Path(folder) / "encoder"


@dataclass(frozen=True)
class Case:
    """One acquisition: what it exercises is in ``about``."""

    about: str
    dims: str
    dtype: str = "uint16"
    compression: str | None = None

    def spec(self, backend: str) -> StreamSpec:
        return make_spec("cam", self.dims, dtype=self.dtype, compression=self.compression, backend=backend)


CASES = (
    Case("2D, plain, ragged frame", "y:33:16,x:47:16", "uint8", "blosc-lz4"),
    Case("2D, shards across y and x", "y:33:8:2,x:47:8:3", "int16", "zstd"),
    Case("2D, one key", "y:32,x:48", "float64"),
    Case("3D, frame a key", "t:4,y:24,x:40", "int32"),
    Case("3D, tiles, small files at once", "t:4,y:33:16,x:47:16", "uint64", "blosc-zstd"),
    Case("3D, chunks of several frames, ragged end", "t:8:3,y:30:16,x:40:16", "float32", "blosc-lz4"),
    Case("3D, shard of whole frames, ragged end", "t:10:1:4,y:24,x:40", "uint16"),
    Case("3D, shard of tiles", "t:8:1:4,y:32:16:2,x:48:16:3", "uint16", "blosc-lz4"),
    Case("3D, shard of tiles, frame and end ragged", "t:7:1:4,y:30:16:2,x:41:16:3", "int8", "blosc-zstd"),
    Case("3D, several ragged shards across the frame", "t:5:1:2,y:37:8:2,x:53:8:3", "uint32"),
    Case("3D, deep chunks in a shard", "t:14:2:3,y:32:16:2,x:48:16", "float16", "blosc-zstd"),
    Case("3D, plain zstd", "t:5:1:2,y:32:16:2,x:48:16:3", "int64", "zstd"),
    Case("3D, z is the frames' axis", "z:5:2,y:16,x:24", "uint8"),
    Case("4D, shard of all channels", "t:5:1:2,c:3:1:3,y:24:12:2,x:40:20:2", "uint16", "blosc-lz4"),
    Case("4D, stored in another order than acquired", "z:4:2,c:3,y:16,x:24", "float32", "zstd"),
    Case("5D, plain", "t:2,c:2,z:3,y:16:8,x:24", "int16", "blosc-zstd"),
    Case("5D, deep and sharded, ragged in t and z", "t:3:2,c:2,z:5:2:2,y:20:8:2,x:24:8", "uint16", "blosc-lz4"),
    Case("5D, another order, sharded in z and t", "z:4:1:2,c:2,t:3:1:2,y:16:8:2,x:24:8:3", "uint8"),
    Case("5D, sharded, floats", "t:2:1:2,c:2:2,z:3:1:3,y:17:8:3,x:25:8:4", "float64", "blosc-lz4"),
    Case("chunk of one pixel", "t:2:1:2,y:3:1:3,x:5:1:5", "uint16", "blosc-lz4"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about.replace(" ", "-"))
def test_another_library_reads_every_frame(backend: str, case: Case, tmp_path: Path, scratch: Path) -> None:
    spec = case.spec(backend)
    reason = ENCODERS[backend].incompatible(cells(spec))
    if reason is not None:
        pytest.skip(reason)
    folder = write_dataset(spec, tmp_path, usual_frames(spec), scratch=scratch)
    plan = Plan.of(spec)
    assert plan.frames_total is not None
    for read in (other_reader(backend), read_zarrs):
        stored = read(folder)
        assert stored.shape[-2:] == spec.frame_shape
        assert stored.dtype == spec.dtype
        for index in range(plan.frames_total):
            expected = make_frame(index, spec.frame_shape, spec.dtype)
            assert stored[plan.place(index)].tobytes() == expected.tobytes(), f"frame {index}"
    validate_zarr_store(str(folder))
    assert not list(scratch.glob("*"))


def cells(spec: StreamSpec) -> UnitArray:
    """The array of a unit, as the backend's encoder is to see it."""
    return UnitArray.of(spec, cell=BACKENDS[spec.backend].encodes)


def unit_array(backend: str, dims: str, dtype: str = "uint16", compression: str | None = None) -> UnitArray:
    """As much, or a skipped test where the encoder can't make it."""
    array = cells(make_spec("cam", dims, dtype=dtype, compression=compression, backend=backend))
    reason = ENCODERS[backend].incompatible(array)
    if reason is not None:
        pytest.skip(reason)
    return array


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Every bit pattern that the dtype has, also NaN with a payload."""
    size = int(np.prod(shape)) * ITEM_BYTES[dtype]
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)


@pytest.mark.parametrize("dims", ["t:2,y:10:8,x:12:8", "t:2:1:2,y:10:4:3,x:12:4:3"], ids=["plain", "sharded"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_every_dtype_is_kept_bit_for_bit_or_refused(
    backend: str, dtype: str, compression: str | None, dims: str, tmp_path: Path, scratch: Path
) -> None:
    spec = make_spec("cam", dims, dtype=dtype, compression=compression, backend=backend)
    array = cells(spec)
    reason = ENCODERS[backend].incompatible(array)
    if reason is not None:
        assert reason.startswith(backend)
        assert dtype in reason or str(compression) in reason
        with pytest.raises(OmewdError) as caught:
            select(spec, tmp_path)
        assert caught.value.code == "backend_unusable"
        assert reason in caught.value.message
        assert select(spec.model_copy(update={"backend": "auto"}), tmp_path)[0].name != backend
        return
    assert select(spec, tmp_path) == (BACKENDS[backend], "")
    encoder = open_encoder(backend, array, scratch, threads=1)
    block = noise(array.shape, dtype)
    assert decode(backend, array, encode(encoder, block), tmp_path).tobytes() == block.tobytes()
    encoder.close()


def test_what_is_refused_is_what_the_libraries_lack() -> None:
    refused = {
        (name, dtype, compression)
        for name in BACKENDS
        for dtype in ITEM_BYTES
        for compression in COMPRESSIONS
        if ENCODERS[name].incompatible(
            cells(make_spec("cam", "t:2,y:8,x:8", dtype=dtype, compression=compression, backend=name))
        )
    }
    expected = {("acquire-zarr", "float16", compression) for compression in COMPRESSIONS}
    assert refused == expected


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_chunk_that_is_too_large_for_blosc_is_refused(backend: str) -> None:
    whole_frame = make_spec("cam", "t:2,y:32768,x:32768", compression="blosc-lz4", backend=backend)
    with pytest.raises(OmewdError, match="over blosc's limit"):
        select(whole_frame, Path("/"))
    for dims, compression in (("t:2,y:32768,x:32768", None), ("t:2,y:32768:1024,x:32768", "blosc-lz4")):
        assert UnitArray.of(make_spec("cam", dims, compression=compression)).unencodable is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("compression", [None, "blosc-lz4"])
def test_the_layout_in_memory_does_not_matter(
    backend: str, compression: str | None, layout: Callable[[Array], Array], scratch: Path
) -> None:
    array = unit_array(backend, "t:4:2:2,c:3:1:3,y:20:8:3,x:24:8:3", compression=compression)
    block = noise(array.shape, array.dtype)
    encoder = open_encoder(backend, array, scratch, threads=1)
    assert encode(encoder, layout(block)) == encode(encoder, block)
    encoder.close()


@pytest.mark.parametrize("dims", ["t:4:1:4,y:256:64:4,x:256:64:4", "t:4:2,y:256:64,x:256:64"], ids=["sharded", "plain"])
@pytest.mark.parametrize("compression", [None, "blosc-lz4", "blosc-zstd"])
def test_the_same_block_gives_the_same_bytes(backend: str, compression: str | None, dims: str, scratch: Path) -> None:
    """A job that is run again must make the same key, whichever thread finishes first."""
    array = unit_array(backend, dims, compression=compression)
    block = noise(array.shape, array.dtype)
    block = block >> 5 * np.arange(len(block), dtype=np.uint16)[:, None, None]  # no two frames compress alike
    encoder = open_encoder(backend, array, scratch)
    first = encode(encoder, block)
    for _ in range(6):
        assert encode(encoder, block) == first
    encoder.close()


SHARDED = "t:8:2:2,y:40:8:3,x:48:8:3"
PLAIN = "t:8:4,y:40:24,x:48:24"


@pytest.mark.parametrize("dims", [SHARDED, PLAIN], ids=["sharded", "plain"])
@pytest.mark.parametrize("compression", [None, "blosc-zstd"])
class TestOneEncoderForManyUnits:
    def test_a_ragged_unit_holds_nothing_of_the_one_before(
        self, backend: str, compression: str | None, dims: str, tmp_path: Path, scratch: Path
    ) -> None:
        array = unit_array(backend, dims, compression=compression)
        ragged = noise((1, *array.shape[1:]), array.dtype, seed=1)
        encoder = open_encoder(backend, array, scratch)
        encode(encoder, noise(array.shape, array.dtype))
        keys = encode(encoder, ragged)
        encoder.close()
        stored = decode(backend, array, keys, tmp_path)
        assert stored[:1].tobytes() == ragged.tobytes()
        assert not stored[1:].any()

    def test_nor_of_one_that_was_given_up(
        self, backend: str, compression: str | None, dims: str, tmp_path: Path, scratch: Path
    ) -> None:
        """A full disk ends a job between two keys; the encoder lives on."""
        array = unit_array(backend, dims, compression=compression)
        ragged = noise((1, *array.shape[1:]), array.dtype, seed=1)
        encoder = open_encoder(backend, array, scratch)
        given_up = cells_of(encoder, noise(array.shape, array.dtype))
        assert list(next(given_up).pieces)
        del given_up
        keys = encode(encoder, ragged)
        encoder.close()
        stored = decode(backend, array, keys, tmp_path)
        assert stored[:1].tobytes() == ragged.tobytes()
        assert not stored[1:].any()

    def test_zero_pixels_have_keys_too(
        self, backend: str, compression: str | None, dims: str, tmp_path: Path, scratch: Path
    ) -> None:
        array = unit_array(backend, dims, compression=compression)
        block = noise(array.shape, array.dtype)
        encoder = open_encoder(backend, array, scratch)
        for part in (slice(None), slice(0, 24)):  # all keys of the unit, then those of the upper rows
            zeroed = block.copy()
            zeroed[..., part, :] = 0
            keys = encode(encoder, zeroed)
            assert set(keys) == set(array.frame_keys)
            assert all(keys.values())
            assert decode(backend, array, keys, tmp_path).tobytes() == zeroed.tobytes()
        encoder.close()

    def test_nothing_of_a_unit_stays_in_the_scratch_folder(
        self, backend: str, compression: str | None, dims: str, scratch: Path
    ) -> None:
        array = unit_array(backend, dims, compression=compression)
        encoder = open_encoder(backend, array, scratch)
        encode(encoder, noise(array.shape, array.dtype))
        assert sum(path.stat().st_size for path in files_under(scratch)) < 10_000
        encoder.close()
        assert not scratch.exists()


@pytest.mark.parametrize("dims", ["t:2,y:6:3,x:8:4", "t:2:1:2,y:6:3:2,x:8:4:2"], ids=["plain", "sharded"])
def test_negative_zero_is_not_the_fill_value(backend: str, dims: str, tmp_path: Path, scratch: Path) -> None:
    array = unit_array(backend, dims, "float32")
    block = np.full(array.shape, -0.0, np.float32)
    encoder = open_encoder(backend, array, scratch)
    assert np.signbit(decode(backend, array, encode(encoder, block), tmp_path)).all()
    encoder.close()


@pytest.mark.parametrize("width", [4096, 4097], ids=["whole MiB", "and a column"])
def test_keys_of_many_pieces(backend: str, width: int, tmp_path: Path, scratch: Path) -> None:
    """16 MiB: pieces may end right at the end of the key, or just before it."""
    array = unit_array(backend, f"t:2,y:2048,x:{width}")
    block = noise(array.shape, array.dtype)
    encoder = open_encoder(backend, array, scratch)
    assert np.array_equal(decode(backend, array, encode(encoder, block), tmp_path), block)
    encoder.close()


@pytest.mark.parametrize("compression", ["blosc-lz4", "blosc-zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_zero_key_is_encoded_as_the_metadata_says(dtype: str, compression: str) -> None:
    """A decoder reads the settings out of the key itself, so reading back would not tell."""
    array = unit_array("zarrs-python", "t:2,y:60:30,x:80:40", dtype, compression)
    _, blosc = array.document["codecs"]
    settings = blosc["configuration"]
    # Blosc 1 header: two versions, flags (bit 0 shuffle, bits 5 to 7 the codec: 1 LZ4, 4 Zstandard), typesize.
    _, _, flags, typesize = bytes(zero_key(array)[:4])
    assert typesize == settings["typesize"]
    assert flags & 1 == (settings["shuffle"] == "shuffle")
    assert flags >> 5 == {"lz4": 1, "zstd": 4}[settings["cname"]]


def test_the_layouts_are_what_they_say() -> None:
    block = noise((2, 3, 4, 5), "uint16")
    for layout in (ring_like, columns_first):
        assert np.array_equal(layout(block), block)
        assert not layout(block).flags.c_contiguous
    assert not ring_like(block).flags.writeable
    spec = make_spec("cam", "t:2,y:4,x:4")
    assert unit_block(spec, Plan.of(spec), 1, lambda i: np.full((4, 4), i, np.uint16)).max() == 1


# c-blosc 1, README_CHUNK_FORMAT: bit 0 of the flags is the byte shuffle, bit 1 memcpy, bit 2 the bit shuffle.
_SHUFFLE_FLAGS = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 4}
LEVELS = (
    "blosc-lz4:1",
    "blosc-lz4:0",
    "blosc-zstd:3+bitshuffle",
    "blosc-lz4+noshuffle",
    "zstd:-7",
    "zstd:9",
    "zstd:22",
)


@pytest.mark.parametrize("dims", ["t:4,y:32,x:48", "t:4:1:2,y:32:16:2,x:48:16:3"], ids=["plain", "sharded"])
@pytest.mark.parametrize("compression", LEVELS)
def test_levels_and_shuffles_are_in_the_metadata_and_in_the_chunks(
    backend: str, compression: str, dims: str, tmp_path: Path, scratch: Path
) -> None:
    spec = make_spec("cam", dims, compression=compression, backend=backend)
    if (backend, compression) == ("acquire-zarr", "zstd:-7"):
        with pytest.raises(OmewdError, match="no levels below 0"):
            select(spec, tmp_path)
        return
    if (reason := ENCODERS[backend].incompatible(cells(spec))) is not None:
        pytest.skip(reason)

    def ramp(index: int) -> Array:
        """A frame that any compressor makes smaller: it copies what it can't."""
        return np.add.outer(np.arange(32), np.arange(48) // 24).astype(spec.dtype) + index

    folder = write_dataset(spec, tmp_path, ramp, scratch=scratch)
    for read in (other_reader(backend), read_zarrs):
        stored = read(folder)
        for index in range(4):
            assert stored[index].tobytes() == ramp(index).tobytes()
    codecs = json.loads((folder / "0/zarr.json").read_text())["codecs"]
    if spec.sharded:
        codecs = codecs[0]["configuration"]["codecs"]
    configuration = codecs[-1]["configuration"]
    parsed = Compression.parse(compression)
    assert parsed is not None
    if not parsed.codec.is_blosc:
        assert configuration["level"] == parsed.level
        return
    shuffle = parsed.shuffle or "shuffle"
    assert (configuration["clevel"], configuration["shuffle"]) == (parsed.level, shuffle)
    keys = [path for path in (folder / "0/c").rglob("*") if path.is_file()]
    assert keys
    for key in keys:  # a chunk is first in its shard, too
        flags = key.read_bytes()[2]
        assert flags & 7 == (2 if parsed.level == 0 else 0) | _SHUFFLE_FLAGS[shuffle]


@pytest.mark.parametrize("dims", ["t:4,y:32,x:48", "t:4:1:2,y:32:16:2,x:48:16:3"], ids=["plain", "sharded"])
def test_another_codec_takes_a_record(
    backend: str, dims: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gzip, which omewd does not offer: every encoder makes it or refuses it, and other libraries read it."""
    monkeypatch.setitem(CODECS, "gzip", Codec("gzip", "gzip", "GZip", "", lowest=0, highest=9, level=1))
    spec = make_spec("cam", dims, compression="gzip:3", backend=backend)
    if backend in ("acquire-zarr", "toy"):
        with pytest.raises(OmewdError, match=r"no (compression )?gzip:3"):
            select(spec, tmp_path)
        return
    folder = write_dataset(spec, tmp_path, usual_frames(spec), scratch=scratch)
    stored = StoredFrames(spec, folder, 0, backend=backend, epoch=1)
    for index in range(4):
        expected = make_frame(index, spec.frame_shape, spec.dtype)
        assert np.array_equal(other_reader(backend)(folder)[index], expected)
        assert np.array_equal(stored.read(index), expected)
