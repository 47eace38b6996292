"""Every command and every program on the pages: what a test runs, and what is only looked at, with the reason."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from omewd.cli.main import _COMMANDS, cli
from tests.support.pages import PAGES, Block, blocks, by_name, commands_in_text
from tests.support.places import DOCS, README, REPOSITORY

# Python programs by page and name, and the test in tests/integration that runs each as it stands there.
PROGRAMS = {
    "README.md: producer": "service/test_cli.py::test_the_producer_of_the_readme",
    "docs/guide/acquisitions.md: color": "service/test_documentation.py::test_a_colour_camera",
    "docs/guide/acquisitions.md: multi-camera": "service/test_documentation.py::test_several_cameras",
    "docs/guide/acquisitions.md: plate": "service/test_documentation.py::test_a_plate",
    "docs/guide/copying.md: open": "copies/test_copies.py::test_the_program_of_the_page",
    "docs/guide/metadata.md: omero": "service/test_documentation.py::test_how_channels_are_shown",
    "docs/guide/micro-manager.md: pymmcore-mda": "cameras/test_pymmcore.py::test_the_example_of_the_page",
    "docs/guide/micro-manager.md: pymmcore-plus": "cameras/test_camera.py::test_the_example_of_the_page",
    "docs/guide/producers.md: append": "service/test_documentation.py::test_a_frame",
    "docs/guide/reading.md: ledger": "service/test_documentation.py::test_a_plate",
    "docs/guide/reading.md: live": "service/test_documentation.py::test_a_plate",
    "docs/guide/reading.md: watch": "service/test_documentation.py::test_a_frame",
    "docs/guide/reading.md: view": "service/test_documentation.py::test_several_cameras",
    "docs/tutorial.md: tutorial-camera": "service/test_tutorial.py::test_the_tutorial",
    "docs/tutorial.md: tutorial-crash": "service/test_tutorial.py::test_the_tutorial",
    "docs/tutorial.md: tutorial-read": "service/test_tutorial.py::test_the_tutorial",
}
# Commands in blocks that no test runs as they stand there: their first words, and why. All others are run, by
# tests/integration/service/test_tutorial.py; those of omewd are parsed here as well.
NOT_RUN = {
    "sh packaging/venv.sh": "installs packages; tests/unit/test_venv_script.py runs it with none",
    ".venv/bin/omewd demo": "tests/integration/service/test_demo.py runs it",
    "pip install": "installs packages",
    "uv tool install": "installs packages",
    "uvx": "installs packages",
    "podman": "needs an image to build on; tests/integration/service/test_container_image.py takes one",
    "DATA=/data/omewd podman": "needs images; tests/unit/test_container_files.py looks at the compose file",
    "sudo": "changes the system; tests/integration/service/test_systemd.py boots the unit",
    "omewd copy": "needs a store; tests/integration/copies has one",
    "omewd verify s3:": "needs a store; tests/integration/copies has one",
    "omewd verify --deep file:": "tests/integration/copies/test_copies.py runs it",
    "rclone copy": "needs a store; tests/integration/copies/test_copies.py has one",
    "journalctl": "needs the service's journal",
    "mount": "changes the system",
    "mdadm": "needs drives",
    "mkfs.xfs": "needs drives",
    "numactl": "needs two sockets",
    "omewd web": "listens at a fixed port; tests/integration/web starts it at a free one",
    "(umask 077; openssl": "needs openssl",
    "ssh": "needs another machine",
    "npm install": "installs packages",
    "OMEWD_AZURITE=": "needs Azurite",
    "python -m venv napari": "installs packages",
    "OMEWD_NAPARI=": "needs a Python with napari",
    "python -m venv neuroglancer": "installs packages",
    "OMEWD_NEUROGLANCER=": "needs a Python with neuroglancer",
    "omewd benchmark": "takes minutes; tests/integration/measurements has short ones",
    "omewd profile": "takes minutes; tests/integration/measurements has short ones",
    "omewd serve --data-root /data": "needs 40 GiB of memory",
}
SHELL = [block for page in PAGES for block in blocks(page, "sh")]


def commands(page: Path) -> list[str]:
    return [command for block in blocks(page, "sh") for command in block.commands]


def is_run(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN))


def omewd_in(command: str) -> str | None:
    """The call of omewd in a command, with what is before it taken off."""
    found = re.search(r"(?:^|&& |\.venv/bin/|(?:numactl|uvx).* )(omewd .*)", command)
    return found[1] if found else None


def parse(command: str, folder: Path) -> None:
    """Parse a command without running it. Raises what omewd would raise."""
    words = shlex.split(re.sub(r"[\[\]]", "", command).replace("COMMAND", "status"))[1:]
    words = [re.sub(r"^URL$", "s3://lab/cam0.ome.zarr", word) for word in words]
    words = [re.sub(r"^/(data|fast)$", str(folder), word) for word in words]
    for word in words:  # what must exist
        if "://" in word:
            continue
        if word == "DATASET" or word.endswith(".ome.zarr"):
            (folder / word).mkdir(exist_ok=True)
        elif word.endswith(".json"):
            (folder / word).write_text("{}")
    context = cli.make_context("omewd", words)
    name, subcommand, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    assert subcommand is not None
    subcommand.make_context(name, rest, parent=context)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_program_is_run_by_a_test() -> None:
    there = [block for page in PAGES for block in blocks(page, "python")]
    assert sorted(block.place for block in there) == sorted(PROGRAMS)
    for block in there:
        compile(block.text, block.place, "exec")
        path, _, test = PROGRAMS[block.place].partition("::")
        source = (REPOSITORY / "tests" / "integration" / path).read_text()
        assert f"def {test}(" in source, block.place
        assert "docs/tutorial.md" in block.place or f'"{block.name}"' in source, block.place


@pytest.mark.parametrize("block", SHELL, ids=[block.place for block in SHELL])
def test_a_shell_block_is_well_formed(block: Block, folder: Path) -> None:
    checked = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    for command in block.commands:
        call = omewd_in(command)
        if call:
            parse(call, folder)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_commands_in_sentences_exist(page: Path, folder: Path) -> None:
    """They may leave out what a command needs."""
    for command in commands_in_text(page):
        try:
            parse(command, folder)
        except click.MissingParameter:
            pass
        except click.exceptions.Exit:
            if not command.endswith(("--help", "--version")):
                raise


def test_what_is_not_run_is_on_a_page() -> None:
    everything = [part for page in PAGES for command in commands(page) for part in command.split(" && ")]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in everything), start


def test_commands_that_are_run_are_on_pages_that_a_test_runs() -> None:
    run = {command for page in (README, DOCS / "tutorial.md") for command in commands(page) if is_run(command)}
    rest = {command for page in PAGES for command in commands(page) if is_run(command)} - run
    assert all(command.startswith("omewd start-stream ") for command in rest), rest
    assert len(run) > 10


def test_each_command_is_on_the_pages() -> None:
    text = (DOCS / "reference" / "command-line.md").read_text()
    assert [name for name in _COMMANDS if f"`omewd {name}" not in text] == []
