"""The stream: a log in Redis through which the workers of all machines hear each other's notices. Each follows it from where it
was.

A notice is one entry, with the time of Redis's clock; ``XREAD BLOCK`` brings it to every worker at once, and to one that was away
as soon as it is back. Only a worker that has read everything uses Redis (Circuit.resume), so what is stored there is never held
against fewer notices than there are. A worker goes on reading while its circuit is paused for what happened to requests, and while
Redis answers too slowly for them: what is in its own memory depends on the notices too.

Of several notices with the same topic and key the log has the latest, so that it does not grow with what is published again and
again; a hash beside it knows where that is. About LENGTH entries are kept; beyond that the oldest go.

The log begins with a gap for every topic, and its oldest entry counts as one: so a log that was trimmed, or lost with the rest of
Redis (FLUSHALL, eviction, a restart without a disk), hides nothing.

A full Redis takes a notice all the same: it refuses a script that would begin with writing something new, and these begin with
making room (XTRIM, DEL).

A notice that cannot be written waits here, and is written as soon as Redis takes it on the stream's own connections, before the
circuit is resumed. When too many different ones wait, gaps take their place.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

from ..loop.monotonic_clock import CLOCK, MonotonicClock
from ..loop.native_threads import native_thread
from ..remote.circuit import Slow
from ..remote.redis_client import RedisClient
from ..remote.redis_pool import connect, disconnect
from ..tasks import spawn
from . import clock
from .notice import LONGEST, Identity, Notice, gap, gaps, notice_of, text_of

BLOCK = 0.4                     # seconds that one XREAD waits for something new
PATIENCE = 1.0                  # seconds that its end may be late: Redis looks ten times a second, and may be busy
LENGTH = 300_000                # entries of the log, about
BACKLOG = 100_000               # notices that wait for Redis
BATCH = 1000                    # entries of one read; after a failure fewer, which may be as long as notices can be
WHOLE = 5.0                     # seconds for all of a batch, once it has begun to come
CLOCK_INTERVAL = 10.0           # seconds between two looks at Redis's clock
STEP = 1.0                      # seconds: no clock goes wrong by so much between two looks

WRITE = """
local now = redis.call('TIME') redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1]) if redis.call('TYPE', KEYS[2]).ok ~= 'hash' or
redis.call('HLEN', KEYS[2]) > tonumber(ARGV[1]) then redis.call('UNLINK', KEYS[2]) end local added = redis.call('XADD', KEYS[1],
'*', 'at', now[1] .. '.' .. string.format('%06d', now[2]),
                         'notice', ARGV[2], 'by', ARGV[3])
local identity = redis.sha1hex(ARGV[4])
local before = redis.call('HGET', KEYS[2], identity)
if before then redis.call('XDEL', KEYS[1], before) end
redis.call('HSET', KEYS[2], identity, added)
return added
"""
BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local now = redis.call('TIME')
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], '*', 'at', now[1] .. '.' .. string.format('%06d', now[2]), 'notice', ARGV[1], 'by', '')
return true
"""

log = logging.getLogger("gateway")

Hear = Callable[[Notice], None]


class RedisStream:
    """Follows the log with connections of its own, beside those of ``client``; the circuit of ``client`` is its to resume, and the
    clock its to compare."""

    bell = None

    def __init__(self, client: RedisClient, *, length: int = LENGTH, limit: int = BACKLOG, begin: str = BEGIN,
                 now: Callable[[], float] = clock.now, clock: MonotonicClock = CLOCK) -> None:
        self.client = client
        self.length = length
        self.limit = limit
        self.begin = begin
        self.now = now
        self.clock = clock
        self.name = f"{client.prefix}notices"
        self.latest = f"{self.name}:latest" if "{" in self.name else f"{{{self.name}}}:latest"       # on the same node of a Cluster
        self.own = ""                                    # who we are, in the log
        self._unsent: dict[Identity, Notice] = {}
        self._thread = native_thread()                   # whose loop the connections belong to
        self._library: Any = None
        self._last = b"0-0"
        self._batch = BATCH
        self._complete_at = 0.0                          # all that was in the log then is known here
        self._next_look = 0.0
        self._follower: Any = None

    def write(self, *notices: Notice) -> bool:
        """Add these to the log; whether that was possible. If not, they are added when Redis is back."""
        return all([self._write(notice) for notice in notices])

    def _write(self, notice: Notice) -> bool:
        if self._thread == native_thread() and not self._unsent and self.client.ask("EVAL", *self._entry(notice)) is not None:
            return True
        if self._unsent.pop(notice.identity, None) is None and len(self._unsent) >= self.limit:
            self._unsent = gaps(self._unsent, notice.at)
        self._unsent[notice.identity] = notice
        return False

    def backlog(self) -> int:
        return len(self._unsent)

    def _entry(self, notice: Notice) -> tuple[Any, ...]:
        return WRITE, 2, self.name, self.latest, self.length, text_of(*notice[:4]), self.own, text_of(*notice.identity)

    def start(self, hear: Hear) -> None:
        """Follow in a greenlet; Redis is not used before the whole log was read."""
        self.own = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._thread = native_thread()
        self.client.circuit.follow()
        self._follower = spawn(self._follow, hear)

    def stop(self) -> None:
        if self._follower is not None:
            self._follower.kill()
            self._disconnect()

    def _follow(self, hear: Hear) -> None:
        circuit = self.client.circuit
        while True:
            try:
                quickest = self._catch_up(hear)
                if quickest <= circuit.timeout:
                    circuit.resume()
                else:                                    # for requests; not for notices
                    circuit.on_failure(1.0)
                    circuit.pause(Slow(f"no answer within {circuit.timeout * 1000:.0f} ms"))
                while (block := BLOCK if circuit.usable else min(BLOCK, circuit.left())) > 0:
                    self._read(hear, max(1, int(block * 1000)))          # 0 would be for ever
                    self._watch_clock(hear)
                    self._write_backlog()
            except Exception as error:                   # whatever it is: a worker that does not follow hears no notices any more
                self._disconnect()
                self._batch = max(1, self._batch // 10)
                circuit.on_failure(1.0)
                circuit.pause(error)
                self.clock.sleep(max(circuit.left(), 0.01))

    def _catch_up(self, hear: Hear) -> float:
        """Read everything new, and write the backlog; the seconds of Redis's quickest answer. Raises the client's errors, and those
        of a log that is none."""
        if self._library is None:
            self._library = connect(self.client.url, BLOCK + PATIENCE, connections=2, largest=0)
        library = self._library
        quickest = self._compare_clocks(library.time)
        library.eval(self.begin, 1, self.name, text_of(*gap(0.0)[:4]))
        [(first, fields)] = library.xrange(self.name, count=1)       # gone already, or no notice: ValueError, KeyError
        if order(first) > order(self._last):             # new here, or what came in between is lost
            hear(gap(self._moment(fields)))
        while self._read(hear):
            pass
        self._write_backlog()
        return quickest

    def _write_backlog(self) -> None:
        while self._unsent:
            identity, notice = next(iter(self._unsent.items()))
            self._library.eval(*self._entry(notice))
            if self._unsent.get(identity) is notice:     # else a later one took its place meanwhile
                del self._unsent[identity]

    def _watch_clock(self, hear: Hear) -> None:
        """Redis's clock may be set. By how much each of its times is wrong then nobody can tell: a gap up to now, for everybody."""
        if self.clock.now() < self._next_look:
            return
        theirs = self.client.clock
        before = theirs.shift
        self._compare_clocks(lambda: self.client.circuit.limit(self._library.time))
        if abs(theirs.shift - before) > STEP:
            log.warning("the clock of Redis was set by %.1f s: what is kept there is not used any more", theirs.shift - before)
            notice = gap(self.now())
            hear(notice)
            self._unsent[notice.identity] = notice

    def _compare_clocks(self, ask: Callable[[], tuple[int, int]]) -> float:
        """The seconds of the quickest answer."""
        self._next_look = self.clock.now() + CLOCK_INTERVAL
        return self.client.clock.compare(ask, self.now)

    def _read(self, hear: Hear, block: int | None = None) -> int:
        """Hear what came after the last one; how many that were."""
        began, most = self.now(), self._batch
        answer = self.client.circuit.limit(
            lambda: self._library.xread({self.name: self._last}, count=most, block=block), WHOLE)
        entries = [entry for _, batch in pairs(answer) for entry in flat(batch)]
        for number, fields in entries:
            self._last = number
            notice = self._notice(fields)
            if notice is not None:
                hear(notice)
        if len(entries) < most:
            self._complete_at = began
        self._batch = min(BATCH, most * 2)
        return len(entries)

    def _notice(self, fields: dict[bytes, bytes]) -> Notice | None:
        """A notice from its entry in the log; None for our own, and for what is none."""
        if fields.get(b"by") == self.own.encode():
            return None
        try:
            if len(fields[b"notice"]) > LONGEST:
                raise ValueError("longer than any notice")
            notice = notice_of([*json.loads(fields[b"notice"])[:4], self._moment(fields)])
        except (KeyError, ValueError, TypeError):
            notice = None
        if notice is None:
            self.client.circuit.on_failure(1.0)
        return notice

    def _moment(self, fields: dict[bytes, bytes]) -> float:
        """When it was, by our clock: not earlier than it really was. It came after what was known before, whatever Redis's clock
        says, which may have been set."""
        theirs = self.client.clock
        return max(self._complete_at, float(fields[b"at"]) - theirs.shift + theirs.margin)

    def _disconnect(self) -> None:
        if self._library is not None:
            disconnect(self._library)
            self._library = None

    def __repr__(self) -> str:
        return f"RedisStream({self.name}, {len(self._unsent)} wait)"


def order(number: bytes) -> tuple[int, ...]:
    """The place of an entry in the log, from its number ``milliseconds-sequence``."""
    return tuple(map(int, number.split(b"-")))


def pairs(answer: Any) -> list[tuple[Any, Any]]:
    """The streams in an answer to XREAD, a list in one version of the protocol and a dictionary in the other."""
    return list(answer.items()) if isinstance(answer, dict) else list(answer or ())


def flat(batch: Any) -> list[Any]:
    """The entries of one stream, which one version of the protocol wraps once more."""
    return batch[0] if len(batch) == 1 and isinstance(batch[0], list) else batch
