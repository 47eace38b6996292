"""The pure parts of copying: URLs, digests, pace, order, and what no text may show."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.copier import digest
from omewd.copier.access.credentials import check_sendable, redacted, s3_settings, secrets_of
from omewd.copier.engine import LocalFile
from omewd.copier.order import belongs, is_done, phases
from omewd.copier.pace import Pace
from omewd.dataset.copies.manifest import Copied
from omewd.errors import OmewdError
from omewd.model.address import Address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://lab/a/run.ome.zarr/", Address("s3", "lab", "a/run.ome.zarr")),
        ("gs://lab-2/run.ome.zarr", Address("gs", "lab-2", "run.ome.zarr")),
        ("az://box/r", Address("az", "box", "r")),
        ("file:///mnt/server/run.ome.zarr", Address("file", "", "mnt/server/run.ome.zarr")),
    ],
)
def test_a_url_is_an_address_and_the_other_way_round(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert address.url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "s3://lab",
        "s3:///x",
        "s3://la b/x",
        "s3://lab/a//b",
        "s3://lab/../b",
        "s3://lab/./b",
        "s3://lab/a\x07",
        "s3://lab:80/x",
        "s3://me@lab/x",
        "s3://lab/x?y",
        "s3://lab/x#y",
        "s3://lab/" + "x" * 2000,
        "s3://[lab/x",
        "http://lab/x",
        "file://x",
        "",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(OmewdError) as error:
        Address.parse(url)
    assert error.value.code == "bad_url"
    assert "me@" not in str(error.value)


def test_the_digest_of_one_part_is_its_md5_and_that_of_several_is_made_of_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digest, "PART_BYTES", 4)
    assert digest.digest_of([b"ab", b"cd"], 4) == (4, hashlib.md5(b"abcd").hexdigest())
    parts = b"".join(hashlib.md5(part).digest() for part in (b"abcd", b"efgh", b"i"))
    assert digest.digest_of([b"abcdefghi"], 9) == (9, f"{hashlib.md5(parts).hexdigest()}-3")
    assert digest.digest_of([], 0) == (0, hashlib.md5(b"").hexdigest())


@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_a_digest_does_not_depend_on_how_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "PART_BYTES", 8)
        places = [0, *sorted(cuts), len(data)]
        pieces = [data[a:b] for a, b in pairwise(places)]
        assert digest.digest_of(pieces, len(data)) == digest.digest_of([data], len(data))


def test_an_object_has_no_more_parts_than_s3_takes() -> None:
    for size in (1, digest.PART_BYTES * digest.MOST_PARTS, digest.PART_BYTES * digest.MOST_PARTS + 1, 5 << 40):
        assert -(-size // digest.part_bytes(size)) <= digest.MOST_PARTS
    assert digest.part_bytes(digest.PART_BYTES * digest.MOST_PARTS) == digest.PART_BYTES


def test_a_pace_is_kept_by_all_together() -> None:
    pace = Pace(100.0)
    assert [pace.wait_s(50, 10.0) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert pace.wait_s(50, 20.0) == 0.0  # what was not used is gone
    assert Pace(None).wait_s(1 << 40, 0.0) == 0.0


def test_metadata_come_after_the_ledger_and_the_root_last() -> None:
    paths = ["zarr.json", "omewd/zarr.json", "omewd/ledger.jsonl", "0/zarr.json", "0/c/0", "0/c/1", "note.txt"]
    sizes = {"0/c/1": 9}
    order = [[file.path for file in phase] for phase in phases(LocalFile(p, sizes.get(p, 1), 0) for p in paths)]
    assert order == [
        ["0/c/1", "0/c/0", "note.txt"],
        ["omewd/ledger.jsonl"],
        ["0/zarr.json", "omewd/zarr.json"],
        ["zarr.json"],
    ]


def test_a_file_that_has_changed_is_not_done() -> None:
    copied = {"a": Copied("a", 3, 5)}
    assert is_done(LocalFile("a", 3, 5), copied)
    assert not is_done(LocalFile("a", 4, 5), copied)
    assert not is_done(LocalFile("a", 3, 6), copied)
    assert not is_done(LocalFile("b", 3, 5), copied)


def test_what_only_writers_and_copies_need_is_not_copied() -> None:
    others = ["omewd/copies/x.jsonl", "omewd/staging/0-0", "omewd/user-metadata-1"]
    assert [path for path in [*others, "omewd/zarr.json", "0/c/0"] if belongs(path)] == ["omewd/zarr.json", "0/c/0"]


def test_profile_files_give_what_the_environment_has_not(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id=A\naws_secret_access_key=B\n")
    (tmp_path / ".aws" / "config").write_text("[default]\nregion=r\n[profile other]\nregion=o\n")
    home = {"HOME": str(tmp_path)}
    keys = {"access_key_id": "A", "secret_access_key": "B"}
    assert s3_settings(home) == {**keys, "region": "r"}
    assert s3_settings({**home, "AWS_REGION": "x"}) == keys
    assert s3_settings({**home, "AWS_ACCESS_KEY_ID": "x"}) == {"region": "r"}
    assert s3_settings({**home, "AWS_PROFILE": "other"}) == {"region": "o"}
    (tmp_path / ".aws" / "config").write_text("no section")
    with pytest.raises(OmewdError, match="can't be read"):
        s3_settings(home)


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"AWS_ENDPOINT_URL": "s3.lab.example"}, {}),
        ({"AWS_ENDPOINT": "https://me:hush-hush@s3.lab.example"}, {}),
        ({"AWS_ENDPOINT_URL": "https://s3.lab.example"}, {"endpoint": ""}),
        ({"AWS_ACCESS_KEY_ID": "AK\n"}, {}),
        ({"AWS_SESSION_TOKEN": "hush-hush"}, {"session_token": "ü"}),
    ],
)
def test_what_obstore_does_not_survive_is_refused(environment: dict[str, str], settings: dict[str, str]) -> None:
    with pytest.raises(OmewdError) as error:
        check_sendable(environment, settings)
    assert error.value.code == "store_refused"
    assert "hush-hush" not in str(error.value)


def test_a_key_of_a_setting_counts_more_than_its_variable() -> None:
    settings = {"endpoint": "http://127.0.0.1:9000/s3", "access_key_id": "AK", "session_token": "a/b+c="}
    check_sendable({"AWS_ENDPOINT_URL": "https://s3.lab.example", "AWS_ACCESS_KEY_ID": "\n"}, settings)


def test_no_text_shows_a_secret() -> None:
    secrets = secrets_of({"AWS_SECRET_ACCESS_KEY": "hush-hush", "HOME": "/home/me"}, {"session_token": "tokentoken"})
    assert secrets == ["tokentoken", "hush-hush"]
    text = (
        "PUT http://h/p?X-Amz-Signature=abc hush-hush tokentoken /home/me <AWSAccessKeyId>AKID</AWSAccessKeyId> sig=q"
    )
    assert redacted(text, secrets) == "PUT http://h/p … … /home/me … …"


def test_no_text_shows_a_secret_as_servers_and_urls_have_it() -> None:
    secrets = secrets_of({"AWS_SESSION_TOKEN": "a/b+c=&d"}, {})
    text = "GET https://me:password@h/p a%2Fb%2Bc%3D%26d <Token>a/b+c=&amp;d</Token> me@h"
    assert redacted(text, secrets) == "GET https://h/p … <Token>…</Token> me@h"
