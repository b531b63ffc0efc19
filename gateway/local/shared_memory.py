"""Memory that the processes of an instance share: for the board of its workers (board.py) and for the metrics of each slot.

One memfd (memfd_create(2)): the master makes it, the workers that it forks inherit it, and it lives as long as one of them. It is
sealed, so nobody can shorten it, which would kill whoever has it mapped (SIGBUS), and no disk has a part in it. What nobody has
written to takes no memory, however large the whole. From outside it is read through a link to it in the run directory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
from pathlib import Path

BOARD = 65536                   # bytes, at the beginning
SLOTS = 1000
ROOM = 40 * 1024 ** 2           # bytes for each slot


class SharedMemory:
    """The memory at ``fd``. ``room`` is the number of bytes for each slot. What this process has made stays open, as links from
    outside lead to its descriptor; that of another process is ``is_borrowed``, and closed when nobody refers to it any more."""

    def __init__(self, fd: int, is_borrowed: bool = False) -> None:
        self.fd = fd
        self.is_borrowed = is_borrowed
        self.room = room_within(os.fstat(fd).st_size)

    @classmethod
    def make(cls) -> SharedMemory:
        """Raises OSError. A limit on the size of files (RLIMIT_FSIZE) holds for memory too, and leaves the slots less room."""
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        room = ROOM if limit == resource.RLIM_INFINITY else min(ROOM, room_within(limit))
        fd = os.memfd_create("gateway-instance", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, BOARD + SLOTS * room)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(fd)

    @classmethod
    def at(cls, path: Path) -> SharedMemory:
        """That of another process. Raises OSError."""
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC), is_borrowed=True)

    def board(self) -> memoryview:
        """Raises ValueError for what is no such memory."""
        return memoryview(mmap.mmap(self.fd, BOARD))

    def slot(self, number: int) -> memoryview:
        """The memory of a slot. Raises OSError and ValueError where there is none."""
        return memoryview(mmap.mmap(self.fd, self.room, offset=BOARD + number * self.room))

    def read(self, slot: int, start: int, size: int) -> bytes:
        """A copy of what is in the memory of a slot from ``start`` on."""
        return os.pread(self.fd, size, BOARD + slot * self.room + start)

    def __del__(self) -> None:
        if self.is_borrowed:
            os.close(self.fd)

    def __repr__(self) -> str:
        return f"SharedMemory({self.fd}, {SLOTS} slots of {self.room} bytes)"


def room_within(size: int) -> int:
    """The bytes for each slot in memory of ``size`` bytes: whole pages."""
    return max(0, size - BOARD) // SLOTS // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
