"""The command line: `privae`, or `python -m privae`."""

from privae.cli.verbs import main

__all__ = ["main"]
