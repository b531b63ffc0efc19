"""Purging: in this worker immediately, in the others by the bus, in nginx in front by its generation.

::

    purge --> marks (purge_index.py); everything: the memory is cleared too
      +-----> notice --> bus --> the marks of the other workers
      +-----> step of the generation (nginx_generation.py), and a notice for those of other workers, behind the purge

A lookup compares the entry with the marks (cache/storage/store.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...bus.bus import Bus
from ...bus.notice import Notice
from ...loop.time_limit import join_all
from .nginx_generation import Generation, edge_notice
from .purge_index import TOPIC, Addresses, Marks, Purge, parse_purge, purge_notice, purge_of


class Purger:
    """Publishes and receives purges. ``clear`` is called for a hard purge of everything."""

    def __init__(self, bus: Bus, clear: Callable[[], object], clock: Callable[[], float]) -> None:
        self.bus = bus
        self.clear = clear
        self.clock = clock
        self.marks = Marks()
        self.addresses = Addresses()
        self.generation: Generation | None = None        # of what nginx in front keeps
        bus.subscribe(TOPIC, lambda notice: self.add(purge_of(notice)), self._purge_up_to)

    def purge(self, *, url: str | None = None, prefix: str | None = None, tag: str | None = None, everything: bool = False,
              soft: bool = False) -> int:
        """Purge exactly one of these: in this worker immediately, in the others within a second. Return how many transports
        accepted it; with 0 no other worker knows.

        Raises ValueError for none or several of them, and for what is no address.
        """
        single = url is not None and prefix is tag is None and not everything
        purges = (self.addresses.purges([url], soft, self.clock()) if single and url is not None
                  else {parse_purge(url, prefix, tag, everything, soft, self.clock())})
        if self.generation is None:
            return self._publish(purges)
        step = self.generation.advance()
        number = self._publish(purges, edge_notice(self.clock()))        # behind the purges: who receives it knows those
        join_all([step], self.bus.patience)
        return number

    def purge_urls(self, urls: Iterable[str], soft: bool = False) -> int:
        """Purge all of these, but not in nginx. Return when the transports have accepted it, or a request may wait no longer.
        Raises ValueError when one is no address, and then purges none."""
        return self._publish(self.addresses.purges(urls, soft, self.clock()))

    def _publish(self, purges: Iterable[Purge], *behind: Notice) -> int:
        for purge in purges:
            self.add(purge)
        return self.bus.send(*(purge_notice(purge.short()) for purge in purges), *behind).wait()

    def add(self, purge: Purge) -> None:
        """Apply a purge of this worker or of another."""
        self.marks.add(purge)
        if purge.kind == "everything" and not purge.soft:
            self.clear()

    def _purge_up_to(self, at: float) -> None:
        """After a gap in the notices, any purge up to ``at`` may be lost: purge everything."""
        self.add(Purge("everything", "", False, at))

    def __repr__(self) -> str:
        return f"Purger({self.marks!r})"
