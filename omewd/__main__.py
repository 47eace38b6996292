"""``python -m omewd`` is the ``omewd`` command."""

from omewd.cli.main import main

main()
