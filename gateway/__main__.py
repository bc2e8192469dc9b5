"""``python -m gateway``: the ``runcast`` command line, also from a checkout."""

from gateway.cli import main

main()
