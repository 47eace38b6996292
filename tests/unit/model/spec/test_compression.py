"""The grammar of compressions: what it takes, its canonical form, and what it says of the rest."""

from __future__ import annotations

import pytest

from omewd.errors import OmewdError
from omewd.integrations.ome_writers import stream_fields
from omewd.model.spec.compression import CODECS, SHUFFLES, Compression, canonical
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from tests.support.frames import make_spec


def compression_of(given: object) -> object:
    """What settings of ome-writers with such a compression make of it."""
    return stream_fields({"root_path": "run.ome.zarr", "compression": given}).get("compression")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (None, None),
        ("none", None),
        ("blosc-zstd", "blosc-zstd"),
        ("blosc-zstd:1", "blosc-zstd"),
        ("blosc-zstd:03", "blosc-zstd:3"),
        ("blosc-lz4:0", "blosc-lz4:0"),
        ("blosc-lz4+bitshuffle", "blosc-lz4+bitshuffle"),
        ("blosc-lz4:9+noshuffle", "blosc-lz4:9+noshuffle"),
        ("zstd:-7", "zstd:-7"),
        ("zstd:22", "zstd:22"),
    ],
)
def test_a_text_has_one_form(text: str | None, form: str | None) -> None:
    assert canonical(text) == form
    assert canonical(form) == form
    assert make_spec("cam", "y:8,x:8", compression=text).compression == form


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gzip", "blosc-lz4, blosc-zstd, zstd or none"),
        ("", "or none"),
        ("none:3", "or none"),
        ("blosc-lz4:10", "from 0 to 9, not 10"),
        ("blosc-lz4:-1", "from 0 to 9"),
        ("zstd:23", "from -7 to 22"),
        ("zstd:-8", "from -7 to 22"),
        ("zstd:99999999999", "or none"),
        ("zstd+shuffle", "zstd has no shuffle"),
        ("blosc-zstd+shufle", "noshuffle, shuffle, bitshuffle"),
        ("blosc-zstd:3 ", "or none"),
        ("blosc-zstd:３", "or none"),
        (3, "or none"),
        (["zstd"], "or none"),
    ],
)
def test_what_is_wrong_is_said(text: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        canonical(text)
    with pytest.raises(OmewdError, match=says) as caught:
        StreamSpec.parse({"name": "cam", "dimensions": parse_dims("y:8,x:8"), "compression": text})
    assert caught.value.code == "bad_spec"


def test_every_level_and_shuffle_reads_back_as_it_is_written() -> None:
    for codec in CODECS.values():
        for level in range(codec.lowest, codec.highest + 1):
            for shuffle in (None, *(SHUFFLES if codec.is_blosc else ())):
                compression = Compression(codec, level, shuffle)
                assert Compression.parse(str(compression)) == compression


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"compressor": "blosc1", "codec": "blosc_lz4", "level": 3, "shuffle": 2}, "blosc-lz4:3+bitshuffle"),
        ({"codec": "CompressionCodec.BLOSC_ZSTD", "level": 1, "shuffle": 1}, "blosc-zstd+shuffle"),
        ({"codec": "zstd", "level": 5}, "zstd:5"),
        ({"codec": "zstd", "level": 5, "shuffle": 0}, "zstd:5"),
        ({"codec": "none", "level": 5}, None),
        ("blosc-zstd:3+noshuffle", "blosc-zstd:3+noshuffle"),
        ("none", None),
    ],
)
def test_settings_of_other_programs_map_onto_it(given: object, form: str | None) -> None:
    assert canonical(compression_of(given)) == form


def test_settings_of_other_programs_that_do_not() -> None:
    with pytest.raises(OmewdError, match="compressions have no field 'leve'"):
        compression_of({"codec": "zstd", "leve": 3})
    for odd in ({"codec": "blosc_lz4", "shuffle": 3}, {"codec": "gzip"}, {"codec": "zstd", "level": 2.5}):
        with pytest.raises(ValueError, match=r".+"):
            canonical(compression_of(odd))
