"""The clock of the bus: Unix time as the processes of a machine have agreed upon it, and steady from then on.

Notices have its time, and so has whatever is held against them: stored answers are purged, and grow old, by this clock alone.
Setting the clock of the machine, by an hour or by a day, changes neither: this one counts on from where it was, like
CLOCK_BOOTTIME, which is one for all processes and goes on while the machine sleeps. The difference between the two is a number that
the first process writes down (``agree``), for as long as the machine runs.

After a start of the machine, or where nothing is written down, there is a new number. What was stored by another one may then seem
to be from the future: that is not used (cache/storage/store.py), and a notice from the future counts as one of now.

Dates of messages are in the machine's own time, which is ``ahead`` of this one.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from ..move_aside import move_aside

BOOT = Path("/proc/sys/kernel/random/boot_id")
LONGEST = 200                   # characters of what is agreed upon
MOST = 1e11                     # seconds: it is damaged
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logging.getLogger("gateway")
_offset = -time.clock_gettime(STEADY) + time.time()      # in this order: it is not behind


def now() -> float:
    """Seconds."""
    return time.clock_gettime(STEADY) + _offset


def ahead() -> float:
    """By how many seconds the machine's own clock is ahead; less than 0 when it is behind."""
    return time.time() - now()


def agree(path: Path) -> None:
    """Take the number that is written down in ``path`` for this run of the machine; where there is none, write down our own."""
    global _offset
    try:
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        move_aside(path)
        if (offset := offset_of(path, boot)) is None:
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_text(f"{boot} {_offset!r}")
            if path.exists():                            # of another run, or damaged
                temporary.replace(path)
            else:
                try:
                    os.link(temporary, path)
                except FileExistsError:                  # another process was first
                    pass
                temporary.unlink()
            offset = offset_of(path, boot)
        _offset = _offset if offset is None else offset
    except OSError as error:
        log.error("the processes of this machine cannot agree upon a clock: %s", error)


def offset_of(path: Path, boot: str) -> float | None:
    """What was written down in this run of the machine, None when that is nothing."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            recorded_boot, _, number = file.read(LONGEST).rpartition(" ")
        offset = float(number)
    except (FileNotFoundError, ValueError):
        return None
    return offset if recorded_boot == boot and abs(offset) < MOST else None
