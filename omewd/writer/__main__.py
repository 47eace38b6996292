"""``python -m omewd.writer``: the entry point of a writer process, which only the daemon starts."""

from __future__ import annotations

from omewd.process.child import begin


def main() -> None:
    given = begin("omewd.writer")
    from omewd.writer.worker import serve  # slow to import, so only after the precautions

    serve(given.channel, threads=given.threads, scratch=given.scratch)


if __name__ == "__main__":
    main()
