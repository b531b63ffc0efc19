"""The request log: one JSON line a request, written beside the requests.

``log_line`` makes a line, ``RequestLog`` takes lines and returns at once. One greenlet collects them for 20 ms or 64 KB and hands
them to a native thread in one piece, so that a disk or a pipe that hangs stops the log and nothing else. What waits is bounded:
above 8 MB new lines are dropped and counted (``gateway_log_dropped_total``), and so are lines that could not be written.

Where lines go: ``stdout``, ``stderr``, ``off``, or a file, which is appended to, so that several workers can share it, and opened
again by ``reopen`` after it was rotated. To anything but a file only pieces of up to PIPE_BUF bytes are written: a pipe never
mixes those with what other workers write.

A line is ASCII, whatever the client sent: nothing in it can end the line, command a terminal or be invalid UTF-8. It holds the
path, but neither the query, which may hold secrets, nor any header field, cookie or body.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import orjson
from gevent.event import Event
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from ..errors import ConfigError, GatewayError, with_cause
from ..message import Attempt, Request
from .metrics import Counter, registry

INTERVAL = 0.02                 # seconds
BATCH = 65536                   # bytes that are written without waiting for more
LIMIT = 8 * 1024 ** 2           # bytes of lines that wait
LONGEST_TEXT = 2048

log = logging.getLogger("gateway")
native_sleep = get_original("time", "sleep")


class RequestLog:
    """``RequestLog("stdout")``. Until ``start``, or its first line, it runs nothing. Raises ConfigError when it cannot be opened.

    ``drops`` counts the lines that are lost. At most ``limit`` bytes wait; they are collected for ``interval`` seconds, and
    written by ``write(fd, data)``, in a native thread.
    """

    def __init__(self, destination: str, drops: Counter | None = None, limit: int = LIMIT,
                 interval: float = INTERVAL, write: Callable[[int, bytes], None] | None = None) -> None:
        self.destination = destination
        self.enabled = destination != "off"
        self.drops = drops or registry.counter("gateway_log_dropped_total", "Lines of the request log that were lost.")
        self.limit = limit
        self._interval = interval
        self._write = write_all if write is None else write
        self._own = destination not in ("stdout", "stderr", "off")
        self._fd = open_to_append(destination) if self._own else {"stdout": 1, "stderr": 2}.get(destination, -1)
        self._lines: list[bytes] = []
        self._size = 0                          # bytes in _lines
        self._wake = Event()                    # there is a line
        self._full = Event()                    # there is no point in waiting for more
        self._idle = Event()                    # every line taken is written or lost
        self._idle.set()
        self._writer: gevent.Greenlet | None = None
        self._pool: ThreadPool | None = None
        self._mid_line = False                      # the last write ended inside a line
        self._failure = ""                       # why lines are being lost

    def start(self) -> None:
        """Start the writer. In the worker: what runs before a fork does not run after it."""
        if self.enabled and self._writer is None:
            self._pool = ThreadPool(1)
            self._writer = gevent.spawn(self._run)

    def write(self, line: bytes) -> None:
        """Take a line, which ends in a newline. Never waits, never fails."""
        if self._size >= self.limit:
            self.drops.inc()
            return
        self._lines.append(line)
        self._size += len(line)
        if self._idle.is_set():
            self._idle.clear()
            self.start()
            self._wake.set()
        if self._size >= BATCH:
            self._full.set()

    def _run(self) -> None:
        while True:
            if not self._lines:
                self._idle.set()
                self._wake.wait()
                self._wake.clear()
            self._full.wait(self._interval)     # not _wake: to wait again for what has just woken us is to miss it
            self._full.clear()
            lines, self._lines, self._size = self._lines, [], 0
            assert self._pool is not None
            losses, reason = self._pool.apply(self._write_out, (lines,))
            if losses:
                self.drops.inc(losses)
            if reason != self._failure:
                self._failure = reason
                log.error("the request log %s: %s", self.destination, f"lines are lost: {reason}" if reason else "works again")

    def _write_out(self, lines: list[bytes]) -> tuple[int, str]:
        """Write all, in a native thread. Returns how many lines were lost, and why."""
        losses, reason = 0, ""
        for count, piece in pieces(lines, self._fd):
            try:
                self._write(self._fd, b"\n" + piece if self._mid_line else piece)
                self._mid_line = False
            except ShortWrite as error:
                losses, reason = losses + min(count, error.lines_left), str(error.__cause__)
                self._mid_line = self._mid_line or error.mid_line
        return losses, reason

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until each line so far is written or lost, at most ``timeout`` seconds; whether it is."""
        self._full.set()
        return bool(self._idle.wait(timeout))

    def reopen(self) -> None:
        """Open the file again, after a rotation. Descriptors are swapped in one step, so a write under way ends where it began."""
        if not self._own:
            return
        try:
            fresh = open_to_append(self.destination)
        except ConfigError as error:
            log.error("%s; going on with the file that is open", error)
            return
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)

    def stop(self, timeout: float = 2.0) -> None:
        """Write what waits and end the writer; lines that come later are dropped. A write that hangs is left behind."""
        self.limit = 0
        is_flushed = self.flush(timeout)
        if self._writer is not None:
            self._writer.kill()
            self._writer = None
        if not is_flushed:
            self.drops.inc(len(self._lines))
            return
        if self._pool is not None:
            self._pool.kill()
        if self._own:
            os.close(self._fd)
            self._own = False

    def __repr__(self) -> str:
        return f"RequestLog({self.destination}, {self._size} bytes wait)"


class ShortWrite(Exception):
    """Of ``data`` only ``done`` bytes were written; ``mid_line`` says whether they end inside a line."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__()
        self.lines_left = data.count(b"\n", size)
        self.mid_line = size > 0 and data[size - 1:size] != b"\n"


def open_to_append(path: str) -> int:
    """A descriptor that appends to ``path``. Raises ConfigError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    except OSError as error:
        raise with_cause(ConfigError([f"gateway: log: cannot open {path!r}: {error.strerror}"]), error)


def pieces(lines: list[bytes], fd: int) -> Iterator[tuple[int, bytes]]:
    """What to write at once, with its number of lines: everything to a file, whole lines up to PIPE_BUF elsewhere."""
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        regular = True                          # closed: the write will say so
    if regular:
        yield len(lines), b"".join(lines)
        return
    first, size = 0, 0
    for position, line in enumerate(lines):
        if size and size + len(line) > select.PIPE_BUF - 1:
            yield position - first, b"".join(lines[first:position])
            first, size = position, 0
        size += len(line)
    yield len(lines) - first, b"".join(lines[first:])


def write_all(fd: int, data: bytes) -> None:
    """Write in a native thread, however long it takes. Raises ShortWrite."""
    size = 0
    while size < len(data):
        try:
            size += os.write(fd, data[size:] if size else data)
        except BlockingIOError:                 # somebody made it non-blocking for all who share it
            native_sleep(0.01)
        except OSError as error:
            raise with_cause(ShortWrite(data, size), error)


_second = 0
_prefix = ""


def timestamp(now: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    global _second, _prefix
    second = int(now)
    if second != _second:
        _prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _second = second
    return f"{_prefix}{int((now - second) * 1000):03d}Z"


def log_line(request: Request, *, now: float, route: str, target: str, status: int, size: int, seconds: float, flag: str,
             error: GatewayError | None = None) -> bytes:
    """The line of a request that is over. ``now`` is Unix time, ``size`` the bytes of body sent, ``seconds`` the whole time."""
    path, host = request.path, request.host
    record: dict[str, Any] = {
        "time": timestamp(now), "id": request.id, "client": request.client, "method": request.method,
        "host": host if len(host) <= LONGEST_TEXT else host[:LONGEST_TEXT] + "...",
        "path": path if len(path) <= LONGEST_TEXT else path[:LONGEST_TEXT] + "...",
        "route": route, "target": target, "status": status, "bytes": size, "duration_ms": int(seconds * 1e6) / 1000,
        "flag": flag,
    }
    if request.attempts:
        record["attempts"] = [attempt_of(attempt) for attempt in request.attempts]
    if error is not None:
        record["error"] = error.code
        record["detail"] = (error.detail or reason_of(error.__cause__))[:LONGEST_TEXT]
    if request.notes:
        record["notes"] = request.notes
    return encode(record)


def attempt_of(attempt: Attempt) -> dict[str, Any]:
    """One try, for the log: its status when there was an answer, else the flag of what went wrong."""
    record: dict[str, Any] = {"upstream": attempt.upstream, "instance": attempt.instance,
                              "ms": int(attempt.seconds * 1e6) / 1000}
    if attempt.flag:
        record["flag"] = attempt.flag
    if attempt.status:
        record["status"] = attempt.status
    return record


def reason_of(cause: BaseException | None) -> str:
    return f"{type(cause).__name__}: {cause}" if cause is not None else ""


def encode(record: dict[str, Any]) -> bytes:
    """JSON in ASCII with a newline. What JSON cannot hold appears as its repr."""
    try:
        line = orjson.dumps(record, default=repr, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:                           # lone surrogates, keys that are no text: rare, and worth a slow line
        return json.dumps(record, default=repr, skipkeys=True).encode() + b"\n"
    if line.isascii():
        return line
    return json.dumps(orjson.loads(line)).encode() + b"\n"
