"""The command line: `privae`, or `python -m privae`."""

from privae.cli.app import main

__all__ = ["main"]
