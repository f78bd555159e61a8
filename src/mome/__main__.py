"""``python -m mome``: the command line."""

from mome.apps.cli import main

main()
