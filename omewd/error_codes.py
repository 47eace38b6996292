"""Every code that an error of omewd can have: its exit status, what it means, what to do about it.

This table is the one place for them. ``python -m omewd.error_codes`` prints it as docs/reference/errors.md; codes are
stable, messages are not.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_START = 3
EXIT_UNREACHABLE = 4
EXIT_INCOMPLETE = 5


class ErrorCode(NamedTuple):
    """``remedy``: what an error says that has none of its own; empty where nothing general can be said."""

    name: str
    meaning: str
    remedy: str = ""
    exit_status: int = EXIT_ERROR


SECTIONS: dict[str, tuple[ErrorCode, ...]] = {
    "Reaching and starting the daemon": (
        ErrorCode(
            "no_daemon",
            "No daemon listens at the socket.",
            "Start one with omewd serve, or name its socket: `socket=…` or $OMEWD_SOCKET",
            EXIT_UNREACHABLE,
        ),
        ErrorCode(
            "unreachable",
            "The daemon can't be reached, does not answer, or has closed the connection.",
            "Look at the daemon's log",
            EXIT_UNREACHABLE,
        ),
        ErrorCode(
            "no_permission",
            "This user may not use the daemon.",
            "Ask to be added to the group that owns the socket, then log in again",
            EXIT_UNREACHABLE,
        ),
        ErrorCode(
            "other_version",
            "The other side is of a version of omewd that does not go with this one.",
            "Restart the daemon after an upgrade; use the same omewd in programs and in the daemon",
        ),
        ErrorCode(
            "daemon_gone", "The daemon was stopped or killed, and none goes on with the stream.", "Start it again"
        ),
        ErrorCode("start_failed", "The daemon could not start.", "See the message, and the daemon's log", EXIT_START),
        ErrorCode(
            "already_running",
            "Another daemon has the socket or the state directory.",
            "Use that one, or choose another --socket and --state-dir",
            EXIT_START,
        ),
        ErrorCode("unsupported_machine", "omewd does not run on this kind of machine.", "Use an x86-64 machine"),
        ErrorCode("stopping", "The daemon is stopping.", "Start it again"),
        ErrorCode("busy", "A limit of clients, streams or requests at a time is reached.", "Try again later"),
        ErrorCode("bad_message", "A message breaks the control protocol.", "Use omewd's own client"),
        ErrorCode("too_large", "A message is larger than its limit.", "Say less, or split it"),
        ErrorCode("internal", "A bug in omewd.", "Report it, with the daemon's log"),
    ),
    "Commands and programs": (
        ErrorCode("usage", "A command line or an argument can't be used.", "See --help of the command", EXIT_USAGE),
        ErrorCode("interrupted", "The command was interrupted (Ctrl-C)."),
        ErrorCode("timeout", "What was waited for did not happen in time.", "Wait longer, or see omewd status"),
        ErrorCode("bad_timeout", "A time-out is not a number of seconds.", "Pass a number, or None to wait for ever"),
        ErrorCode("not_installed", "A library that this takes is not installed.", "Install it with pip"),
        ErrorCode("camera_died", "A process that handed frames over for a benchmark has ended."),
        ErrorCode("not_started", "No acquisition has begun with this handler.", "Look at the acquisition engine's log"),
        ErrorCode("error", "A command could not do what it was asked to; the message says why."),
    ),
    "Opening streams": (
        ErrorCode("bad_spec", "The specification of a stream can't be used.", "See omewd.StreamSpec", EXIT_USAGE),
        ErrorCode("stream_exists", "A stream of that name is open.", "Choose another name, or stop it first"),
        ErrorCode("unknown_stream", "There is no stream of that name.", "See omewd status"),
        ErrorCode("unknown_source", "The stream has no such source, or several.", "Say which one: `source=…`"),
        ErrorCode(
            "output_exists",
            "The dataset is already there, or another stream has it.",
            "Pass `overwrite=True` to replace it, or choose another output",
        ),
        ErrorCode(
            "outside_roots",
            "The output is outside the daemon's data roots.",
            "Choose an output inside them, or start the daemon with another --data-root",
        ),
        ErrorCode(
            "no_memory", "The memory budget is too small for this.", "Give the daemon more: omewd serve --memory"
        ),
        ErrorCode(
            "no_shared_memory",
            "There is no room in /dev/shm for the ring.",
            "Free memory, make /dev/shm larger, or pass a smaller `ring_slots=…`",
        ),
        ErrorCode("ring_creation", "The ring's shared memory can't be made.", "See the limits of /dev/shm"),
        ErrorCode("ring_exists", "The ring's shared memory is already there.", "See whether another daemon is running"),
        ErrorCode(
            "no_resources",
            "The daemon lacks descriptors, or can't write its journal.",
            "See the limit of open files and the state directory of the daemon",
        ),
        ErrorCode("no_writers", "No writer process can be started.", "See the daemon's log"),
        ErrorCode("backend_unusable", "The backend can't be used here or for this.", "See omewd backends"),
    ),
    "Handing frames over": (
        ErrorCode("bad_frame", "A frame has another shape, type or place than the stream takes."),
        ErrorCode("bad_metadata", "Metadata can't be kept: too large, not JSON, or of the wrong type."),
        ErrorCode("bad_slot", "A slot was published or given back already.", "Claim another one: `producer.claim()`"),
        ErrorCode("ring_full", "The ring has no free slot.", "See omewd status; the disk may be too slow or stalled"),
        ErrorCode("too_many_frames", "More frames than were declared.", "Declare more, or `t:inf`"),
        ErrorCode("stream_stopped", "The stream takes no more frames.", "Start a new stream"),
        ErrorCode("producer_exists", "The source has its producer already.", "Connect to another source or stream"),
    ),
    "Streams that fail": (
        ErrorCode(
            "stream_failed",
            "The stream has failed. Its `cause` is one of the codes below, or of another table; `lost` says which "
            "frames are missing.",
            "Mend the cause, then omewd resume-stream",
            EXIT_INCOMPLETE,
        ),
        ErrorCode("disk_full", "The dataset's disk or quota is full.", "Free space on the drive of the dataset"),
        ErrorCode("disk_error", "The dataset's disk failed to write or sync.", "See the kernel's log and the drive"),
        ErrorCode("dataset_replaced", "The dataset was moved, removed or replaced while the stream wrote it."),
        ErrorCode("backend_error", "The backend could not encode a write unit.", "Try another backend, and report it"),
        ErrorCode("writer_died", "Each writer that got the job died or hung.", "See the daemon's log"),
        ErrorCode("bad_ring", "The ring is damaged, cut short, or of another version.", "Mend the camera's program"),
        ErrorCode("bad_journal", "The journal's entry of a stream can't be read.", "omewd stop-stream lets it go"),
        ErrorCode(
            "frames_unaccounted",
            "Frames are missing although every write unit is done.",
            "Run omewd verify on the dataset, and report this: it is a bug",
        ),
        ErrorCode(
            "reason_lost", "The stream has failed, and its reason can't be read any more.", "See the daemon's log"
        ),
        ErrorCode("not_failed", "Only a failed stream with frames in its ring can be resumed.", "See omewd status"),
    ),
    "Reading datasets": (
        ErrorCode("not_a_dataset", "The folder is not a dataset of omewd, or its record can't be read."),
        ErrorCode("incomplete", "Data is missing or wrong.", "Run omewd verify on the dataset", EXIT_INCOMPLETE),
        ErrorCode("not_stored", "The dataset has lost the frame, or can't be read.", "Run omewd verify on it"),
        ErrorCode("no_frame", "There is no such frame, or not yet."),
        ErrorCode("overwritten", "The frame has left the ring.", "Ask for it again, or for a later one"),
        ErrorCode("changed", "The ledger has changed since it was read.", "Open it again"),
    ),
}

CODES = {code.name: code for section in SECTIONS.values() for code in section}

_INTRODUCTION = """\
# Errors

<!-- Made by: python -m omewd.error_codes > docs/reference/errors.md -->

Every error of omewd has a code, a message and a remedy. Codes are stable, and are what programs should look at;
messages are for people.

In Python an error is an `omewd.OmewdError` with `code`, `message` and `remedy`; `RingFullError`, `StreamStoppedError`
and `StreamFailedError` are kinds of it. With `--json`, a command prints `{"error": {"code", "message", "remedy"}}`
and ends with the exit status below; without it, one line on standard error.

## Failed streams

A `StreamFailedError` (code `stream_failed`) has the reason and the loss as data, wherever it comes from: the producer's
next call, `close()`, `Client.wait`, a command with `--json`.

| Python | JSON | |
|---|---|---|
| `cause` | `cause` | code of what went wrong, such as `disk_full` |
| `lost` | `lost` | runs of missing frames, (first frame index, count); of several sources one after the other |
| `lost_by_source` | `lost_by_source` | the same by the source's name; in JSON only where sources have names |
| `loss.frames` | `lost_frames` | how many frames are missing |
| `loss.received` | `received` | how many were handed over |

Of each source the first 1,000 runs are told. A producer whose daemon is gone reads them from its ring, which has room
for fewer. Where `lost` is cut short, its counts add up to less than `lost_frames`; the dataset's ledger has the rest.
Until the daemon knows what is lost, `loss` is None and the JSON has none of its fields. In the status, the `error` of a
stream has the cause as its `code`.
"""


def page() -> str:
    """The table as Markdown."""
    parts = [_INTRODUCTION]
    for title, codes in SECTIONS.items():
        rows = [f"| `{c.name}` | {c.exit_status} | {c.meaning} | {c.remedy or '–'} |" for c in codes]
        parts.append(
            "\n".join([f"## {title}\n", "| Code | Exit | Meaning | Usual remedy |", "|---|---|---|---|", *rows, ""])
        )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
