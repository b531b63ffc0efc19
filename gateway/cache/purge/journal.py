"""How the workers of one machine hear of each other's purges: a file to which each appends, and which each looks at.

One JSON list a line. A worker that starts reads all of it. Then there is the bell beside it, a number in memory that all of them
share: who has added lines puts another number there, and who is about to serve something stored sees without waiting that there is
news, and reads it first. So what was purged before a request came is known to whichever worker gets it. A look every POLL seconds
is for a bell that is gone.

A file that has become too
long is replaced by one that says the same: of several purges of one thing the latest, and no keys that were forgotten before its
newer half. URLs and tags are numbers of buckets by then (marks.py), of which there are so many and no more. Only when that is still
too long, for about 100,000 prefixes, half of it is dropped, under a purge of everything at the time of the last one dropped, but
for when the cache of view code was cleared: that is never dropped.

::

    too long --> read, and said in fewer lines, some at a time, while all go on writing into it
                   --> what was written meanwhile follows, and the new file takes its name
                         --> what was still written into the old one follows too
                         --> each reader reads the old one to its end, then goes on where the new one begins to say something new

The first line of the new file says which one it replaced, and where that is. So nobody misses anything.

Nobody waits for another process: lines are appended in one piece (O_APPEND), and who finds that he wrote into a file that was
replaced writes again. Only who replaces a file has its lock (flock(2)); who does not get that leaves it to the one who has. The
disk may hang all the same: a native thread of its own does whatever touches it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import sleep
from typing import IO, Any

from ...loop.native_threads import SerialThread, native_thread, run_in_thread
from ...move_aside import move_aside
from ...tasks import Semaphore, spawn, spawn_apart
from .. import clock
from .marks import KINDS, LONGEST_PURGE, Purge, floor

POLL = 0.25                     # seconds
ENDING = 0.5                    # seconds that what is under way has when it is stopped
LONGEST = 8 * 1024 ** 2         # bytes
HUGE = 16                       # times that, nobody looks at what it says any more
SHORTER = 3 / 4                 # of that, a file that says the same has to have to be worth it
FLEETING = (b'["key"', b'["view"', b'["edge"', b'["after"')     # about what living workers have in memory, nginx, or were reading
CLEARED = b'["view","",'                                # all values of view code: they are still in their tiers, so this one stays
AFTER = re.compile(rb'\["after","([0-9]+):([0-9]+)",false,0\]\n')       # what inode it replaced, and how much says the same
SOME = 16 * 1024                # bytes that are heard at a time
LINES = 1000                    # lines that are looked at at a time
PAUSE = 0.005                   # seconds between two times, for all others

log = logging.getLogger("gateway")


class PurgeJournal:
    """The file at ``path``. ``read`` gives what came since the last time, ``start`` follows it in a greenlet. With ``make``, its
    folder is made. ``bell[0]`` is another number when there is news, from ``start`` on."""

    def __init__(self, path: str | os.PathLike[str], limit: int = LONGEST, *, make: bool = False) -> None:
        self.path = Path(path)
        self.make = make
        self.limit = limit
        self.bell = memoryview(bytes(8)).cast("Q")
        self._bell_inode = 0
        self._file: IO[bytes] | None = None              # held open, so that no other file gets its inode
        self._greenlet: Any = None
        self._shortening: Any = None
        self._owner = native_thread()                    # another has no loop that goes on
        self._thread = SerialThread()
        self._hearing = Semaphore(1)

    def start(self, heard: Callable[[Purge], None]) -> None:
        """Hear everything there is before this returns, and then whatever comes."""
        if self.make:
            self._thread.run(partial(self.path.parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        self._thread.run(clock.agree, self.path.with_name(f".{self.path.name}.clock"))
        self._thread.run(self._hang_bell)
        self.catch_up(heard)
        self._greenlet = spawn(self._follow, heard)

    def catch_up(self, heard: Callable[[Purge], None]) -> None:
        """Hear whatever there is."""
        while self._deliver(heard):
            pass

    def stop(self) -> None:
        for greenlet in (self._greenlet, self._shortening):
            if greenlet is not None:
                greenlet.kill()
        self._thread.stop(ENDING)
        self.close()

    def _follow(self, heard: Callable[[Purge], None]) -> None:
        while True:
            sleep(POLL)
            self._thread.run(self._hang_bell)
            while self._deliver(heard):
                sleep(PAUSE)

    def _deliver(self, heard: Callable[[Purge], None]) -> bool:
        """Hear some of what came; whether there was anything. What was read before is heard before."""
        with self._hearing:
            try:
                text = self._thread.run(self._some)
            except OSError as error:
                log.error("purges by other workers cannot be read: %s", error)
                return False
            for purge in parsed(text.splitlines()):
                heard(purge)
            return bool(text)

    def _hang_bell(self) -> None:
        """Share the bell that is at its place now, in a folder where files are files."""
        try:
            move_aside(self.path)
            move_aside(bell := self.path.with_name(f".{self.path.name}.bell"))
            place = os.open(bell, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                found = os.fstat(place)
                if found.st_ino != self._bell_inode:
                    if found.st_size < 8:
                        os.ftruncate(place, 8)
                    self.bell = memoryview(mmap.mmap(place, 8)).cast("Q")
                    self._bell_inode = found.st_ino
            finally:
                os.close(place)
        except (OSError, ValueError) as error:
            if self._bell_inode:                         # said once
                log.error("purges by other workers are seen %g s late: there is no bell: %s", POLL, error)
            self._bell_inode = 0

    def write(self, *purges: Purge) -> bool:
        """Tell the others; whether that was possible."""
        try:
            size = self._thread.run(self._told, b"".join(map(line_of, purges)))
        except OSError as error:
            log.error("the other workers do not hear of the purge of %s: %s",
                      ", ".join(f"{purge.kind} {purge.value}" for purge in purges[:10]), error)
            return False
        if size > self.limit and self._shortening is None and self._owner == native_thread():
            self._shortening = spawn_apart(self._shorten)
        return True

    def _told(self, lines: bytes) -> int:
        size = self._append(lines)
        if not self._bell_inode:
            self._hang_bell()
        self.bell[0] = secrets.randbits(64)              # whatever others put there meanwhile: each reads again
        return size

    def _append(self, lines: bytes) -> int:
        """Add lines to the file that is current, and return how long it is then."""
        while True:
            move_aside(self.path)
            with open(self.path, "a+b", buffering=0, opener=private) as file:
                size = file.seek(0, os.SEEK_END)
                broken = size and os.pread(file.fileno(), 1, size - 1) != b"\n"      # no room was left for the end of that line
                data = b"\n" + lines if broken else lines
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with suppress(FileNotFoundError):        # removed meanwhile
                    if os.fstat(file.fileno()).st_ino == os.stat(self.path).st_ino:
                        return size + len(data)

    def waiting_purges(self) -> int:
        return 0

    def _shorten(self) -> None:
        """In a greenlet of its own."""
        try:
            run_in_thread(self._say_shorter)
        except Exception as error:
            log.error("the list of purges cannot be shortened: %s", error)
        finally:
            self._shortening = None

    def _say_shorter(self) -> None:
        """In a native thread, for as long as it takes; unless another process does it."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{id(self):x}")
        try:
            with open(self.path, "rb") as old, open(temporary, "wb", opener=private) as new:
                fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = os.fstat(old.fileno()).st_ino
                new.write(after(inode, 0))
                for line in paused(self._shorter(old)):
                    new.write(line)
                self._replace(old, new, inode)
        except BlockingIOError:                          # another process does it
            return
        finally:
            temporary.unlink(missing_ok=True)

    def _shorter(self, old: IO[bytes]) -> list[bytes]:
        """The same in fewer lines, else the newer half, under a floor at the time of the last one dropped."""
        if os.fstat(old.fileno()).st_size > self.limit * HUGE:
            old.seek(0, os.SEEK_END)
            return [line_of(purge) for purge in floor(clock.now())]
        kept = latest(paused(needed(old)))
        if sum([len(line) for _, line in kept]) > self.limit * SHORTER:
            half = len(kept) // 2
            bottom = max([at for at, _ in kept[:half]], default=0.0)
            cleared = [(at, line) for at, line in kept[:half] if line.startswith(CLEARED)]      # everything is answers only
            kept[:half] = [(bottom, line_of(Purge("everything", "", False, bottom))), *cleared]
        return [line for _, line in kept]

    def _replace(self, old: IO[bytes], new: IO[bytes], inode: int) -> None:
        """By ``new``, and what comes next in ``old``; unless somebody else has replaced it. Without a pause."""
        if os.stat(self.path).st_ino != inode:
            return
        shutil.copyfileobj(old, new)
        length = new.tell()
        new.seek(0)
        new.write(after(inode, length))
        new.flush()
        os.replace(new.name, self.path)
        while rest := old.read(LONGEST_PURGE):                 # who writes from now on sees that it was replaced
            self._append(rest)

    def read(self) -> list[Purge]:
        """What was written since the last call; all of it the first time."""
        purges: list[Purge] = []
        while text := self._some():
            purges += parsed(text.splitlines())
        return purges

    def _some(self) -> bytes:
        """Some of the lines that are new; none when there are none."""
        try:
            inode = os.stat(self.path).st_ino
            if self._file is None:
                self._file = open(self.path, "rb")
            text = whole(self._file)
            if not text and os.fstat(self._file.fileno()).st_ino != inode:       # it was read to its end, and replaced before
                self._file = successor(self._file, self.path)
                text = whole(self._file)
        except FileNotFoundError:
            return b""
        return text

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __repr__(self) -> str:
        return f"PurgeJournal({self.path})"


def private(path: str, flags: int) -> int:
    """Open for the owner only."""
    return os.open(path, flags, 0o600)


def line_of(purge: Purge) -> bytes:
    return json.dumps(purge, separators=(",", ":")).encode() + b"\n"


def after(inode: int, length: int) -> bytes:
    """The first line of a file that replaced another. It is always as long."""
    return b'["after","%020d:%020d",false,0]\n' % (inode, length)


def successor(old: IO[bytes], path: Path) -> IO[bytes]:
    """What replaced a file, at the first line that did not come from that."""
    new = open(path, "rb")
    found = AFTER.fullmatch(new.readline())
    new.seek(int(found[2]) if found is not None and int(found[1]) == os.fstat(old.fileno()).st_ino else 0)
    old.close()
    return new


def whole(file: IO[bytes]) -> bytes:
    """Some of the lines that come next. One that has no end yet is left for the next time."""
    text = file.read(SOME) + file.readline(LONGEST_PURGE)
    end = text.rfind(b"\n") + 1
    if not end and len(text) >= LONGEST_PURGE:                 # no line of ours: it is passed over in pieces
        return text
    file.seek(end - len(text), os.SEEK_CUR)
    return text[:end]


def paused(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The same, with a pause now and then."""
    for number, line in enumerate(lines, 1):
        if not number % LINES:
            sleep(PAUSE)
        yield line


def needed(file: IO[bytes]) -> Iterator[bytes]:
    """The lines that are there now, without what is fleeting in the older half. Then ``file`` is where they end."""
    size, read = os.fstat(file.fileno()).st_size, 0
    while read < size and (line := file.readline(LONGEST_PURGE)).endswith(b"\n"):
        read += len(line)
        if read > size / 2 or not line.startswith(FLEETING) or line.startswith(CLEARED):
            yield line
    file.seek(read)


def latest(lines: Iterable[bytes]) -> list[tuple[float, bytes]]:
    """Of those lines that differ in their time alone, the one with the latest, where it first stood; each with its time."""
    found: dict[bytes, tuple[float, bytes]] = {}
    for line in lines:
        what, _, at = line.rpartition(b",")
        try:
            moment = float(at.strip(b"] \n"))
        except ValueError:                               # no purge
            continue
        if what not in found or found[what][0] < moment:
            found[what] = moment, line
    return list(found.values())


def parsed(lines: Iterable[bytes]) -> Iterator[Purge]:
    """The purges of these lines; what is none is passed over."""
    for line in lines:
        purge = purge_of(line)
        if purge is not None:
            yield purge


def purge_of(text: bytes) -> Purge | None:
    """A purge from its JSON; None when it is none."""
    try:
        kind, value, soft, at = json.loads(text)
    except (ValueError, TypeError):
        return None
    if kind not in KINDS or not isinstance(value, str) or not isinstance(at, (int, float)):
        return None
    return Purge(kind, value, bool(soft), float(at))
