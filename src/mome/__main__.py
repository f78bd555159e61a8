"""``python -m mome``: the command line."""

from mome.cli import main

main()
