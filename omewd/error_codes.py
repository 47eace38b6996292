"""The table of all error codes, with their exit status, meaning and usual remedy.

``python -m omewd.error_codes`` prints it as docs/reference/errors.md. Codes are stable; messages are not.
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
    """One code. ``remedy``: for errors without a remedy of their own; empty if there is no general one."""

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
            "See the daemon's log",
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
            "The other side has an incompatible version of omewd.",
            "Restart the daemon after an upgrade, and use the same omewd in programs and in the daemon",
        ),
        ErrorCode(
            "daemon_gone",
            "The daemon was stopped or killed, and no other one goes on with the stream.",
            "Start the daemon again",
        ),
        ErrorCode("start_failed", "The daemon could not start.", "See the message, and the daemon's log", EXIT_START),
        ErrorCode(
            "already_running",
            "Another daemon has the socket or the state directory.",
            "Use that daemon, or choose another --socket and --state-dir",
            EXIT_START,
        ),
        ErrorCode("unsupported_machine", "omewd does not run on this kind of machine.", "Use an x86-64 machine"),
        ErrorCode("stopping", "The daemon is stopping.", "Start the daemon again"),
        ErrorCode("busy", "There are too many clients, streams or requests at once.", "Try again later"),
        ErrorCode("bad_message", "A message breaks the control protocol.", "Use omewd's own client"),
        ErrorCode("too_large", "A message is over the limit.", "Send less, or split it"),
        ErrorCode("internal", "There is a bug in omewd.", "Report it, with the daemon's log"),
    ),
    "Commands and programs": (
        ErrorCode("usage", "A command line or an argument is invalid.", "See the command's --help", EXIT_USAGE),
        ErrorCode("interrupted", "The command was interrupted (Ctrl-C)."),
        ErrorCode("timeout", "Something did not happen in time.", "Wait longer, or see omewd status"),
        ErrorCode("bad_timeout", "A time-out is not a number of seconds.", "Pass a number, or None to wait for ever"),
        ErrorCode("not_installed", "A required library is not installed.", "Install it with pip"),
        ErrorCode("camera_died", "A camera process of a benchmark has ended."),
        ErrorCode("not_started", "No acquisition has started with this handler.", "See the acquisition engine's log"),
        ErrorCode("error", "A command failed; the message says why."),
    ),
    "Opening streams": (
        ErrorCode("bad_spec", "A stream's specification is invalid.", "See omewd.StreamSpec", EXIT_USAGE),
        ErrorCode("stream_exists", "A stream with this name is open.", "Choose another name, or stop it first"),
        ErrorCode("unknown_stream", "There is no stream with this name.", "See omewd status"),
        ErrorCode("unknown_source", "The stream has no such source, or it has several.", "Name one with `source=…`"),
        ErrorCode(
            "output_exists",
            "The dataset already exists, or another stream is using it.",
            "Pass `overwrite=True` to replace it, or choose another output",
        ),
        ErrorCode(
            "outside_roots",
            "The output is outside the daemon's data roots.",
            "Choose an output inside one of them, or add a data root: omewd serve --data-root",
        ),
        ErrorCode(
            "no_memory", "The memory budget is too small for this.", "Give the daemon more: omewd serve --memory"
        ),
        ErrorCode(
            "no_shared_memory",
            "The ring does not fit into shared memory (/dev/shm).",
            "Free memory, enlarge /dev/shm (containers get 64 MiB: see omewd doctor), or pass a smaller `ring_slots=…`",
        ),
        ErrorCode(
            "no_disk_space",
            "The acquisition does not fit on the dataset's drive.",
            "Free space, declare fewer frames, or pass `on_disk_full='wait'` to open it all the same",
        ),
        ErrorCode("ring_creation", "The ring's shared memory can't be created.", "Check the limits of /dev/shm"),
        ErrorCode("ring_exists", "The ring's shared memory already exists.", "Check whether another daemon is running"),
        ErrorCode(
            "no_resources",
            "The daemon lacks descriptors, or can't write its journal.",
            "Check the limit of open files and the daemon's state directory",
        ),
        ErrorCode("no_writers", "No writer process can be started.", "See the daemon's log"),
        ErrorCode("backend_unusable", "The backend can't be used here, or not for this stream.", "See omewd backends"),
    ),
    "Handing frames over": (
        ErrorCode("bad_frame", "The stream does not take a frame with this shape, dtype or index."),
        ErrorCode("bad_metadata", "Metadata are too large, not JSON, or of the wrong type."),
        ErrorCode(
            "bad_slot", "A slot was already published or given back.", "Claim another one with `producer.claim()`"
        ),
        ErrorCode("ring_full", "The ring has no free slot.", "The disk may be too slow or stalled: see omewd status"),
        ErrorCode("too_many_frames", "There are more frames than were declared.", "Declare more frames, or `t:inf`"),
        ErrorCode("stream_stopped", "The stream takes no more frames.", "Start a new stream"),
        ErrorCode("producer_exists", "The source already has a producer.", "Connect to another source or stream"),
    ),
    "Streams that fail": (
        ErrorCode(
            "stream_failed",
            "The stream has failed. Its `cause` is one of the codes below or in another table; `lost` lists the "
            "missing frames.",
            "Remove the cause, then run omewd resume-stream",
            EXIT_INCOMPLETE,
        ),
        ErrorCode("disk_full", "The dataset's disk or quota is full.", "Free space on the drive of the dataset"),
        ErrorCode("disk_error", "The dataset's disk failed to write or sync.", "Check the drive and the kernel's log"),
        ErrorCode("dataset_replaced", "The dataset was moved, removed or replaced while the stream wrote it."),
        ErrorCode("backend_error", "The backend could not encode a write unit.", "Try another backend, and report it"),
        ErrorCode("writer_died", "Every writer that got the job died or hung.", "See the daemon's log"),
        ErrorCode("bad_ring", "The ring is damaged, cut short, or of another version.", "Correct the camera's program"),
        ErrorCode("bad_journal", "A stream's entry in the journal can't be read.", "Discard it with omewd stop-stream"),
        ErrorCode(
            "frames_unaccounted",
            "Frames are missing although all write units are done.",
            "Run omewd verify on the dataset, and report this bug",
        ),
        ErrorCode(
            "reason_lost", "The stream has failed, but the reason can no longer be read.", "See the daemon's log"
        ),
        ErrorCode("not_failed", "Only a failed stream with frames in its ring can be resumed.", "See omewd status"),
    ),
    "Reading datasets": (
        ErrorCode("not_a_dataset", "The folder is not a dataset of omewd, or its record can't be read."),
        ErrorCode("incomplete", "Data are missing or wrong.", "Run omewd verify on the dataset", EXIT_INCOMPLETE),
        ErrorCode(
            "not_finished", "The dataset is still being written, or was left in the middle.", "Wait, or repair it"
        ),
        ErrorCode("not_stored", "The dataset has lost the frame, or can't be read.", "Run omewd verify on it"),
        ErrorCode(
            "evicted",
            "The file was removed after it was copied. The message names the copy that has it.",
            "Read it there, or download it to its path",
        ),
        ErrorCode("no_frame", "There is no such frame, or not yet."),
        ErrorCode("overwritten", "The frame has left the ring.", "Ask for it again, or for a later one"),
        ErrorCode("changed", "The ledger or a file of the dataset has changed since it was read.", "Open it again"),
    ),
    "Copies": (
        ErrorCode(
            "bad_url",
            "Copies can't be at this URL.",
            "Use s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or file:///PATH",
            EXIT_USAGE,
        ),
        ErrorCode(
            "store_error",
            "The store did not answer, failed, or asked for patience too often.",
            "Check the network and the store, then run the command again: it goes on where it was",
        ),
        ErrorCode(
            "store_refused",
            "The store does not accept the credentials, or these may not do it.",
            "Check the credentials in the environment, profile files or configuration file, and their permissions",
        ),
        ErrorCode("no_copy", "The stream has no copy to wait for.", "Start it with --copy-to URL, or use omewd copy"),
        ErrorCode("store_missing", "There is no such bucket, container or folder.", "Create it first"),
        ErrorCode(
            "copy_differs",
            "The store has other bytes than it was sent, again and again.",
            "Check the store and what is between; run the command again",
        ),
    ),
}

CODES = {code.name: code for section in SECTIONS.values() for code in section}

_INTRODUCTION = """\
# Errors

<!-- Made by: python -m omewd.error_codes > docs/reference/errors.md -->

Every error of omewd has a code, a message and a remedy. Programs should look at the codes, which are stable. The
messages are for people.

In Python, an error is an `omewd.OmewdError` with `code`, `message` and `remedy`. `RingFullError`, `StreamStoppedError`
and `StreamFailedError` are subclasses. With `--json`, a command prints `{"error": {"code", "message", "remedy"}}`;
without it, one line on standard error. Its exit status is in the tables below.

## Failed streams

A `StreamFailedError` (code `stream_failed`) has the cause and the loss as data, wherever it comes from: the producer's
next call, `close()`, `Client.wait`, a command with `--json`.

| Python | JSON | |
|---|---|---|
| `cause` | `cause` | the code of what went wrong, such as `disk_full` |
| `lost` | `lost` | the runs of missing frames, (first frame index, count), one source after the other |
| `lost_by_source` | `lost_by_source` | the same runs by the source's name; in JSON only if sources have names |
| `loss.frames` | `lost_frames` | how many frames are missing |
| `loss.received` | `received` | how many frames were handed over |

The lists have the first 1,000 runs of each source. A producer whose daemon is gone reads them from its ring, which has
room for fewer. If `lost` is cut short, its counts add up to less than `lost_frames`; the dataset's ledger has the rest.
Until the daemon knows what is lost, `loss` is None and the JSON has none of its fields. In a stream's status, the
`error` has the cause as its `code`.
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
