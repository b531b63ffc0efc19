"""The command line, ``gateway``."""

from .commands import main

__all__ = ["main"]
