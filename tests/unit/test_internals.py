"""The tables of docs/internals against the code: offsets, types, names."""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from omewd import error_codes
from omewd.copier.worker import KINDS as COPIERS_KINDS
from omewd.daemon.control.dataset_requests import DatasetRequests
from omewd.daemon.control.requests import Group
from omewd.daemon.control.ring_requests import RingRequests
from omewd.daemon.control.status_requests import StatusRequests
from omewd.daemon.control.stream_requests import StreamRequests
from omewd.daemon.processes.roles import roles
from omewd.daemon.state import recovery
from omewd.daemon.streams.transitions import TABLE, Action
from omewd.dataset.ledger import ledger, runs
from omewd.model.dtypes import MAX_FRAMES
from omewd.protocol import messages, versions
from omewd.protocol.hello import FEATURES
from omewd.protocol.jobs.job import FINAL_ERRORS
from omewd.ring import layout
from omewd.ring.layout import Geometry
from omewd.store.format import shard_table
from omewd.store.format.shard_index import ENTRY_BYTES
from omewd.writer.handlers.table import KINDS as WRITERS_KINDS
from tests.support.places import DOCS

KINDS = {**WRITERS_KINDS, **COPIERS_KINDS}
INTERNALS = DOCS / "internals"
TYPES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}


def table(page: str, name: str) -> list[dict[str, str]]:
    """The rows of the table below ``<!-- table: name -->``, by column; code marks taken off."""
    text = (INTERNALS / page).read_text().split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0]
    head, _, *rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def type_of(text: str) -> str:
    number = re.match(r"(\d+) bytes", text)
    return f"{number[1]}s" if number else TYPES[text]


def test_the_geometry() -> None:
    rows = table("ring.md", "geometry")
    described = "<" + "".join(type_of(row["type"]) for row in rows)
    assert struct.calcsize(described) == layout._GEOMETRY.size + layout._CRC.size
    for number, row in enumerate(rows):
        assert int(row["offset"]) == struct.calcsize("<" + "".join(type_of(r["type"]) for r in rows[:number])), row
    geometry = Geometry.plan(
        name="cam", epoch=7, capacity=3, frame_shape=(200, 300), dtype="uint16", backpressure="fail", frames_total=None
    )
    values = dict(zip((row["field"] for row in rows), struct.unpack(described, geometry.pack()), strict=True))
    assert values["magic"] == rows[0]["meaning"].strip("`").encode() == layout.MAGIC
    assert values["size"] == layout._GEOMETRY.size
    assert (values["epoch"], values["capacity"], values["height"], values["width"]) == (7, 3, 200, 300)
    assert (values["dtype"].rstrip(b"\0"), values["name"].rstrip(b"\0")) == (b"uint16", b"cam")
    assert (values["policy"], values["frames_total"]) == (2, layout.UNSET)
    for field in ("slot_header_stride", "frame_bytes", "slot_stride", "pixels_offset", "total_bytes"):
        assert values[field] == getattr(geometry, field), field


def test_the_cursors() -> None:
    for row in table("ring.md", "cursors"):
        assert int(row["offset"]) == getattr(layout, row["name"]) * 8, row
        if row["stored by"] == "producer":
            assert layout.PUBLISHED * 8 <= int(row["offset"]) < layout.RELEASED * 8
    text = (INTERNALS / "ring.md").read_text()
    first, second = (place * 8 for place in layout.PROGRESS)
    assert f"at {first} and at {second}" in text
    assert f"At {layout.FAILURE}: the length" in text
    assert f"at most {layout.FAILURE_MAX_BYTES}" in text
    assert f"At {layout.GAP_TABLE * 8}: {layout.GAP_TABLE_ENTRIES} entries" in text
    assert f"at `{layout.SLOT_HEADERS} + slot" in text
    assert f"stay below 2^{MAX_FRAMES.bit_length() - 1}." in text
    states = (layout.STATE_OPEN, layout.STATE_STOPPED, layout.STATE_FAILED, layout.STATE_DONE)
    assert "{} open, {} stopped, {} failed, {} done".format(*states) in text


def test_a_slot_header() -> None:
    for row in table("ring.md", "slot header"):
        value = getattr(layout, row["name"])
        assert int(row["offset"]) == (value if row["name"] == "METADATA" else value * 8), row


def test_the_table_of_a_shard_in_progress() -> None:
    magic, end, entries = table("shards.md", "shard table")
    assert magic["meaning"].split("`")[0] == shard_table.MAGIC.decode()
    assert type_of(magic["type"]) + type_of(end["type"]) == shard_table.HEADER.format.lstrip("<")
    assert int(end["offset"]) == len(shard_table.MAGIC)
    assert int(entries["offset"]) == shard_table.HEADER.size
    assert entries["type"] == f"{ENTRY_BYTES} bytes for each chunk"


def offsets(rows: list[dict[str, str]]) -> list[int]:
    types = [type_of(row["type"]) for row in rows]
    return [struct.calcsize("<" + "".join(types[:number])) for number in range(len(types))]


def test_the_record_of_runs() -> None:
    rows = table("ledger.md", "runs header")
    assert [int(row["offset"]) for row in rows] == offsets(rows)
    described = "<" + "".join(type_of(row["type"]) for row in rows)
    magic, major, minor, size, _ = struct.unpack(described, runs.header())
    assert [row["meaning"].split("`")[0] for row in rows[:1]] == [magic.decode()]
    assert [rows[n]["meaning"].split("`")[0] for n in (1, 2)] == [str(major), str(minor)]
    rows = table("ledger.md", "run")
    assert [int(row["offset"]) for row in rows] == offsets(rows)
    assert size == struct.calcsize("<" + "".join(type_of(row["type"]) for row in rows)) == runs.RECORD_BYTES
    fields: Mapping[str, Any] = runs.RUN.fields or {}
    assert [row["field"] for row in rows] == list(fields)
    assert [int(row["offset"]) for row in rows] == [field[1] for field in fields.values()]
    kinds = {"written": ledger.WRITTEN, **ledger.KINDS}
    text = (INTERNALS / "ledger.md").read_text()
    assert ", ".join(f"{code} {name}" for name, code in sorted(kinds.items(), key=lambda kind: kind[1])) in text
    assert f"stay below 2^{runs.MOST.bit_length() - 1}." in text
    for byte, of in enumerate((ledger.WRITING_BYTE, ledger.APPENDING_BYTE, ledger.RECORDING_BYTE)):
        assert byte == of
        assert f"lock on byte {byte}" in text


def fields_of(record: type) -> str:
    """The names of a dataclass's fields as the pages list them."""
    return ", ".join(field.name for field in dataclasses.fields(record)) or "–"


def test_the_kinds_of_jobs() -> None:
    described = {row["kind"]: row for row in table("jobs.md", "jobs")}
    assert set(described) == set(KINDS)
    for name, kind in KINDS.items():
        needs = kind.needs
        assert described[name] == {
            "kind": name,
            "role": needs.role,
            "long role": needs.long_role or "–",
            "opened": needs.opened.name.lower(),
            "tries": str(needs.tries),
            "waits for space": "yes" if needs.waits_for_space else "no",
            "fields": fields_of(kind),
            "result": fields_of(kind.result),
        }
    text = (INTERNALS / "jobs.md").read_text()
    assert {code for code in FINAL_ERRORS if f"`{code}`" in text} == FINAL_ERRORS


def test_the_limits_of_messages() -> None:
    for row in table("control-protocol.md", "limits"):
        assert int(row["value"]) == getattr(messages, row["limit"]), row


def test_the_operations() -> None:
    """Those that the daemon has handlers for."""
    absent: Any = None
    groups: list[Group] = [
        StatusRequests(absent, absent, absent, absent, absent),
        StreamRequests(absent, absent, absent, absent),
        RingRequests(absent, absent, absent, absent, absent),
        DatasetRequests(absent, absent),
    ]
    known = {name for group in groups for name in group.operations}
    assert {row["op"] for row in table("control-protocol.md", "operations")} == known | {"hello"}
    assert set(FEATURES) == known


def test_codes_that_are_named_exist() -> None:
    known = {code.name for codes in error_codes.SECTIONS.values() for code in codes}
    named = {code for row in table("control-protocol.md", "codes") for code in row["code"].split("`, `")}
    assert len(named) > 10
    assert named <= known


def test_an_entry_of_the_journal() -> None:
    rows = {row["field"]: row["meaning"] for row in table("journal.md", "entry")}
    assert set(rows) - {"details", "version"} == recovery._ENTRY
    assert f"`{versions.JOURNAL}`" in rows["version"]


@pytest.mark.parametrize("page", sorted(path.name for path in INTERNALS.glob("*.md")))
def test_constants_that_are_named_are_in_the_code(page: str) -> None:
    """Names in capitals, in code marks, on a page about the ring."""
    if page != "ring.md":
        return
    named = set(re.findall(r"`([A-Z][A-Z_]+[A-Z])(?: [^`]*)?`", (INTERNALS / page).read_text()))
    others = {"F_OFD_SETLK", "EAGAIN", "MSG_DONTWAIT", "MSG_NOSIGNAL", "OMEWDRNG"}
    assert all(hasattr(layout, name) for name in named - others), named


def code(text: str) -> list[str]:
    """The words of a cell that are marked as code; the first and the last mark may be taken off."""
    return [word.strip("`") for word in text.split(", ") if word]


def test_the_transitions_of_a_stream() -> None:
    """Row by row, in the order of the code."""
    described = [
        (row["state"], row["event"], row["if"].replace("`", ""), row["next state"], code(row["actions"]))
        for row in table("streams.md", "transitions")
    ]
    assert described == [
        (
            row.state.value,
            row.event.name.lower(),
            " and ".join(fact if wanted else f"not {fact}" for fact, wanted in row.guard),
            row.to.value,
            [action.name.lower() for action in row.actions],
        )
        for row in TABLE
    ]
    actions = {row["action"]: row["what is done"] for row in table("streams.md", "actions")}
    assert actions == {action.name.lower(): action.value for action in Action}


def _on_demand(children: int) -> str:
    return f"{'one' if children == 1 else f'up to {children}'} while there are jobs"


def test_the_roles() -> None:
    described = table("jobs.md", "roles")
    for row, role in zip(described, roles(writers=3, cores=6), strict=True):
        assert (row["role"], row["module"], row["jobs ahead"]) == (role.name, role.module, str(role.jobs_ahead))
        assert row["children"] == (_on_demand(role.children) if role.on_demand else "--writers")
        assert row["cores each"] == ("an equal share" if role.threads > 1 else "1")
