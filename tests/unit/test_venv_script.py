"""packaging/venv.sh, by which a clone gets its environment: which Python it takes, and what it says without one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY

SCRIPT = REPOSITORY / "packaging" / "venv.sh"

# A Python that says what it was asked to do, and makes an environment whose pip does so, too.
PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) exit {too_old} ;;
    *ensurepip*) [ {has_venv} = 1 ] || [ -e "$MACHINE/installed" ] ;;
    --version) echo Python {version} ;;
    "-m venv .venv")
        echo "{name}: $*" >> "$MACHINE/log"
        mkdir -p .venv/bin
        printf '#!/bin/sh\\necho "pip: $*" >> "$MACHINE/log"\\n' > .venv/bin/pip
        chmod +x .venv/bin/pip ;;
    *) exit 9 ;;
esac
"""
APT_GET = '#!/bin/sh\necho "apt-get: $*" >> "$MACHINE/log"; : > "$MACHINE/installed"\n'


class Machine:
    """A clone with the script, on a machine that has these programs and no others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir()
        (folder / "packaging").mkdir()
        shutil.copy(SCRIPT, folder / "packaging")
        for tool in ("basename", "chmod", "dirname", "env", "mkdir", "sh"):
            found = shutil.which(tool)
            assert found
            (self.programs / tool).symlink_to(found)
        self.add("uname", "#!/bin/sh\necho Linux x86_64\n")
        self.add("id", "#!/bin/sh\necho 0\n")

    def add(self, name: str, text: str) -> None:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)

    def add_python(self, name: str, version: str, *, has_venv: bool = True) -> None:
        too_old = int(tuple(map(int, version.split("."))) < (3, 11))
        self.add(name, PYTHON.format(name=name, version=version, too_old=too_old, has_venv=int(has_venv)))

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.programs / "sh"), "packaging/venv.sh", *arguments],
            cwd=self.folder,
            env={"PATH": str(self.programs), "MACHINE": str(self.folder), **variables},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def log(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def setting_up(version: str) -> str:
    return f"omewd: setting up .venv with Python {version}, which takes about a minute\n"


PIP = "pip: install -q --disable-pip-version-check --prefer-binary"


def test_any_python_from_3_11_on_is_taken(machine: Machine) -> None:
    machine.add_python("python3", "3.10")
    machine.add_python("python3.12", "3.12")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, setting_up("3.12"))
    assert machine.log == ["python3.12: -m venv .venv", f"{PIP} ."]


def test_an_environment_for_tests(machine: Machine) -> None:
    machine.add_python("python3", "3.14")
    assert machine.run("dev").returncode == 0
    assert machine.log == ["python3: -m venv .venv", f"{PIP} -e .[dev]"]


def test_the_python_that_is_named_is_taken(machine: Machine) -> None:
    machine.add_python("python3", "3.13")
    machine.add_python("mine", "3.11")
    assert machine.run(PYTHON="mine").returncode == 0
    assert machine.log[0] == "mine: -m venv .venv"


@pytest.mark.parametrize("version", [None, "3.9"])
def test_no_python(machine: Machine, version: str | None) -> None:
    if version:
        machine.add_python("python3", version)
    done = machine.run()
    here = f"Python {version}" if version else "no python3"
    assert done.returncode == 1
    assert done.stderr == (
        f"omewd: Python 3.11 or later is needed; here is {here}. Debian 12, Ubuntu 24.04 and later: "
        "sudo apt-get install python3 python3-venv. Elsewhere, uv brings a Python of its own: uv tool install .\n"
    )
    assert machine.log == []


def test_a_python_without_venv(machine: Machine) -> None:
    machine.add_python("python3", "3.13", has_venv=False)
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr == (
        "omewd: python3 has no module venv or ensurepip. On Debian and Ubuntu: sudo apt-get install python3-venv\n"
    )
    assert machine.log == []


def test_root_gets_what_is_missing_installed(machine: Machine) -> None:
    machine.add_python("python3.13", "3.13", has_venv=False)
    machine.add("apt-get", APT_GET)
    done = machine.run()
    assert (done.returncode, done.stderr) == (
        0,
        "omewd: installing python3.13-venv with apt-get\n" + setting_up("3.13"),
    )
    assert machine.log[0] == "apt-get: -qq install -y --no-install-recommends python3.13-venv"


def test_a_user_without_sudo_is_told(machine: Machine) -> None:
    machine.add_python("python3", "3.13", has_venv=False)
    machine.add("apt-get", APT_GET)
    machine.add("id", "#!/bin/sh\necho 1000\n")
    done = machine.run()
    assert (done.returncode, machine.log) == (1, [])
    assert "sudo apt-get install python3-venv" in done.stderr


def test_other_machines(machine: Machine) -> None:
    machine.add("uname", "#!/bin/sh\necho Linux aarch64\n")
    done = machine.run()
    assert (done.returncode, done.stderr) == (1, "omewd: x86-64 Linux is needed; this is Linux aarch64\n")
