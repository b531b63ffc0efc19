"""What was purged, and how every worker hears of it.

A purge is not a search for entries. It is a mark with a time: whatever a request that began before that time has brought is not
served any more, in whichever tier it lies, also when it arrives after the purge. An entry is held against the marks when it is
looked at for the first time after a new one, and by no more than its URL, its tags and the few lengths of purged prefixes.

====================  =====================================================================================================
``url``               the URL as clients ask for it: ``https://shop.test/a?b=1``, ``//shop.test/a``, or ``/a`` on every host
``prefix``            every URL that begins so, written in the same three ways
``tag``               every entry with this tag
``everything``        every entry
``key``               one key of the store, forgotten by all; not a mark: what is stored under it afterwards counts
``view``              one key of the cache of view code, or with an empty value all of it (store.py)
====================  =====================================================================================================

Hard: the entry is gone. Soft: it is stale from the time of the purge on, with the windows for stale answers that it had.

Purges travel between the workers of one machine through a file (journal.py), between machines through a log in Redis
(redis_log.py). Neither those nor the marks grow without bound: what falls out at the old end leaves a ``floor``, everything
before which counts as purged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

from .entry import Entry, Variants

KINDS = ("url", "prefix", "tag", "everything", "key", "view")
MARKED = ("url", "prefix", "tag")
MOST_MARKS = 50_000


class Purge(NamedTuple):
    """``at`` is in wall clock seconds. ``value`` is the address, the tag or the key."""

    kind: str
    value: str
    soft: bool
    at: float


class Marks:
    """All purges that still matter. ``number`` grows with each, so that what was held against all is known by its number."""

    def __init__(self) -> None:
        self.number = 0
        self.floor, self.soft_floor = 0.0, 0.0
        self._hard: OrderedDict[str, float] = OrderedDict()
        self._soft: OrderedDict[str, float] = OrderedDict()
        self._lengths: dict[int, int] = {}               # of the prefixes, and how many there are of each

    def add(self, purge: Purge) -> None:
        self.number += 1
        if purge.kind == "everything":
            if purge.soft:
                self.soft_floor = max(self.soft_floor, purge.at)
            else:
                self.floor = max(self.floor, purge.at)
        elif purge.kind in MARKED:
            self._mark(self._soft if purge.soft else self._hard, f"{purge.kind} {purge.value}", purge.at)

    def _mark(self, marks: OrderedDict[str, float], name: str, at: float) -> None:
        before = marks.pop(name, None)
        marks[name] = at if before is None else max(at, before)
        if before is None and name.startswith("prefix "):
            length = len(name) - 7
            self._lengths[length] = self._lengths.get(length, 0) + 1
        if len(marks) > MOST_MARKS:
            name, at = marks.popitem(last=False)
            if marks is self._hard:
                self.floor = max(self.floor, at)
            else:
                self.soft_floor = max(self.soft_floor, at)
            if name.startswith("prefix "):
                length = len(name) - 7
                self._lengths[length] -= 1
                if not self._lengths[length]:
                    del self._lengths[length]

    def purged(self, entry: Entry) -> tuple[float, float]:
        """When what this entry is was last purged: hard and soft, 0 for never."""
        hard, soft = self.floor, self.soft_floor
        if self._hard or self._soft:
            for name in self._names(entry):
                hard = max(hard, self._hard.get(name, 0.0))
                soft = max(soft, self._soft.get(name, 0.0))
        return hard, soft

    def _names(self, entry: Entry) -> Iterator[str]:
        """Every mark that would be about this entry."""
        for tag in entry.tags:
            yield f"tag {tag}"
        for address in addresses(entry.url):
            yield f"url {address}"
            for length in self._lengths:
                if length <= len(address):
                    yield f"prefix {address[:length]}"

    def apply(self, variants: Variants) -> Variants | None:
        """What is left of these: the same object when all is, a shorter one, or None. What is purged softly is made stale."""
        kept, changed = [], False
        for entry in variants.entries:
            hard, soft = self.purged(entry)
            if entry.request_time <= hard:
                changed = True
                continue
            if entry.request_time <= soft < entry.expires:
                entry, changed = stale_from(entry, soft), True
            kept.append(entry)
        if not changed:
            return variants
        return Variants(kept) if kept else None

    def __repr__(self) -> str:
        return f"Marks({len(self._hard)} hard, {len(self._soft)} soft, floor {self.floor:.3f})"


def stale_from(entry: Entry, moment: float) -> Entry:
    """The entry, stale since ``moment``, before which it was fresh; how long after that it may be served is what it was."""
    earlier, stale = entry.expires - moment, copy(entry)
    stale.expires = moment
    stale.stale_while_revalidate -= earlier
    stale.stale_if_error -= earlier
    return stale


def addresses(url: str) -> tuple[str, ...]:
    """The three ways to write a URL: whole, without its scheme, without its host."""
    _, mark, rest = url.partition("://")
    if not mark:
        return (url,)
    slash = rest.find("/")
    return (url, f"//{rest}", rest[slash:]) if slash >= 0 else (url, f"//{rest}")


def parsed_purge(url: str | None, prefix: str | None, tag: str | None, everything: bool, soft: bool, at: float) -> Purge:
    """A purge of exactly one of these. Raises ValueError, with a sentence for whoever asked."""
    given = [(kind, value) for kind, value in (("url", url), ("prefix", prefix), ("tag", tag)) if value is not None]
    if everything:
        given.append(("everything", ""))
    if len(given) != 1:
        raise ValueError("purge one of: url, prefix, tag, everything")
    [(kind, value)] = given
    if kind != "everything" and not value:
        raise ValueError(f"{kind} is empty")
    if kind in ("url", "prefix"):
        value = normal(value)
    return Purge(kind, value, soft, at)


def normal(address: str) -> str:
    """The address without a fragment, its scheme and host in lower case. Raises ValueError when it is none."""
    address = address.partition("#")[0]
    if address.startswith("/") and not address.startswith("//"):
        return address
    scheme, mark, rest = address.partition("//")
    host, slash, path = rest.partition("/")
    if not mark or scheme.lower() not in ("http:", "https:", "") or not host:
        raise ValueError(f"{address!r} is not an address: write https://host/path, //host/path, or /path for every host")
    return f"{scheme.lower()}//{host.lower()}{slash}{path}"
