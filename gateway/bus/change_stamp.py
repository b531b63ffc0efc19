"""The change stamp: a number in shared memory that a writer of the journal (journal.py) changes after each write.

A worker compares it with the number that it read last, which takes no system call, before it serves anything that depends on
notices; when they differ, it reads the journal first.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import MutableSequence
from pathlib import Path

from ..local.move_aside import move_aside

SIZE = 8                        # bytes


class ChangeStamp:
    """``cell[0]`` is the number, ``last_read`` what it was before the last complete read of the journal. It is not shared until it
    is attached to a file."""

    __slots__ = ("cell", "last_read", "_inode")

    def __init__(self) -> None:
        self.cell: MutableSequence[int] | memoryview[int] = [0]
        self.last_read = 0
        self._inode = 0

    @property
    def is_attached(self) -> bool:
        return self._inode != 0

    def attach(self, path: Path) -> None:
        """Map the file at ``path``; called again, it maps a file that has replaced it. Raises OSError, ValueError."""
        try:
            move_aside(path)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                status = os.fstat(file)
                if status.st_ino != self._inode:
                    if status.st_size < SIZE:
                        os.ftruncate(file, SIZE)
                    self.cell = memoryview(mmap.mmap(file, SIZE)).cast("Q")
                    self._inode = status.st_ino
            finally:
                os.close(file)
        except (OSError, ValueError):
            self._inode = 0
            raise

    def renew(self) -> None:
        """Change the number to a random one: unlike an increment, that cannot restore the number of a concurrent writer."""
        self.cell[0] = secrets.randbits(8 * SIZE)

    def __repr__(self) -> str:
        return f"ChangeStamp({'shared' if self.is_attached else 'not shared'})"
