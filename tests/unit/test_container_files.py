"""The Containerfile and the compose file against the daemon's options and each other."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from omewd.cli.main import cli
from omewd.cli.service.serve import command as serve
from tests.support.places import REPOSITORY

FOLDER = REPOSITORY / "packaging" / "container"
OPTIONS = {f"OMEWD_SERVE_{option.name.upper()}": option for option in serve.params if option.name}
GIB = 1 << 30


def in_image() -> dict[str, str]:
    """The variables that the image sets."""
    text = (FOLDER / "Containerfile").read_text()
    return dict(re.findall(r"^\s*(?:ENV )?(OMEWD_\w+)=(\S+)", text, re.MULTILINE))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return found


def test_the_variables_are_options_of_the_daemon(services: dict[str, Any]) -> None:
    names = {*in_image(), *services["daemon"]["environment"]} - {"OMEWD_SOCKET"}
    assert len(names) >= 4
    assert names <= set(OPTIONS)


def test_what_must_outlive_the_container_is_outside(services: dict[str, Any]) -> None:
    mounted = {volume.rsplit(":", 1)[1] for volume in services["daemon"]["volumes"]}
    image = in_image()
    assert mounted == {
        image["OMEWD_SERVE_DATA_ROOT"],
        image["OMEWD_SERVE_STATE_DIR"],
        image["OMEWD_SOCKET"].rpartition("/")[0],
    }
    assert services["daemon"]["ipc"] == "host"  # rings, in /dev/shm


def test_the_limits_are_above_the_daemons_own(services: dict[str, Any]) -> None:
    daemon = services["daemon"]
    budget, limit = daemon["environment"]["OMEWD_SERVE_MEMORY"], daemon["mem_limit"]
    assert int(limit.removesuffix("g")) * GIB - int(budget.removesuffix("GiB")) * GIB == 2 * GIB
    grace_s = int(daemon["stop_grace_period"].removesuffix("m")) * 60
    assert grace_s > float(str(OPTIONS["OMEWD_SERVE_DRAIN_TIMEOUT"].default))


def test_the_camera_gets_the_socket_and_nothing_else(services: dict[str, Any]) -> None:
    camera = services["camera"]
    assert camera["volumes"] == [volume for volume in services["daemon"]["volumes"] if volume.startswith("socket:")]
    assert not {"ipc", "pid", "shm_size", "privileged", "cap_add"} & set(camera)
    start, feed = camera["command"][0].splitlines()
    context = cli.make_context("omewd", shlex.split(start)[1:])
    name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    assert command
    parsed = command.make_context(name, rest, parent=context).params
    stream, socket, frames, _ = shlex.split(feed)[3:]
    assert (parsed["name"], socket) == (stream, "$$OMEWD_SOCKET")
    assert parsed["dims"].startswith(f"t:{frames}:")
