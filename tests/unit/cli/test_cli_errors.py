"""Errors as the command line shows them: settings as options, suggestions, and when JSON is asked for."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from omewd.cli.config import default_map
from omewd.cli.errors import for_command_line, options_of, wants_json, with_options
from omewd.cli.main import _COMMANDS, _command, main
from omewd.cli.measure import benchmark
from omewd.cli.settings_file import read_settings
from omewd.cli.streams import start_stream
from omewd.errors import OmewdError
from omewd.integrations.settings import fields_of
from omewd.model.spec.spec import StreamSpec

START = options_of(_command("start-stream"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Pass `overwrite=True` to replace it", "Pass --overwrite to replace it"),
        ("or `backpressure='block'`", "or --backpressure block"),
        ('`backpressure="drop"`, `ring_slots=64`', "--backpressure drop, --ring-slots 64"),
        ("another: `output='…'`", "another: --output …"),
        ("`socket=…` or $OMEWD_SOCKET", "--socket … or $OMEWD_SOCKET"),
        ("`output='my run.zarr'`", "--output 'my run.zarr'"),
        ("`source_dimension='c'`", "--source-dim c"),
        ("`dims='t:4,y:8,x:8'`", "--dims t:4,y:8,x:8"),
        ("`overwrite=False`", "overwrite=False"),  # there is no --no-overwrite
        ("`overwrite='yes'`", "overwrite='yes'"),
        ("`backpressure=True`", "backpressure=True"),
        ("`no_setting=3`", "no_setting=3"),
        ("`producer.close()` and `overwrite`", "producer.close() and overwrite"),
        ("no quotes: overwrite=True", "no quotes: overwrite=True"),
        ("one ` alone", "one ` alone"),
        ("`help(omewd.StreamSpec)` says", "omewd start-stream --help says"),
    ],
)
def test_settings_are_shown_as_the_options_that_there_are(text: str, shown: str) -> None:
    assert with_options(text, START) == shown


def test_a_command_has_only_its_own_options() -> None:
    error = OmewdError("output_exists", "x is there: `name='a'`", "Pass `overwrite=True`")
    shown = for_command_line(error, options_of(_command("verify")))
    assert (shown.code, shown.message, shown.remedy) == ("output_exists", "x is there: name='a'", "Pass overwrite=True")


def test_a_switch_that_can_be_turned_off_is() -> None:
    import click

    @click.command()
    @click.option("--sync/--no-sync", default=True)
    def command(**_: Any) -> None: ...

    assert with_options("`sync=False`, `sync=True`", options_of(command)) == "--no-sync, --sync"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("status --json", True),
        ("status --json=yes", True),
        ("benchmark --format json", True),
        ("benchmark --format=json -d x", True),
        ("serve --log-format json", False),
        ("benchmark --format csv", False),
        ("stop-stream -- --json", False),
        ("", False),
    ],
)
def test_json_is_asked_for_in_several_ways(line: str, wanted: bool) -> None:
    assert wants_json(line.split()) is wanted


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start-stram"], "Did you mean start-stream or stop-stream?"),
        (["start"], "Did you mean start-stream?"),
        (["stop_stream"], "Did you mean stop-stream?"),
        (["frobnicate"], "Use one of serve, start-stream, "),
        (["start-stream", "--dms", "y:1"], "No such option '--dms'. Did you mean --dims?"),
        (["start-stream", "--ring_slots", "8"], "Did you mean --ring-slots?"),
        (["start-stream", "--backpresure=drop"], "Did you mean --backpressure"),
        (["view", "--frobnicate"], "See omewd view --help"),
        (["--sokcet", "x", "status"], "Did you mean --socket?"),
        (["stop-stream"], "Missing argument 'NAME'. See omewd stop-stream --help"),
    ],
)
def test_what_is_mistyped_is_told_with_what_was_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    status, out, err = failed(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("omewd: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_its_usage_errors_as_json(capsys: pytest.CaptureFixture[str], name: str) -> None:
    for how in (["--json"], ["--format", "json"], ["--format=json"]):
        status, out, err = failed(capsys, name, "--no-such-option", *how)
        assert (status, err) == (2, "")
        assert json.loads(out)["error"]["code"] == "usage"


def test_an_interrupted_command_says_so_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("omewd.store.encoders.availability", interrupt)
    status, out, err = failed(capsys, "backends", "--json")
    assert (status, err.strip(), json.loads(out)["error"]["code"]) == (1, "", "interrupted")
    status, out, err = failed(capsys, "backends")
    assert (status, out, err.strip()) == (1, "", "omewd: interrupted")


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["omewd"])
    main()
    assert "start-stream" in capsys.readouterr().out


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[serve]\nmemroy = '1GiB'", "serve has no option 'memroy'. Did you mean memory?"),
        ("[serv]\nmemory = '1GiB'", "[serv], but no command has this name. Did you mean serve?"),
        ("sokcet = 'x'", "has 'sokcet', but no command has an option --sokcet. Did you mean socket?"),
        ("[status]\nas_json = true", "status has no option 'as_json'"),
        ("a = ", "can't be read"),
        ("socket = [1]", "socket can't be a list. Give a string or a number"),
        ("[serve]\nwriters = {a = 1}", "writers can't be a table"),
        ("[serve]\nmemory = 2020-01-01", "memory can't be a date"),
        ("[serve]\ndata-root = [[1]]", "data-root can't be a list"),
        ("[status]\njson = 7", "Invalid value for '--json': '7' is not a valid boolean"),
    ],
)
def test_what_a_file_of_options_has_in_vain_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "omewd.toml"
    path.write_text(text)
    status, _, err = failed(capsys, "--config", str(path), "status")
    assert status == 2
    assert says in err


def test_a_file_of_options_has_their_names(tmp_path: Path) -> None:
    path = tmp_path / "omewd.toml"
    path.write_text(
        "socket = '/run/s'\n"
        "[benchmark]\nformat = 'json'\nwarmups = 0\nbackend = 'direct'\n"
        "[serve]\ndata-root = ['/a']\njob_timeout = 5\nephemeral = true\n"
    )
    found = default_map(path, _COMMANDS, _command)
    assert found["benchmark"] == {"form": "json", "warmups": "0", "backend": ["direct"]}
    assert found["serve"] == {"socket": "/run/s", "data_root": ["/a"], "job_timeout": "5", "ephemeral": True}
    assert found["status"] == {"socket": "/run/s"}


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", "\xff", "[" * 100_000])
def test_a_settings_file_is_a_json_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(OmewdError, match=r"settings.json (is not JSON|holds no JSON object)") as refusal:
        read_settings(path)
    assert refusal.value.code == "usage"
    with pytest.raises(OmewdError, match="can't be read"):
        read_settings(tmp_path)


@pytest.mark.parametrize("document", [{"foo": 1}, {"foo": 1, "dims": "y:8,x:8"}, {"dims": "y:8,x:8", "dtpye": "uint8"}])
def test_an_unknown_field_of_a_settings_file_is_named_with_those_that_there_are(document: dict[str, Any]) -> None:
    unknown = next(key for key in document if key != "dims")
    with pytest.raises(OmewdError, match=f"a stream has no field '{unknown}'") as refusal:
        fields_of(document)
    for known in ("name", "dims", "dimensions", "dtype", "compression"):
        assert known in refusal.value.remedy


# Of every kind that JSON has.
ODD: list[Any] = [
    None,
    5,
    -1,
    1e400,
    True,
    "",
    "x",
    [],
    [1],
    [None],
    [[1]],
    {},
    {"a": 1},
    [{}],
    [{"name": [1]}],
    10**30,
]
ODD += [[{"name": "y", "count": [1]}, {"name": "x"}]]


@pytest.mark.parametrize("field", [*StreamSpec.model_fields, "dims", "root_path", "format", "channels", "time_plan"])
def test_whatever_a_settings_file_has_it_is_a_stream_or_one_error(tmp_path: Path, field: str) -> None:
    path = tmp_path / "settings.json"
    frame = [{"name": "y", "count": 8}, {"name": "x", "count": 8}]
    bases: list[dict[str, Any]] = [{}, {"dims": "c:2,p:2,y:8,x:8"}, {"dimensions": frame}]
    for value, base in product(ODD, bases):
        path.write_text(json.dumps({**base, field: value}))
        with suppress(OmewdError):
            fields = start_stream._fields("n", None, path, {}, {"y": 0.1})
            with suppress(OmewdError):
                start_stream._describe(fields, {"y": 0.1}, channels="a,b", positions="l,r")
            with suppress(OmewdError):
                start_stream._put_in_wells(fields, "2x2", "A1,A2")
            StreamSpec.parse(fields)
        with suppress(OmewdError):
            benchmark.geometries_of((), benchmark.settings_of(path), "uint16")
