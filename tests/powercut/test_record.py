"""The record of system calls, by a program that makes each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.powercut.model import History, Mode
from tests.powercut.record import NotModelledError, can_trace, read_trace, strace
from tests.powercut.trees import contents, on_disk

pytestmark = pytest.mark.skipif(can_trace() is not None, reason=str(can_trace()))

PROGRAM = """
import os, threading
from pathlib import Path
from omewd.store.filesystem import extend, punch
root, marks = Path.cwd() / "data", os.open("marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
(root / "folder/inner").mkdir(parents=True)
(root / "folder/text").write_text("first\\n")
with (root / "folder/text").open("a") as file:
    file.write('more, (with) "marks" <and> [brackets]\\n')
file = os.open(root / "blocks", os.O_RDWR | os.O_CREAT)
extend(file, 0, 20000)
os.pwrite(file, b"x" * 9000, 3000)
os.pwritev(file, [b"one", b"two"], 12000)
os.writev(os.open(root / "parts", os.O_WRONLY | os.O_CREAT), [b"three", b"four"])
punch(file, 4096, 8192)
os.ftruncate(file, 15000)
os.fdatasync(file)
os.write(marks, b"synced\\n")
(root / "folder/text").rename(root / "text")
os.link(root / "text", root / "same")
(root / "text").unlink()
folder = os.open(root, os.O_RDONLY)
os.mkdir("by number", dir_fd=folder)
os.rename("by number", "renamed", src_dir_fd=folder, dst_dir_fd=folder)
os.rmdir(root / "folder/inner")
os.fsync(folder)
os.write(os.open(root / "gone", os.O_WRONLY | os.O_CREAT), b"gone")
os.unlink("gone", dir_fd=folder)
def write(number):
    for block in range(20):
        os.pwrite(file, bytes([number]) * 100, number * 2000 + block * 100)
threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
(root / "same").write_text("shorter")
"""


def trace(folder: Path, program: str) -> Path:
    (folder / "data").mkdir()
    command = strace(folder / "trace", [sys.executable, "-c", program])
    subprocess.run(command, cwd=folder, check=True)
    return folder / "trace"


def test_all_calls_together_make_what_is_on_disk(tmp_path: Path) -> None:
    path = trace(tmp_path, PROGRAM)
    calls, marks = read_trace(path, tmp_path, ["data"], tmp_path / "marks")
    history = History.of(calls, Mode.STRICT, ["data"])
    last = calls[-1].end
    found = contents(history.tree(last, history.pending(last)))
    assert found == {f"data/{name}": data for name, data in on_disk(tmp_path / "data").items()} | {"data": None}
    [mark] = marks
    assert mark.text == "synced\n"
    [synced] = [call for call in calls if call.name == "fsync" and call.paths == ("data/blocks",)]
    assert synced.end < mark.at
    assert not [effect for effect in history.effects if effect.call is calls[0] and effect.durable_at < mark.at]


@pytest.mark.parametrize("call", ["os.symlink('a', root / 'b')", "root.rename(root.parent / 'elsewhere')"])
def test_a_call_without_a_meaning_is_not_passed_over(tmp_path: Path, call: str) -> None:
    path = trace(tmp_path, f"import os, pathlib; root = pathlib.Path.cwd() / 'data'; {call}")
    with pytest.raises(NotModelledError):
        read_trace(path, tmp_path, ["data"], tmp_path / "marks")
