"""``omewd doctor``: what this machine has and lacks for omewd."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from omewd import __version__
from omewd.cli.options import client, example, json_option, socket_option
from omewd.errors import OmewdError

if TYPE_CHECKING:
    from omewd.daemon.config import ServeConfig
    from omewd.health.doctor import Finding
    from omewd.protocol.status import DaemonStatus


@click.command("doctor", epilog=example("omewd doctor --data-root /data/omewd --memory 16GiB"))
@click.option(
    "--data-root",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder for datasets to look at; repeatable.  [default: those of the daemon, else those of omewd serve]",
)
@click.option("--memory", help="Memory budget to judge by.  [default: that of the daemon, else that of omewd serve]")
@json_option
@socket_option
@click.pass_context
def command(
    context: click.Context, data_root: tuple[Path, ...], memory: str | None, as_json: bool, socket: Path | None
) -> None:
    """Say what this machine has and lacks for omewd, and what would make it better.

    It looks at memory, /dev/shm, limits, the kernel, the filesystem of each data root, who may connect, and the
    backends. Without a daemon, it looks at what omewd serve would use, with the same configuration file and variables.
    The exit status is 1 if there are problems; advice does not count.
    """
    from omewd.error_codes import EXIT_ERROR
    from omewd.health.doctor import PROBLEM

    findings = _findings(context, data_root, memory, socket)
    problems = sum(finding.level == PROBLEM for finding in findings)
    if as_json:
        print(json.dumps({"fine": not problems, "findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        _show(findings)
    if problems:
        sys.exit(EXIT_ERROR)


def _findings(
    context: click.Context, data_root: Sequence[Path], memory: str | None, socket: Path | None
) -> list[Finding]:
    from omewd.daemon.checks import folder_problems
    from omewd.daemon.config import parse_size
    from omewd.health.doctor import Setup, examine, of_error
    from omewd.health.machine import read_access, read_folder, read_machine
    from omewd.protocol.address import client_socket
    from omewd.store.encoders import availability
    from omewd.store.filesystem import filesystem_of

    given = socket or context.find_root().obj
    place, group = client_socket(given), None
    daemon, first = _daemon(given)
    found = [first]
    roots: Sequence[Path] = data_root
    if daemon is not None:
        roots = roots or [Path(root) for root in daemon.data_roots]
        setup = Setup(parse_size(memory) if memory else daemon.memory.budget_bytes)
        backends = daemon.backends
    else:
        try:
            config = _configuration(context, data_root, memory, given)
        except OmewdError as error:
            return [*found, of_error("configuration", error)]
        found += [of_error("configuration", error) for error in folder_problems(config)]
        roots = config.data_roots
        state_dir = next(folder for folder in (config.state_dir, *config.state_dir.parents) if folder.exists())
        setup = Setup(config.memory_bytes, filesystem_of(state_dir.resolve()))
        if not place.exists():
            place, group = config.socket, config.group
        backends = availability()
    access = read_access(place, group)
    folders = [read_folder(root.resolve()) for root in roots]
    return [*found, *examine(read_machine(daemon.pid if daemon else None), folders, access, backends, setup)]


def _daemon(socket: Path | None) -> tuple[DaemonStatus | None, Finding]:
    from omewd.health.doctor import ADVICE, FINE, Finding, of_error

    try:
        status = client(socket).daemon_status()
    except OmewdError as error:
        if error.code != "no_daemon":
            return None, of_error("daemon", error)
        return None, Finding("daemon", FINE, f"{error.message}: this is about what omewd serve would use")
    what = f"omewd {status.version}, process {status.pid}"
    if status.version != __version__:
        remedy = "Restart the daemon: a service goes on with its open streams (systemctl restart omewd)"
        return status, Finding("daemon", ADVICE, f"{what}; this command is of omewd {__version__}", remedy)
    return status, Finding("daemon", FINE, what)


def _configuration(
    context: click.Context, data_root: Sequence[Path], memory: str | None, socket: Path | None
) -> ServeConfig:
    """What ``omewd serve`` would use. Raises OmewdError ``start_failed`` or ``usage``."""
    from omewd.cli.errors import usage_error
    from omewd.cli.service.serve import command as serve
    from omewd.cli.service.serve import configuration

    arguments = [text for root in data_root for text in ("--data-root", str(root))]
    arguments += ["--memory", memory] if memory else []
    arguments += ["--socket", str(socket)] if socket else []
    try:
        with serve.make_context("serve", arguments, parent=context.find_root()) as serving:
            return configuration(serving)
    except click.ClickException as error:
        raise usage_error(error) from error


def _show(findings: Sequence[Finding]) -> None:
    from omewd.cli.errors import with_options
    from omewd.health.doctor import ADVICE, PROBLEM

    for finding in findings:
        print(f"{finding.level:8} {finding.subject}: {with_options(finding.message, {})}")
        if finding.remedy:
            print(f"{'':8} {with_options(finding.remedy, {})}")
    problems, advice = (sum(finding.level == level for finding in findings) for level in (PROBLEM, ADVICE))
    print(f"{problems} problem{'' if problems == 1 else 's'}, {advice} piece{'' if advice == 1 else 's'} of advice")
