"""Errors of a child's job, in the form of an answer to the daemon."""

from __future__ import annotations

import errno

from omewd.errors import OmewdError


def error_of(error: Exception) -> OmewdError | None:
    """The error of a job as an OmewdError; None for one that is neither that nor the disk's."""
    if isinstance(error, OmewdError):
        return error
    return _disk_error(error) if isinstance(error, OSError) else None


def text_of(error: Exception) -> str:
    """What is told of an error that nobody has foreseen."""
    return f"{type(error).__name__}: {error}"[:2000]


def _disk_error(error: OSError) -> OmewdError:
    where = f" ({error.filename})" if error.filename else ""
    text = f"{error.strerror or error}{where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OmewdError("disk_full", f"the disk is full: {text}", "Free space on the drive of the dataset")
    return OmewdError("disk_error", f"writing failed: {text} [{errno.errorcode.get(error.errno or 0, '?')}]")
