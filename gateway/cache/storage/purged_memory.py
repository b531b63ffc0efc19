"""The memory of the worker (memory.py), as the purges leave it that were made here and elsewhere.

::

    purge, invalidate ---> heard here ---> channels: the other workers, other machines
    what others have purged --channel or journal--> heard

A purge counts here at once. ``heard`` marks what was purged (marks.py); an entry is held against the marks when it is looked up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from ...loop.time_limit import LoopLimit
from ...tasks import Event
from ..purge.batch import PurgeBatch
from ..purge.marks import NO_MARKS, Addresses, Marks, Purge, parsed_purge
from .lookups import Lookup, Lookups
from .memory import MemoryTier
from .tiers import Bell, Channel, Counts, ignore

log = logging.getLogger("gateway")


class Silent:
    """In place of a journal where there is none."""

    bell = (0,)

    def catch_up(self, heard: Callable[[Purge], None]) -> None:
        """There is nothing to hear."""


SILENT = Silent()


class OutOfTime(Exception):
    """Who waits for a channel goes on."""


class PurgedMemory:
    """``channels`` are those on which purges travel, ``journal`` is the one among them that says at once when there is news (None:
    there is none), ``patience`` is for how many seconds a request waits for them."""

    def __init__(self, memory: MemoryTier, channels: Sequence[Channel], journal: Bell | None, counts: Counts, patience: float,
                 clock: Callable[[], float]) -> None:
        self.memory = memory
        self.channels = tuple(channels)
        self.journal = journal or SILENT
        self.counts = counts
        self.patience = patience
        self.clock = clock
        self.marks = Marks()
        self.views_cleared = 0.0                         # the cache of view code, whose purges travel along: when last
        self.hears: dict[str, Callable[[Purge], Any]] = {"key": self._deleted}       # what is no mark
        self.looks = Lookups()
        self.addresses = Addresses()
        self._known_news = 0                             # what the bell said when all was heard
        self._telling: dict[Channel, PurgeBatch] = {}
        self._bytes = self.counts.of("bytes", "memory")
        self._entries = self.counts.of("entries", "memory")

    @property
    def number(self) -> int:
        """How many purges were heard: while it stays the same, nothing was purged."""
        self.catch_up()
        return self.marks.number

    def catch_up(self) -> None:
        """Hear what the other workers of this machine have purged up to now, or as much of it as there is time for."""
        until = monotonic() + self.patience
        while (news := self.journal.bell[0]) != self._known_news:
            if (left := until - monotonic()) <= 0:
                self._known_news = news                  # whoever comes next need not wait for what is not to be had
                log.warning("what other workers have purged cannot be read within %g s", self.patience)
                return
            self.looks.ask("\0news", self._hear_news, left)

    def _hear_news(self, look: Lookup) -> None:
        news = self.journal.bell[0]                      # before it is read: what comes meanwhile is news again
        self.journal.catch_up(self.heard)
        self._known_news = news

    def purge(self, *, url: str | None = None, prefix: str | None = None, tag: str | None = None, everything: bool = False,
              soft: bool = False) -> int:
        """Purge one of these, here at once and elsewhere within a second. How many ways it has gone: 0 is this worker only.

        Raises ValueError when it is not one of them, or is no address.
        """
        told = (self.purge_urls([url], soft) if url is not None and prefix is tag is None and not everything
                else self._purge({parsed_purge(url, prefix, tag, everything, soft, self.clock())}))
        if "edge" in self.hears:                         # behind the purge, so that who hears of it knows that
            self.tell([Purge("edge", "", False, self.clock())])
        return told

    def purge_urls(self, urls: Iterable[str], soft: bool = False) -> int:
        """Purge all of these. Raises ValueError when one is no address, and then purges none."""
        return self._purge(self.addresses.purges(urls, soft, self.clock()))

    def invalidate(self, urls: Iterable[str]) -> None:
        """Purge what an exchange has changed, and wait until all workers of this machine, and Redis, know it, for no longer than
        a request waits for the tiers. Raises ValueError as purge_urls."""
        purges = self.addresses.purges(urls, False, self.clock())
        for purge in purges:
            self.heard(purge)
        with suppress(OutOfTime), LoopLimit(self.patience, OutOfTime()):
            for written in self._announced(purges):
                written.wait()

    def _announced(self, purges: Iterable[Purge]) -> list[Event]:
        """Tell the others; each is set when a channel has them (cache/purge/batch.py)."""
        shorts = [purge.short() for purge in purges]
        for channel in self.channels if not self._telling else ():
            self._telling[channel] = PurgeBatch(channel.write)
        return [telling.add(short) for telling in self._telling.values() for short in shorts]

    def _purge(self, purges: set[Purge]) -> int:
        for purge in purges:
            self.heard(purge)
        return self.tell(purges)

    def tell(self, purges: Iterable[Purge]) -> int:
        """Tell the other workers; how many ways all have gone when the time is over that a request has. The rest goes on."""
        if not self.channels:
            return 0
        told = self.looks.do([partial(self.announce, purge) for purge in purges], self.patience)
        return min([ways or 0 for ways in told], default=0)

    def announce(self, purge: Purge) -> int:
        """The same as long as it takes."""
        purge = purge.short()
        return sum(channel.write(purge) for channel in self.channels)

    def waiting(self) -> int:
        """How many purges other machines do not know of yet."""
        return sum(channel.waiting_purges() for channel in self.channels)

    def heard(self, purge: Purge) -> None:
        """A purge made here or elsewhere. It is of before now, whatever a clock says that was stepped."""
        if purge.at > (now := self.clock()):
            purge = purge._replace(at=now)
        if purge.kind in NO_MARKS:
            if purge.kind == "view" and not purge.value:
                self.views_cleared = max(self.views_cleared, purge.at)
            self.hears.get(purge.kind, ignore)(purge)
            return
        self.marks.add(purge)
        if purge.kind == "everything" and not purge.soft:
            self.memory.clear()
        self._measure()

    def _deleted(self, purge: Purge) -> None:
        """One key, here or elsewhere: what is being looked up now counts no more either."""
        self.memory.delete(purge.value)
        self.looks.forget(purge.value)

    def _measure(self) -> None:
        self._bytes(self.memory.bytes)
        self._entries(len(self.memory))
