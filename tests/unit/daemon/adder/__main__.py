"""The entry point of an adder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from omewd.errors import OmewdError
from omewd.process.child import begin
from omewd.protocol.jobs.job import done_message, failed_message, job_of, ready_message
from omewd.protocol.messages import receive, send
from tests.unit.daemon.adder.jobs import Add, Sum


def add(job: Add) -> Sum:
    if job.dies_without and not Path(job.dies_without).exists():
        Path(job.dies_without).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if not job.numbers:
        raise OmewdError("bad_spec", "there is nothing to add")
    return Sum(sum(job.numbers), os.getpid())


def main() -> None:
    given = begin("tests.unit.daemon.adder")
    send(given.channel, ready_message({"adds": True}))
    while (received := receive(given.channel)) is not None:
        message, _ = received
        try:
            job = job_of(message, {Add.kind: Add})
            assert isinstance(job, Add)
            send(given.channel, done_message(message["lease"], add(job)))
        except OmewdError as error:
            send(given.channel, failed_message(message["lease"], error))


if __name__ == "__main__":
    main()
