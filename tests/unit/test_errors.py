"""Error codes: every one that is used is in the table, and every one in the table is used and documented."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import omewd
from omewd.error_codes import CODES, EXIT_INCOMPLETE, EXIT_USAGE, SECTIONS, page
from omewd.errors import Loss, OmewdError, RingFullError, StreamFailedError, StreamStoppedError
from tests.support.places import DOCS

PACKAGE = Path(omewd.__file__).parent
KINDS = {"OmewdError", "RingFullError", "StreamStoppedError", "StreamFailedError"}
BY_SOURCE = (("left", ((4, 2), (9, 1))), ("right", ()), ("back", ((0, 3),)))


def codes_in(path: Path) -> Iterator[str]:
    """The codes that errors are made with in a file; where one is not written down there, how it is said."""
    tree = ast.parse(path.read_text())
    kinds = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _bases(node) & KINDS]
    parents = [call for kind in kinds for call in _calls(kind) if ast.unparse(call.func) == "super().__init__"]
    for call in [call for call in _calls(tree) if ast.unparse(call.func) in KINDS] + parents:
        code = call.args[0]
        yield str(code.value) if isinstance(code, ast.Constant) else ast.unparse(code)


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base) for base in node.bases}


# Where errors are made of codes that others have chosen.
MAKERS = {PACKAGE / "errors.py", PACKAGE / "protocol" / "watch.py"}
USED = {code for path in {*PACKAGE.rglob("*.py")} - MAKERS for code in codes_in(path)} | {"ring_full", "stream_failed"}


def test_every_code_that_is_used_is_in_the_table() -> None:
    assert USED - set(CODES) == set()


def test_every_code_in_the_table_is_used() -> None:
    assert set(CODES) - USED == set()


def test_a_code_is_in_the_table_once() -> None:
    assert sum(len(section) for section in SECTIONS.values()) == len(CODES)


@pytest.mark.parametrize("name", CODES)
def test_a_code_says_what_it_means_in_a_line(name: str) -> None:
    code = CODES[name]
    assert name.replace("_", "").isalpha()
    assert name.islower()
    assert code.meaning.endswith(".")
    assert not code.remedy.endswith(".")
    assert "\n" not in code.meaning + code.remedy
    assert "|" not in code.meaning + code.remedy
    assert 1 <= code.exit_status <= 5


def test_the_page_is_made_of_the_table() -> None:
    shown = (DOCS / "reference" / "errors.md").read_text()
    assert shown == page(), "python -m omewd.error_codes > docs/reference/errors.md"


def test_an_error_without_a_remedy_has_the_usual_one() -> None:
    assert OmewdError("disk_full", "no space").remedy == CODES["disk_full"].remedy
    assert OmewdError("disk_full", "no space", "").remedy == ""
    assert OmewdError("disk_full", "no space", "Buy one").remedy == "Buy one"
    assert OmewdError("of a newer omewd", "it broke").remedy == ""


def test_exit_statuses() -> None:
    assert OmewdError("bad_spec", "").exit_status == EXIT_USAGE
    assert StreamFailedError.of(OmewdError("disk_full", ""), None).exit_status == EXIT_INCOMPLETE
    assert OmewdError("of a newer omewd", "").exit_status == 1


@pytest.mark.parametrize(
    "loss",
    [
        None,
        Loss(5, 0, (("", ()),)),
        Loss(5, 2, (("", ((1, 1), (3, 1))),)),
        Loss(50, 6, BY_SOURCE),
    ],
    ids=["unknown", "nothing", "one source", "several"],
)
def test_a_failed_stream_keeps_its_cause_and_its_loss_on_every_way(loss: Loss | None) -> None:
    error = StreamFailedError.of(OmewdError("disk_full", "no space.", "Free some"), loss)
    assert (error.code, error.cause, error.loss) == ("stream_failed", "disk_full", loss)
    told = json.loads(json.dumps(error.to_dict()))
    assert ("lost" in told, "received" in told) == (loss is not None, loss is not None)
    assert ("lost_by_source" in told) == (loss is not None and len(loss.by_source) > 1)
    for same in (OmewdError.from_dict(told), pickle.loads(pickle.dumps(error)), error.with_text("x", "y")):
        assert isinstance(same, StreamFailedError)
        assert (same.code, same.cause, same.loss, same.lost) == ("stream_failed", "disk_full", loss, error.lost)
        assert same.exit_status == EXIT_INCOMPLETE
    assert OmewdError.from_dict(told).message == error.message


def test_what_is_lost_is_said() -> None:
    assert str(Loss(5, 0, (("", ()),))) == "all 5 received frames are written"
    assert str(Loss(9, 3, (("", ((1, 2), (7, 1))),))) == "3 of 9 received frames are missing: 1-2, 7"
    assert str(Loss(50, 6, BY_SOURCE)) == "6 of 50 received frames are missing: left: 4-5, 9; back: 0-2"
    many = tuple((2 * n, 1) for n in range(12))
    text = str(Loss(50, 12, (("", many),)))
    assert text.endswith("missing: 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, …")
    assert str(Loss(50, 12, (("", many),)).shortened(2)).endswith("missing: 0, 2; …")


def test_a_loss_is_shortened_from_its_end() -> None:
    loss = Loss(50, 6, BY_SOURCE)
    assert loss.shortened(9) == Loss(50, 6, (BY_SOURCE[0], BY_SOURCE[2]))
    assert loss.shortened(2) == Loss(50, 6, (BY_SOURCE[0],))
    assert loss.shortened(1) == Loss(50, 6, (("left", ((4, 2),)),))
    assert loss.shortened(0) == Loss(50, 6, ())


@pytest.mark.parametrize(
    "told",
    [
        {"received": 3},
        {"received": 3, "lost_frames": 1, "lost": 7},
        {"received": 3, "lost_frames": 1, "lost": [[1]]},
        {"received": 3, "lost_frames": 1, "lost": [], "lost_by_source": []},
        {"received": None, "lost_frames": 1, "lost": []},
        {"received": float("inf"), "lost_frames": 1, "lost": []},
    ],
    ids=str,
)
def test_a_loss_that_can_not_be_read_is_not_known(told: dict[str, object]) -> None:
    error = OmewdError.from_dict({"code": "stream_failed", "message": "x", "cause": "disk_full", **told})
    assert isinstance(error, StreamFailedError)
    assert (error.cause, error.loss, error.lost, error.lost_by_source) == ("disk_full", None, (), {})


def test_kinds_of_errors_survive_other_words() -> None:
    assert type(RingFullError("ring_full", "a").with_text("b", "c")) is RingFullError
    error = StreamStoppedError("too_many_frames", "a").with_text("b", "c")
    assert (type(error), error.code, str(error)) == (StreamStoppedError, "too_many_frames", "b. c")
