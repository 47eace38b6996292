"""Tables of stores in the configuration file: which counts, what is wrong with one, and who may read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from omewd.copier.access.tables import VARIABLE, Table, problems, table_for
from omewd.errors import OmewdError
from tests.support.pages import blocks
from tests.support.places import DOCS

URL = "s3://lab/runs/cam.ome.zarr"
SECRET = "hush-hush-hush"
KEYS = f'access_key_id = "AKID"\nsecret_access_key = "{SECRET}"\n'


def environment(folder: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    path = folder / "omewd.toml"
    path.write_text(text)
    path.chmod(mode)
    return {VARIABLE: str(path)}


def refused(env: dict[str, str], url: str = URL) -> str:
    with pytest.raises(OmewdError) as error:
        table_for(url, env)
    assert error.value.code == "store_refused"
    assert SECRET not in str(error.value)
    assert str(error.value) in [str(problem) for problem in problems(env)]
    return str(error.value)


@pytest.mark.parametrize(
    ("url", "region"),
    [
        (URL, "of the folder"),
        ("s3://lab/runs", "of the folder"),
        ("s3://lab/runs2/x", "of the bucket"),
        ("s3://lab2/runs/x", None),
        ("gs://lab/runs/x", None),
    ],
)
def test_the_longest_prefix_counts(tmp_path: Path, url: str, region: str | None) -> None:
    env = environment(
        tmp_path,
        '[stores."s3://lab"]\nregion="of the bucket"\n[stores."s3://lab/runs/"]\nregion="of the folder"\n',
        0o644,
    )
    assert list(problems(env)) == []
    found = table_for(url, env)
    assert (found.options["region"] if found else None) == region


def test_a_table_gives_options_and_shows_none_of_them(tmp_path: Path) -> None:
    env = environment(tmp_path, f'[stores."{URL}"]\n{KEYS}endpoint = "http://s3.lab"\nallow_http = true\n')
    found = table_for(URL, env)
    assert found is not None
    keys = {"access_key_id": "AKID", "secret_access_key": SECRET}
    assert found.options == {**keys, "aws_endpoint_url_s3": "http://s3.lab"}
    assert found.allow_http
    assert SECRET not in repr(found)


def test_buckets_in_the_name_of_the_host(tmp_path: Path) -> None:
    env = environment(tmp_path, '[stores."s3://lab"]\nendpoint = "https://s3.example:9000"\npath_style = false\n')
    found = table_for(URL, env)
    assert found is not None
    assert found.options["aws_endpoint_url_s3"] == "https://lab.s3.example:9000"
    assert found.options["virtual_hosted_style_request"] == "true"


def test_secrets_in_files(tmp_path: Path) -> None:
    """Beside the configuration, or where systemd puts credentials; the configuration may then be open."""
    text = '[stores."az://box"]\naccount_name = "lab"\naccount_key_file = "key"\n'
    env = environment(tmp_path, text, 0o644)
    assert "key can't be read" in refused(env, "az://box/x")
    (tmp_path / "key").write_text(f"{SECRET}\n")
    (tmp_path / "key").chmod(0o644)
    assert "chmod o=" in refused(env, "az://box/x")
    (tmp_path / "key").chmod(0o640)
    assert table_for("az://box/x", env) == Table({"account_name": "lab", "account_key": SECRET})
    (tmp_path / "by-systemd").mkdir()
    (tmp_path / "by-systemd" / "key").touch(0o400)
    assert "holds no secret" in refused({**env, "CREDENTIALS_DIRECTORY": str(tmp_path / "by-systemd")}, "az://box/x")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_secrets_that_everybody_can_read_are_refused(tmp_path: Path, mode: int) -> None:
    assert "chmod o=" in refused(environment(tmp_path, f'[stores."s3://lab"]\n{KEYS}', mode))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('regoin = "x"', "unknown key 'regoin'"),
        ('account_key = "x"', "unknown key"),
        ("region = 1", "must be a text"),
        ('region = ""', "must be a text"),
        ('allow_http = "yes"', "true or false"),
        ('endpoint = "s3.lab"', "is no address"),
        ('endpoint = "https://me:hush-hush-hush@s3.lab"', "is no address"),
        ('endpoint = "http://s3.lab"', "is not encrypted"),
        ('access_key_id = "A"', "without secret_access_key"),
        (f'secret_access_key = "{SECRET}"', "without access_key_id"),
        (f'{KEYS}profile = "lab"', "a profile and keys"),
        (f'{KEYS}secret_access_key_file = "x"', "Drop one"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, table: str, said: str) -> None:
    assert said in refused(environment(tmp_path, f'[stores."s3://lab"]\n{table}\n'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'[stores."s3://lab"]\nsecret_access_key = {SECRET}', "is not TOML"),
        ("stores = 1", "must hold tables"),
        ('[stores]\n"s3://lab" = 1', "must hold tables"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(environment(tmp_path, text))


@pytest.mark.parametrize(
    "name", ["lab", "s3:/lab", "s3://", "file:///x", f"s3://me:{SECRET}@lab", f"s3://lab?{SECRET}"]
)
def test_tables_of_no_bucket_are_found_by_the_check(tmp_path: Path, name: str) -> None:
    [problem] = problems(environment(tmp_path, f'[stores."{name}"]\n'))
    assert "not named after a bucket" in str(problem)
    assert SECRET not in str(problem)


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert table_for(URL, {}) is None
    assert list(problems({})) == []
    assert "can't be read" in refused({VARIABLE: str(tmp_path / "none")})


def test_the_tables_of_the_page(tmp_path: Path) -> None:
    [text] = [block.text for block in blocks(DOCS / "guide" / "copying.md", "toml")]
    secret = tmp_path / "s3-secret"
    for path in (secret, tmp_path / "azure-key"):
        path.touch(0o600)
        path.write_text(SECRET)
    env = environment(tmp_path, text.replace("/etc/omewd/s3-secret", str(secret)), 0o644)
    assert list(problems(env)) == []
    assert table_for("az://microscopes/private/x", env) == Table({"account_name": "lab", "account_key": SECRET})
