"""The journal: a log file through which the workers of one machine exchange notices. Every worker appends to it and reads it.

Each line is one notice (notice.py). A worker reads the whole file when it starts. A writer changes the stamp (change_stamp.py)
after each append; a worker that is about to serve something that depends on notices compares the stamp, without a system call, and
reads the new lines first. So each notice published before a request arrived is known to the worker that gets the request. The file
is also read every POLL seconds, in case the stamp was lost.

When the file is too long, a compacted one (log_compaction.py) replaces it::

    too long --> a new file is written: the compacted lines, in portions, while others append to the old file
                   --> the lines appended meanwhile are copied, and the new file is renamed over the old one
                         --> lines that were still appended to the old file are copied too
                         --> a reader reads the old file to its end, then continues in the new one behind the copied lines

The first line of the new file names the inode of the old one and the position at which a reader continues, so no reader misses a
notice.

No process waits for another: lines are appended in one write (O_APPEND), and a writer that finds the file replaced writes again.
Only the process that compacts takes the lock (flock(2)); one that does not get it leaves the work to the other. As the disk may
hang, a native thread does everything that touches it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import sleep
from typing import IO, Any

from ..local.move_aside import move_aside
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.native_threads import SerialThread, native_thread, run_in_thread
from ..tasks import Semaphore, spawn, spawn_apart
from .change_stamp import ChangeStamp
from .clock import BUS_CLOCK, BusClock
from .log_compaction import halve, latest, total
from .notice import LONGEST, Deliver, Notice, gap, line_of, parse

POLL = 0.25                     # seconds
DRAIN = 0.5                     # seconds that an operation has to end when the journal is stopped
LIMIT = 8 * 1024 ** 2           # bytes
HUGE = 16                       # times the limit: such a file is replaced without being read
SHORTER = 3 / 4                 # of the limit: the size of a compacted file at most
SUCCESSOR = re.compile(rb'\["after","([0-9]+):([0-9]+)"\]\n')         # the old inode, and where new lines begin
PIECE = 16 * 1024               # bytes that are read at a time
LINES = 1000                    # lines that are compacted at a time
PAUSE = 0.005                   # seconds between two portions, for other greenlets and threads

log = logging.getLogger("gateway")


class Journal:
    """The file at ``path``, of about ``limit`` bytes at most. ``read`` returns the notices since the last call, ``start`` follows
    the file in a greenlet. With ``make``, its folder is created. ``bus_clock`` is agreed upon with the other processes."""

    def __init__(self, path: str | os.PathLike[str], limit: int = LIMIT, *, make: bool = False, poll: float = POLL,
                 piece: int = PIECE, lines: int = LINES, huge: int = HUGE, clock: MonotonicClock = CLOCK,
                 bus_clock: BusClock = BUS_CLOCK) -> None:
        self.path = Path(path)
        self.limit = limit
        self.make = make
        self.poll = poll
        self.piece = piece
        self.lines = lines
        self.huge = huge
        self.clock = clock
        self.bus_clock = bus_clock
        self.stamp = ChangeStamp()
        self._stamp_failed = False                       # it was logged that the stamp cannot be shared
        self._file: IO[bytes] | None = None              # kept open, so that no other file gets its inode
        self._follower: Any = None
        self._compacting: Any = None
        self._owner = native_thread()                    # only this thread has a loop that runs the compaction
        self._thread = SerialThread()
        self._reading = Semaphore(1)

    def start(self, deliver: Deliver) -> None:
        """Deliver all notices in the file before this returns, and from then on each new one, in a greenlet."""
        if self.make:
            self._thread.run(partial(self.path.parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        self._thread.run(self.bus_clock.agree, self.path.with_name(f".{self.path.name}.clock"))
        self._thread.run(self._attach_stamp)
        self.catch_up(deliver)
        self._follower = spawn(self._follow, deliver)

    def catch_up(self, deliver: Deliver) -> None:
        """Deliver all notices that are new."""
        while self._deliver(deliver):
            pass

    def stop(self) -> None:
        for greenlet in (self._follower, self._compacting):
            if greenlet is not None:
                greenlet.kill()
        self._thread.stop(DRAIN)
        self.close()

    def _follow(self, deliver: Deliver) -> None:
        while True:
            self.clock.sleep(self.poll)
            self._thread.run(self._attach_stamp)
            while self._deliver(deliver):
                self.clock.sleep(PAUSE)

    def _deliver(self, deliver: Deliver) -> bool:
        """Read and deliver one piece of the new lines, one caller at a time; returns whether there was any."""
        with self._reading:
            try:
                text = self._thread.run(self._read_piece)
            except OSError as error:
                log.error("notices of other workers cannot be read: %s", error)
                return False
            for notice in notices_in(text.splitlines()):
                deliver(notice)
            return bool(text)

    def _attach_stamp(self) -> None:
        """Attach the stamp to its file, after moving aside whatever is no file in the place of the journal."""
        try:
            move_aside(self.path)
            self.stamp.attach(self.path.with_name(f".{self.path.name}.bell"))     # a name that older workers share
            self._stamp_failed = False
        except (OSError, ValueError) as error:
            if not self._stamp_failed:
                log.error("notices of other workers are read up to %g s late: there is no change stamp: %s", self.poll, error)
            self._stamp_failed = True

    def write(self, *notices: Notice) -> bool:
        """Append notices; returns whether that succeeded."""
        try:
            size = self._thread.run(self._publish, b"".join(map(line_of, notices)))
        except OSError as error:
            log.error("the other workers do not hear of %s: %s",
                      ", ".join(f"{notice.topic}: {notice.key}" for notice in notices[:10]), error)
            return False
        if size > self.limit and self._compacting is None and self._owner == native_thread():
            self._compacting = spawn_apart(self._compact)
        return True

    def _publish(self, lines: bytes) -> int:
        size = self._append(lines)
        if not self.stamp.is_attached:
            self._attach_stamp()
        self.stamp.renew()
        return size

    def _append(self, lines: bytes) -> int:
        """Append lines to the current file and return its size. Raises OSError."""
        while True:
            move_aside(self.path)
            with open(self.path, "a+b", buffering=0, opener=private) as file:
                size = file.seek(0, os.SEEK_END)
                mid_line = size and os.pread(file.fileno(), 1, size - 1) != b"\n"    # no room was left for the end of that line
                data = b"\n" + lines if mid_line else lines
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with suppress(FileNotFoundError):        # removed meanwhile
                    if os.fstat(file.fileno()).st_ino == os.stat(self.path).st_ino:
                        return size + len(data)

    def backlog(self) -> int:
        return 0

    def _compact(self) -> None:
        """Compact in a native thread; runs in a greenlet of its own."""
        try:
            run_in_thread(self._make_shorter)
        except Exception as error:
            log.error("the journal cannot be made shorter: %s", error)
        finally:
            self._compacting = None

    def _make_shorter(self) -> None:
        """Replace the file by a compacted one, unless another process does so. Runs in a native thread."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{id(self):x}")
        try:
            with open(self.path, "rb") as old, open(temporary, "wb", opener=private) as new:
                fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = os.fstat(old.fileno()).st_ino
                new.write(successor_line(inode, 0))
                for line in self._with_pauses(self._compact_lines(old)):
                    new.write(line)
                self._replace(old, new, inode)
        except BlockingIOError:                          # another process does it
            return
        finally:
            temporary.unlink(missing_ok=True)

    def _compact_lines(self, old: IO[bytes]) -> list[bytes]:
        """Compact the lines that ``old`` has now, and leave it positioned behind them."""
        size = os.fstat(old.fileno()).st_size
        if size > self.limit * self.huge:
            old.seek(0, os.SEEK_END)
            return [line_of(gap(self.bus_clock.now()))]
        left = latest(self._with_pauses(lines_of(old, size)), size)
        if total(left) > self.limit * SHORTER:
            left = halve(left)
        return [line.text for line in left]

    def _with_pauses(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same lines, pausing between portions."""
        for number, line in enumerate(lines, 1):
            if not number % self.lines:
                sleep(PAUSE)
            yield line

    def _replace(self, old: IO[bytes], new: IO[bytes], inode: int) -> None:
        """Copy the rest of ``old`` to ``new`` and rename that over the file, unless another process has replaced it already."""
        if os.stat(self.path).st_ino != inode:
            return
        shutil.copyfileobj(old, new)
        length = new.tell()
        new.seek(0)
        new.write(successor_line(inode, length))
        new.flush()
        os.replace(new.name, self.path)
        while rest := old.read(LONGEST):                 # from now on every writer sees that it was replaced
            self._append(rest)

    def read(self) -> list[Notice]:
        """The notices appended since the last call; all of them the first time."""
        notices: list[Notice] = []
        while text := self._read_piece():
            notices += notices_in(text.splitlines())
        return notices

    def _read_piece(self) -> bytes:
        """Read complete new lines, up to about ``piece`` bytes; empty when there are none."""
        try:
            inode = os.stat(self.path).st_ino
            if self._file is None:
                self._file = open(self.path, "rb")
            text = whole_lines(self._file, self.piece)
            if not text and os.fstat(self._file.fileno()).st_ino != inode:       # read to its end, after it was replaced
                self._file = successor(self._file, self.path)
                text = whole_lines(self._file, self.piece)
        except FileNotFoundError:
            return b""
        return text

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __repr__(self) -> str:
        return f"Journal({self.path})"


def private(path: str, flags: int) -> int:
    """An opener for ``open``: the file is readable and writable for its owner only."""
    return os.open(path, flags, 0o600)


def successor_line(inode: int, length: int) -> bytes:
    """The first line of a file that replaces another: that one's inode and the position of new lines. Of a fixed length."""
    return b'["after","%020d:%020d"]\n' % (inode, length)


def successor(old: IO[bytes], path: Path) -> IO[bytes]:
    """Open the file that replaced ``old``, positioned at the first line that was not in ``old``, and close ``old``."""
    new = open(path, "rb")
    match = SUCCESSOR.fullmatch(new.readline())
    new.seek(int(match[2]) if match is not None and int(match[1]) == os.fstat(old.fileno()).st_ino else 0)
    old.close()
    return new


def whole_lines(file: IO[bytes], size: int) -> bytes:
    """Read complete lines, up to about ``size`` bytes. An incomplete last line is left for the next call."""
    text = file.read(size) + file.readline(LONGEST)
    end = text.rfind(b"\n") + 1
    if not end and len(text) >= LONGEST:                 # longer than any notice: skipped in pieces
        return text
    file.seek(end - len(text), os.SEEK_CUR)
    return text[:end]


def lines_of(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the complete lines of the first ``size`` bytes, and leave ``file`` positioned behind them."""
    read = 0
    while read < size and (line := file.readline(LONGEST)).endswith(b"\n"):
        read += len(line)
        yield line
    file.seek(read)


def notices_in(lines: Iterable[bytes]) -> Iterator[Notice]:
    """Parse lines into notices; a line that is none is skipped."""
    return (notice for line in lines if (notice := parse(line)) is not None)
