"""A Redis stream as the transport of notices between the workers of all machines. Each worker follows it from its last entry.

A notice is one entry, with the time of Redis's clock. ``XREAD BLOCK`` delivers it to every worker at once, and to a disconnected
one when it is back. A worker uses Redis only after it has read the whole stream (Circuit.resume), so stored answers are always
compared with all notices. It continues to read while its circuit is paused because requests failed, or because Redis is too slow
for requests: the answers in its own memory depend on the notices too.

The stream keeps the latest of several notices with the same topic and key, so that repeated publication does not make it grow; a
hash beside it has the number of each one's entry. About LENGTH entries are kept, and the oldest are trimmed first.

The stream begins with a gap for every topic, and its oldest entry counts as a gap: so a worker notices when the stream was trimmed,
or lost with the rest of Redis (FLUSHALL, eviction, a restart without persistence).

A Redis at its memory limit accepts notices too: it refuses a script whose first command needs memory, and the scripts here begin
with one that frees some (XTRIM, DEL).

A notice that cannot be written waits in a backlog, which is written on the stream's own connections before the circuit is resumed.
When more than ``limit`` different ones wait, gaps replace them.
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
from .clock import BUS_CLOCK
from .notice import LONGEST, Deliver, Identity, Notice, gap, gaps, json_text, notice_from

BLOCK = 0.4                     # seconds that one XREAD waits for something new
PATIENCE = 1.0                  # seconds that the end of an XREAD may be late: Redis checks ten times a second, and may be busy
LENGTH = 300_000                # entries of the log, about
BACKLOG = 100_000               # notices that wait for Redis at most
BATCH = 1000                    # entries of one read; fewer after a failure, as each may be as long as a notice can be
WHOLE = 5.0                     # seconds for a whole batch
CLOCK_INTERVAL = 10.0           # seconds between two comparisons with Redis's clock
STEP = 1.0                      # seconds: a larger difference between two comparisons is a step, not drift

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


class RedisStream:
    """Follows the stream with connections of its own, beside those of ``client``. It alone resumes the circuit of ``client`` and
    compares its clock."""

    stamp = None

    def __init__(self, client: RedisClient, *, length: int = LENGTH, limit: int = BACKLOG, begin: str = BEGIN,
                 block: float = BLOCK, now: Callable[[], float] = BUS_CLOCK.now, clock: MonotonicClock = CLOCK) -> None:
        self.client = client
        self.length = length
        self.limit = limit
        self.begin = begin
        self.block = block
        self.now = now
        self.clock = clock
        self.name = f"{client.prefix}notices"
        self.latest = f"{self.name}:latest" if "{" in self.name else f"{{{self.name}}}:latest"       # on the same node of a Cluster
        self.own = ""                                    # the name of this worker in its entries
        self._unsent: dict[Identity, Notice] = {}
        self._thread = native_thread()                   # the connections belong to its loop
        self._library: Any = None
        self._last = b"0-0"
        self._batch = BATCH
        self._complete_at = 0.0                          # every entry of before that time has been read
        self._next_look = 0.0
        self._follower: Any = None

    def write(self, *notices: Notice) -> bool:
        """Add notices to the stream; returns whether that succeeded. If not, they are added when Redis is back."""
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
        return WRITE, 2, self.name, self.latest, self.length, json_text(*notice[:4]), self.own, json_text(*notice.identity)

    def start(self, deliver: Deliver) -> None:
        """Follow the stream in a greenlet. The circuit stays paused until the whole stream was read."""
        self.own = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._thread = native_thread()
        self.client.circuit.follow()
        self._follower = spawn(self._follow, deliver)

    def stop(self) -> None:
        if self._follower is not None:
            self._follower.kill()
            self._disconnect()

    def _follow(self, deliver: Deliver) -> None:
        circuit = self.client.circuit
        while True:
            try:
                quickest = self._catch_up(deliver)
                if quickest <= circuit.timeout:
                    circuit.resume()
                else:                                    # too slow for requests, but not for notices
                    circuit.on_failure(1.0)
                    circuit.pause(Slow(f"no answer within {circuit.timeout * 1000:.0f} ms"))
                while (block := self.block if circuit.usable else min(self.block, circuit.left())) > 0:
                    self._read(deliver, max(1, int(block * 1000)))          # 0 would be for ever
                    self._watch_clock(deliver)
                    self._write_backlog()
            except Exception as error:                   # of any kind: without this greenlet the worker gets no notices
                self._disconnect()
                self._batch = max(1, self._batch // 10)
                circuit.on_failure(1.0)
                circuit.pause(error)
                self.clock.sleep(max(circuit.left(), 0.01))

    def _catch_up(self, deliver: Deliver) -> float:
        """Read all new entries and write the backlog; returns the seconds of Redis's quickest answer. Raises the client's errors,
        and ValueError or KeyError for a stream whose entries are not notices."""
        if self._library is None:
            self._library = connect(self.client.url, self.block + PATIENCE, connections=2, largest=0)
        library = self._library
        quickest = self._compare_clocks(library.time)
        library.eval(self.begin, 1, self.name, json_text(*gap(0.0)[:4]))
        [(first, fields)] = library.xrange(self.name, count=1)       # an empty stream: ValueError; another entry: KeyError
        if order(first) > order(self._last):             # a new worker, or entries in between are lost
            deliver(gap(self._moment(fields)))
        while self._read(deliver):
            pass
        self._write_backlog()
        return quickest

    def _write_backlog(self) -> None:
        while self._unsent:
            identity, notice = next(iter(self._unsent.items()))
            self._library.eval(*self._entry(notice))
            if self._unsent.get(identity) is notice:     # else a later one has replaced it meanwhile
                del self._unsent[identity]

    def _watch_clock(self, deliver: Deliver) -> None:
        """Detect a step of Redis's clock, after which the times of its entries are unreliable, and publish a gap up to now."""
        if self.clock.now() < self._next_look:
            return
        theirs = self.client.clock
        before = theirs.shift
        self._compare_clocks(lambda: self.client.circuit.limit(self._library.time))
        if abs(theirs.shift - before) > STEP:
            log.warning("the clock of Redis was set by %.1f s: what is kept there is not used any more", theirs.shift - before)
            notice = gap(self.now())
            deliver(notice)
            self._unsent[notice.identity] = notice

    def _compare_clocks(self, ask: Callable[[], tuple[int, int]]) -> float:
        """Measure the offset of Redis's clock; returns the seconds of its quickest answer."""
        self._next_look = self.clock.now() + CLOCK_INTERVAL
        return self.client.clock.compare(ask, self.now)

    def _read(self, deliver: Deliver, block: int | None = None) -> int:
        """Read and deliver the entries after the last one; returns their number."""
        began, most = self.now(), self._batch
        answer = self.client.circuit.limit(
            lambda: self._library.xread({self.name: self._last}, count=most, block=block), WHOLE)
        entries = [entry for _, batch in pairs(answer) for entry in flat(batch)]
        for number, fields in entries:
            self._last = number
            notice = self._notice(fields)
            if notice is not None:
                deliver(notice)
        if len(entries) < most:
            self._complete_at = began
        self._batch = min(BATCH, most * 2)
        return len(entries)

    def _notice(self, fields: dict[bytes, bytes]) -> Notice | None:
        """Parse the entry of another worker's notice; None for one of this worker, and for an invalid one."""
        if fields.get(b"by") == self.own.encode():
            return None
        try:
            if len(fields[b"notice"]) > LONGEST:
                raise ValueError("longer than any notice")
            notice = notice_from([*json.loads(fields[b"notice"])[:4], self._moment(fields)])
        except (KeyError, ValueError, TypeError):
            notice = None
        if notice is None:
            self.client.circuit.on_failure(1.0)
        return notice

    def _moment(self, fields: dict[bytes, bytes]) -> float:
        """Convert an entry's time to our clock, rounding up: not before its publication. Nor is it before the last complete read,
        whatever Redis's clock says, which may have been set."""
        theirs = self.client.clock
        return max(self._complete_at, float(fields[b"at"]) - theirs.shift + theirs.margin)

    def _disconnect(self) -> None:
        if self._library is not None:
            disconnect(self._library)
            self._library = None

    def __repr__(self) -> str:
        return f"RedisStream({self.name}, {len(self._unsent)} wait)"


def order(number: bytes) -> tuple[int, ...]:
    """The sort key of an entry's number ``milliseconds-sequence``."""
    return tuple(map(int, number.split(b"-")))


def pairs(answer: Any) -> list[tuple[Any, Any]]:
    """The streams in a reply to XREAD as pairs of name and entries: RESP2 has a list of pairs, RESP3 a map."""
    return list(answer.items()) if isinstance(answer, dict) else list(answer or ())


def flat(batch: Any) -> list[Any]:
    """The entries of one stream; RESP3 wraps them in one more list."""
    return batch[0] if len(batch) == 1 and isinstance(batch[0], list) else batch
