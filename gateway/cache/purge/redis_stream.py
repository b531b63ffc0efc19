"""How the workers of all machines hear of each other's purges: a log in Redis, a stream that each follows from where it was.

A purge is one entry, with the time of Redis's clock; ``XREAD BLOCK`` brings it to every worker at once, and to one that was away as
soon as it is back. Only a worker that has read everything uses Redis (Circuit.resume), so a record that was purged meanwhile is
never served. It goes on reading while the tier is paused for what happened to requests, and while Redis answers too slowly for
them: what is in its memory has to be purged too.

Of several purges of one bucket (marks.py) the log has the latest, so that it does not grow with what is purged again and again;
a hash beside it knows where that is. Worth reading are KEPT; beyond that the oldest go.

The log begins with entries that everything older is purged (``floor`` in marks.py), and the oldest one in it counts as such: so a
log that was trimmed, or lost with the rest of Redis (FLUSHALL, eviction, a restart without a disk), brings nothing back.

A full Redis takes a purge all the same: it refuses a script that would begin with writing something new, and these begin with
making room (XTRIM, DEL).

A purge that cannot be written waits here, and is written as soon as Redis takes it on the log's own connections, before the tier is
used again. When too many different ones wait, a floor takes their place.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from ...loop.native_threads import native_thread
from ...remote.circuit import Slow
from ...remote.redis_client import RedisClient
from ...remote.redis_pool import connect, disconnect
from ...tasks import spawn
from ..clock import now
from .marks import KINDS, LONGEST_PURGE, Purge, floor

BLOCK = 0.4                     # seconds that one XREAD waits for something new
PATIENCE = 1.0                  # seconds that its end may be late: Redis looks ten times a second, and may be busy
KEPT = 300_000                  # purges in the log, about; more than there are buckets of marks (marks.py)
MOST_WAITING = 100_000          # purges that wait for Redis
BATCH = 1000                    # purges of one read; after a failure fewer, which may be as long as purges can be
WHOLE = 5.0                     # seconds for all of a batch, once it has begun to come
BUCKETED = ("urls", "tags", "edge")
LOOK_AGAIN = 10.0               # seconds
STEPPED = 1.0                   # seconds: no clock goes wrong by so much between two looks

WRITE = """
local now = redis.call('TIME')
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
local added = redis.call('XADD', KEYS[1], '*', 'at', now[1] .. '.' .. string.format('%06d', now[2]),
                         'purge', ARGV[2], 'by', ARGV[3])
if ARGV[4] == '1' then
    local before = redis.call('HGET', KEYS[2], ARGV[2])
    if before then redis.call('XDEL', KEYS[1], before) end
    redis.call('HSET', KEYS[2], ARGV[2], added)
end
return added
"""
BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local now = redis.call('TIME')
redis.call('DEL', KEYS[1])
for _, purge in ipairs(ARGV) do
    redis.call('XADD', KEYS[1], '*', 'at', now[1] .. '.' .. string.format('%06d', now[2]), 'purge', purge, 'by', '')
end
return true
"""

log = logging.getLogger("gateway")


class PurgeStream:
    """Follows the log with a connection of its own, beside those of ``client``."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.name = f"{client.prefix}purges"
        self.latest = f"{self.name}:latest" if "{" in self.name else f"{{{self.name}}}:latest"       # on the same node of a Cluster
        self.waiting: dict[tuple[str, str, bool], Purge] = {}
        self.own = ""                                    # who we are, in the log
        self._thread = native_thread()                   # whose loop the connections belong to
        self._library: Any = None
        self._last = b"0-0"
        self._batch = BATCH
        self._since = 0.0                                # all that was in the log then is known here
        self._look_at = 0.0
        self._greenlet: Any = None

    def write(self, *purges: Purge) -> bool:
        """Tell all workers; whether that was possible. If not, they hear of it when Redis is back."""
        return all([self._write(purge) for purge in purges])

    def _write(self, purge: Purge) -> bool:
        if self._thread == native_thread() and not self.waiting and self.client.ask("EVAL", *self._line(purge)) is not None:
            return True
        if len(self.waiting) >= MOST_WAITING and purge[:3] not in self.waiting:
            self.waiting = {lost[:3]: lost for lost in floor(purge.at)}
        else:
            self.waiting[purge[:3]] = purge
        return False

    def waiting_purges(self) -> int:
        return len(self.waiting)

    def _line(self, purge: Purge) -> tuple[Any, ...]:
        return WRITE, 2, self.name, self.latest, KEPT, json.dumps(purge[:3]), self.own, int(purge.kind in BUCKETED)

    def start(self, heard: Callable[[Purge], None]) -> None:
        """Follow in a greenlet; Redis is not used before the whole log was read."""
        self.own = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._thread = native_thread()
        self.client.circuit.follow()
        self._greenlet = spawn(self._follow, heard)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
            self._disconnect()

    def _follow(self, heard: Callable[[Purge], None]) -> None:
        circuit = self.client.circuit
        while True:
            try:
                quickest = self._catch_up(heard)
                if quickest <= circuit.timeout:
                    circuit.resume()
                else:                                    # for requests; not for hearing purges
                    circuit.failed(1.0)
                    circuit.pause(Slow(f"no answer within {circuit.timeout * 1000:.0f} ms"))
                while (block := BLOCK if circuit.usable else min(BLOCK, circuit.left())) > 0:
                    self._read(heard, max(1, int(block * 1000)))         # 0 would be for ever
                    self._watch_clock(heard)
                    self._write_waiting()
            except Exception as error:                   # whatever it is: who does not follow hears no purges any more
                self._disconnect()
                self._batch = max(1, self._batch // 10)
                circuit.failed(1.0)
                circuit.pause(error)
                sleep(max(circuit.left(), 0.01))

    def _catch_up(self, heard: Callable[[Purge], None]) -> float:
        """Read everything new, and write what waits; how long Redis's quickest answer took. Raises the tier's errors, and those of
        a log that is none."""
        if self._library is None:
            self._library = connect(self.client.url, BLOCK + PATIENCE, connections=2, largest=0)
        library = self._library
        quickest = self._compare_clocks(library.time)
        library.eval(BEGIN, 1, self.name, *(json.dumps(purge[:3]) for purge in floor(0.0)))
        [(first, fields)] = library.xrange(self.name, count=1)        # gone already, or no purge: ValueError, KeyError
        if order(first) > order(self._last):             # new here, or what came in between is lost
            for purge in floor(self._moment(fields)):
                heard(purge)
        while self._read(heard):
            pass
        self._write_waiting()
        return quickest

    def _write_waiting(self) -> None:
        while self.waiting:
            what, purge = next(iter(self.waiting.items()))
            self._library.eval(*self._line(purge))
            if self.waiting.get(what) is purge:          # else a later one took its place meanwhile
                del self.waiting[what]

    def _watch_clock(self, heard: Callable[[Purge], None]) -> None:
        """Redis's clock may be set. By how much each record is wrong then nobody can tell: all of them count as purged."""
        if monotonic() < self._look_at:
            return
        before = self.client.clock.shift
        self._compare_clocks(lambda: self.client.circuit.limited(self._library.time))
        if abs(self.client.clock.shift - before) > STEPPED:
            log.warning("the clock of Redis was set by %.1f s: what is kept there is not used any more",
                        self.client.clock.shift - before)
            for purge in floor(now()):
                heard(purge)
                self.waiting[purge[:3]] = purge

    def _compare_clocks(self, ask: Callable[[], tuple[int, int]]) -> float:
        """The seconds of the quickest answer."""
        self._look_at = monotonic() + LOOK_AGAIN
        return self.client.clock.compare(ask, now)

    def _read(self, heard: Callable[[Purge], None], block: int | None = None) -> int:
        """Hear what came after the last one; how many that were."""
        began, most = now(), self._batch
        answer = self.client.circuit.limited(lambda: self._library.xread({self.name: self._last}, count=most, block=block), WHOLE)
        entries = [entry for _, batch in pairs(answer) for entry in flat(batch)]
        for number, fields in entries:
            self._last = number
            purge = self._purge(fields)
            if purge is not None:
                heard(purge)
        if len(entries) < most:
            self._since = began
        self._batch = min(BATCH, most * 2)
        return len(entries)

    def _purge(self, fields: dict[bytes, bytes]) -> Purge | None:
        """A purge from its entry in the log; None for our own, and for what is none."""
        if fields.get(b"by") == self.own.encode():
            return None
        try:
            if len(fields[b"purge"]) > LONGEST_PURGE:
                raise ValueError("longer than any purge")
            kind, value, soft = json.loads(fields[b"purge"])
            moment = self._moment(fields)
        except (KeyError, ValueError, TypeError):
            self.client.circuit.failed(1.0)
            return None
        return Purge(kind, value, bool(soft), moment) if kind in KINDS and isinstance(value, str) else None

    def _moment(self, fields: dict[bytes, bytes]) -> float:
        """When it was, by our clock: not earlier than it really was. It came after what was known before, whatever Redis's clock
        says, which may have been set."""
        return max(self._since, float(fields[b"at"]) - self.client.clock.shift + self.client.clock.margin)

    def _disconnect(self) -> None:
        if self._library is not None:
            disconnect(self._library)
            self._library = None

    def __repr__(self) -> str:
        return f"PurgeStream({self.name}, {len(self.waiting)} waiting)"


def order(number: bytes) -> tuple[int, ...]:
    """The place of an entry in the log, from its number ``milliseconds-sequence``."""
    return tuple(map(int, number.split(b"-")))


def pairs(answer: Any) -> list[tuple[Any, Any]]:
    """The streams in an answer to XREAD, a list in one version of the protocol and a dictionary in the other."""
    return list(answer.items()) if isinstance(answer, dict) else list(answer or ())


def flat(batch: Any) -> list[Any]:
    """The entries of one stream, which one version of the protocol wraps once more."""
    return batch[0] if len(batch) == 1 and isinstance(batch[0], list) else batch
