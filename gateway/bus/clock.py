"""The clock of the bus: Unix time that never steps, the same in all processes of a machine.

It is CLOCK_BOOTTIME, which all processes share and which goes on while the machine sleeps, plus an offset that is fixed when the
first process writes it to a file (``agree``), until the machine restarts. Setting the machine's own clock changes neither.

Notices carry its time, and so does whatever they are compared with: by this clock alone stored answers grow old and are purged.
Dates in messages are in the machine's own time, which is ``ahead`` of this one.

After a restart of the machine, or without the file, the offset is a new one. A stored answer may then seem to be from the future,
and is not used (cache/storage/store.py); a notice from the future counts as one of now.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from ..local.move_aside import move_aside

BOOT = Path("/proc/sys/kernel/random/boot_id")
LONGEST = 200                   # characters of the file
MOST = 1e11                     # seconds: a larger offset comes from a damaged file
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logging.getLogger("gateway")


class BusClock:
    """``offset`` is added to CLOCK_BOOTTIME; until ``agree`` it is this process's own. ``wall`` is the machine's own clock.

    ``BUS_CLOCK`` is that of the process, the default of whoever takes one: those that compare times with each other need the same.
    """

    __slots__ = ("offset", "wall")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self.offset = -time.clock_gettime(STEADY) + wall()       # in this order it is not behind

    def now(self) -> float:
        """The time in seconds since 1970."""
        return time.clock_gettime(STEADY) + self.offset

    def ahead(self) -> float:
        """The seconds by which the machine's own clock is ahead of this one; below 0 when it is behind."""
        return self.wall() - self.now()

    def agree(self, path: Path) -> None:
        """Use the offset in the file at ``path`` if it is from this run of the machine; else write our own there."""
        try:
            boot = BOOT.read_text().strip() if BOOT.exists() else ""
            move_aside(path)
            if (offset := offset_of(path, boot)) is None:
                temporary = path.with_name(f"{path.name}.{os.getpid()}")
                temporary.write_text(f"{boot} {self.offset!r}")
                if path.exists():                        # from an earlier run, or damaged
                    temporary.replace(path)
                else:
                    try:
                        os.link(temporary, path)
                    except FileExistsError:              # another process was first
                        pass
                    temporary.unlink()
                offset = offset_of(path, boot)
            self.offset = self.offset if offset is None else offset
        except OSError as error:
            log.error("the processes of this machine cannot agree upon a clock: %s", error)

    def __repr__(self) -> str:
        return f"BusClock({self.now():.3f}, the machine's own {self.ahead():+.3f} s)"


def offset_of(path: Path, boot: str) -> float | None:
    """The offset in the file at ``path``; None when it was not written in this run of the machine."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            recorded_boot, _, number = file.read(LONGEST).rpartition(" ")
        offset = float(number)
    except (FileNotFoundError, ValueError):
        return None
    return offset if recorded_boot == boot and abs(offset) < MOST else None


BUS_CLOCK = BusClock()
