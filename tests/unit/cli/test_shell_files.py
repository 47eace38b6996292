"""Manual pages, completions and examples: made from the commands, fresh, and right."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from omewd.cli import options
from omewd.cli.main import cli
from omewd.cli.options import examples_of
from omewd.errors import OmewdError
from omewd.protocol.status import DaemonStatus, StreamStatus
from tests.support.places import REPOSITORY

PACKAGING = REPOSITORY / "packaging"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
NAMES = cli.list_commands(click.Context(cli))


def made() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("shell_files", PACKAGING / "shell_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[str, str] = module.files()
    return files


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_they_are_fresh() -> None:
    [pinned] = [each for each in PROJECT["project"]["optional-dependencies"]["dev"] if each.startswith("click==")]
    if version("click") != pinned.removeprefix("click=="):
        pytest.skip(f"click {version('click')} makes other pages than {pinned}")
    files = made()
    there = {
        str(path.relative_to(PACKAGING)) for folder in ("man", "completion") for path in (PACKAGING / folder).iterdir()
    }
    assert there == set(files)
    stale = [path for path, text in files.items() if (PACKAGING / path).read_text() != text]
    assert stale == [], "python packaging/shell_files.py"


def test_each_command_has_a_page() -> None:
    assert {path.name for path in (PACKAGING / "man").iterdir()} == {"omewd.1", *(f"omewd-{name}.1" for name in NAMES)}


def test_they_are_installed_where_shells_and_man_look() -> None:
    shared = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert {Path(path).parent.name for path in shared if (REPOSITORY / path).is_file()} >= {"systemd", "completion"}
    assert all((REPOSITORY / path).exists() for path in shared)
    assert shared["packaging/man"] == "share/man/man1"
    assert set(shared.values()) >= {
        "share/bash-completion/completions/omewd",
        "share/zsh/site-functions/_omewd",
        "share/fish/vendor_completions.d/omewd.fish",
    }


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", sorted((PACKAGING / "man").iterdir()), ids=lambda page: page.stem)
def test_a_page_is_read_by_groff_without_a_warning(page: Path) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-rLL=200n", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"):
        assert f"\n{section}\n" in f"\n{shown}"
    if page.stem != "omewd":
        for line in examples_of(command_of(page.stem.removeprefix("omewd-"))):
            assert line in shown


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_ends_with_examples_that_it_understands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the folders that an example names; nothing is run."""
    monkeypatch.chdir(tmp_path)
    Path("cam0.ome.zarr").mkdir()
    command = command_of(name)
    examples = examples_of(command)
    assert examples
    help_text = command.get_help(click.Context(command, info_name=name))
    assert help_text.endswith("\n".join(["Example:", *(f"    {line}" for line in examples)])), help_text
    for line in examples:
        program, called, *arguments = shlex.split(line)
        assert (program, called) == ("omewd", name)
        with cli.make_context("omewd", [name, *arguments]) as root:
            command.make_context(name, arguments, parent=root).close()


# -- completion ------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    environment = {"_OMEWD_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "omewd"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_words_are_completed() -> None:
    assert completed("omewd", "st") == ["start-stream", "stop-stream", "status"]
    assert completed("omewd", "start-stream", "--compression", "zs") == ["zstd"]
    assert completed("omewd", "start-stream", "--on-disk-full", "") == ["wait", "fail"]
    assert completed("omewd", "health", "--si") == ["--silent"]
    assert completed("omewd", "status", "--socket", "/nowhere/s", "x") == []


def test_names_of_streams_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    status = DaemonStatus(streams=(StreamStatus(name="cam0"), StreamStatus(name="other"), StreamStatus(name="cam1")))

    class Daemon:
        def daemon_status(self) -> DaemonStatus:
            return status

    monkeypatch.setattr(options, "Client", Daemon)
    command = command_of("stop-stream")
    context = click.Context(command)
    assert [item.value for item in command.params[0].shell_complete(context, "cam")] == ["cam0", "cam1"]

    class NoDaemon:
        def daemon_status(self) -> DaemonStatus:
            raise OmewdError("no_daemon", "none")

    monkeypatch.setattr(options, "Client", NoDaemon)
    assert command.params[0].shell_complete(context, "cam") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_takes_its_completion() -> None:
    script = f"source {PACKAGING}/completion/omewd && complete -p omewd"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "-F _omewd_completion omewd" in done.stdout
