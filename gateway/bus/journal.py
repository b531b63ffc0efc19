"""The journal: a file through which the workers of one machine hear each other's notices. Each appends to it, and each reads it.

One notice a line (notice.py). A worker that starts reads all of it. Whoever has appended lines rings the bell (bell.py); a worker
that depends on the news sees that without waiting, and reads it first. So what was published before a request came is known to
whichever worker gets it. A look every POLL seconds is for a bell that is gone.

A file that has become too long is replaced by one with fewer lines (log_compaction.py)::

    too long --> compacted, some lines at a time, while all go on writing into it
                   --> what was written meanwhile follows, and the new file takes its name
                         --> what was still written into the old one follows too
                         --> each reader reads the old one to its end, then goes on where the new one begins to say something new

The first line of the new file says which one it replaced, and where that is. So nobody misses anything.

Nobody waits for another process: lines are appended in one piece (O_APPEND), and a writer that finds the file replaced writes
again. Only the process that replaces a file has its lock (flock(2)); one that does not get the lock leaves it to the other. The
disk may hang all the same: a native thread of its own does whatever touches it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import sleep
from typing import IO, Any

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.native_threads import SerialThread, native_thread, run_in_thread
from ..move_aside import move_aside
from ..tasks import Semaphore, spawn, spawn_apart
from . import clock
from .bell import Bell
from .log_compaction import halve, latest, total
from .notice import LONGEST, Notice, gap, line_of, parse

POLL = 0.25                     # seconds
DRAIN = 0.5                     # seconds that what is under way has when it is stopped
LIMIT = 8 * 1024 ** 2           # bytes
HUGE = 16                       # times that, a file is not read any more before it is replaced
SHORTER = 3 / 4                 # of the limit, which a compacted file may have
SUCCESSOR = re.compile(rb'\["after","([0-9]+):([0-9]+)"\]\n')         # the inode it replaced, and how much says the same
PIECE = 16 * 1024               # bytes that are heard at a time
LINES = 1000                    # lines that are compacted at a time
PAUSE = 0.005                   # seconds between two times, for all others

Hear = Callable[[Notice], None]

log = logging.getLogger("gateway")


class Journal:
    """The file at ``path``, of about ``limit`` bytes at most. ``read`` returns what came since the last time, ``start`` follows it
    in a greenlet. With ``make``, its folder is made."""

    def __init__(self, path: str | os.PathLike[str], limit: int = LIMIT, *, make: bool = False, poll: float = POLL,
                 piece: int = PIECE, lines: int = LINES, huge: int = HUGE, clock: MonotonicClock = CLOCK) -> None:
        self.path = Path(path)
        self.limit = limit
        self.make = make
        self.poll = poll
        self.piece = piece
        self.lines = lines
        self.huge = huge
        self.clock = clock
        self.bell = Bell()
        self._mute = False                               # it was logged that the bell cannot be shared
        self._file: IO[bytes] | None = None              # held open, so that no other file gets its inode
        self._follower: Any = None
        self._compacting: Any = None
        self._owner = native_thread()                    # another has no loop that goes on
        self._thread = SerialThread()
        self._reading = Semaphore(1)

    def start(self, hear: Hear) -> None:
        """Hear everything there is before this returns, and then whatever comes."""
        if self.make:
            self._thread.run(partial(self.path.parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        self._thread.run(clock.agree, self.path.with_name(f".{self.path.name}.clock"))
        self._thread.run(self._hang_bell)
        self.catch_up(hear)
        self._follower = spawn(self._follow, hear)

    def catch_up(self, hear: Hear) -> None:
        """Hear whatever there is."""
        while self._deliver(hear):
            pass

    def stop(self) -> None:
        for greenlet in (self._follower, self._compacting):
            if greenlet is not None:
                greenlet.kill()
        self._thread.stop(DRAIN)
        self.close()

    def _follow(self, hear: Hear) -> None:
        while True:
            self.clock.sleep(self.poll)
            self._thread.run(self._hang_bell)
            while self._deliver(hear):
                self.clock.sleep(PAUSE)

    def _deliver(self, hear: Hear) -> bool:
        """Hear some of what came; whether there was anything. What was read before is heard before."""
        with self._reading:
            try:
                text = self._thread.run(self._read_piece)
            except OSError as error:
                log.error("notices of other workers cannot be read: %s", error)
                return False
            for notice in notices_in(text.splitlines()):
                hear(notice)
            return bool(text)

    def _hang_bell(self) -> None:
        """Share the bell that is at its place now, in a folder where files are files."""
        try:
            move_aside(self.path)
            self.bell.hang(self.path.with_name(f".{self.path.name}.bell"))
            self._mute = False
        except (OSError, ValueError) as error:
            if not self._mute:
                log.error("notices of other workers are heard %g s late: there is no bell: %s", self.poll, error)
            self._mute = True

    def write(self, *notices: Notice) -> bool:
        """Append these; whether that was possible."""
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
        if not self.bell.hangs:
            self._hang_bell()
        self.bell.ring()
        return size

    def _append(self, lines: bytes) -> int:
        """Add lines to the file that is current, and return how long it is then."""
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
        """In a greenlet of its own."""
        try:
            run_in_thread(self._make_shorter)
        except Exception as error:
            log.error("the journal cannot be made shorter: %s", error)
        finally:
            self._compacting = None

    def _make_shorter(self) -> None:
        """In a native thread, for as long as it takes; unless another process does it."""
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
        """What is left of the lines that are there now; then ``old`` is where they end."""
        size = os.fstat(old.fileno()).st_size
        if size > self.limit * self.huge:
            old.seek(0, os.SEEK_END)
            return [line_of(gap(clock.now()))]
        left = latest(self._with_pauses(lines_of(old, size)), size)
        if total(left) > self.limit * SHORTER:
            left = halve(left)
        return [line.text for line in left]

    def _with_pauses(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The same, with a pause now and then."""
        for number, line in enumerate(lines, 1):
            if not number % self.lines:
                sleep(PAUSE)
            yield line

    def _replace(self, old: IO[bytes], new: IO[bytes], inode: int) -> None:
        """Replace the file by ``new``, and what comes next in ``old``; unless another process has replaced it. Without a pause."""
        if os.stat(self.path).st_ino != inode:
            return
        shutil.copyfileobj(old, new)
        length = new.tell()
        new.seek(0)
        new.write(successor_line(inode, length))
        new.flush()
        os.replace(new.name, self.path)
        while rest := old.read(LONGEST):                 # a writer sees from now on that it was replaced
            self._append(rest)

    def read(self) -> list[Notice]:
        """What was written since the last call; all of it the first time."""
        notices: list[Notice] = []
        while text := self._read_piece():
            notices += notices_in(text.splitlines())
        return notices

    def _read_piece(self) -> bytes:
        """Some of the lines that are new; none when there are none."""
        try:
            inode = os.stat(self.path).st_ino
            if self._file is None:
                self._file = open(self.path, "rb")
            text = whole_lines(self._file, self.piece)
            if not text and os.fstat(self._file.fileno()).st_ino != inode:       # it was read to its end, and replaced before
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
    """Open for the owner only."""
    return os.open(path, flags, 0o600)


def successor_line(inode: int, length: int) -> bytes:
    """The first line of a file that replaced another. It is always as long."""
    return b'["after","%020d:%020d"]\n' % (inode, length)


def successor(old: IO[bytes], path: Path) -> IO[bytes]:
    """What replaced a file, at the first line that did not come from that."""
    new = open(path, "rb")
    match = SUCCESSOR.fullmatch(new.readline())
    new.seek(int(match[2]) if match is not None and int(match[1]) == os.fstat(old.fileno()).st_ino else 0)
    old.close()
    return new


def whole_lines(file: IO[bytes], size: int) -> bytes:
    """The lines that come next, about ``size`` bytes. One that has no end yet is left for the next time."""
    text = file.read(size) + file.readline(LONGEST)
    end = text.rfind(b"\n") + 1
    if not end and len(text) >= LONGEST:                 # no line of ours: it is passed over in pieces
        return text
    file.seek(end - len(text), os.SEEK_CUR)
    return text[:end]


def lines_of(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The lines of the first ``size`` bytes. Then ``file`` is where they end."""
    read = 0
    while read < size and (line := file.readline(LONGEST)).endswith(b"\n"):
        read += len(line)
        yield line
    file.seek(read)


def notices_in(lines: Iterable[bytes]) -> Iterator[Notice]:
    """The notices in these lines; what is none is passed over."""
    return (notice for line in lines if (notice := parse(line)) is not None)
