"""The purge index: the times of purges, with which stored answers are compared (lazy invalidation, as Varnish's bans).
Pure.

A purge does not search for entries. It adds a mark with its time: no answer to a request from before that time is served any more,
in whichever tier it is stored, even if it is stored after the purge. An entry is compared with the marks at its first lookup after
a new one, by its URL, its tags and the few lengths of purged prefixes.

Marks of URLs and tags are hashed into BUCKETS, each with the time of its latest purge: so any number of them fits, and none is
evicted. Another entry in a purged bucket costs one additional request to the upstream.

====================  =====================================================================================================
``url``               the URL as clients ask for it: ``https://shop.test/a?b=1``, ``//shop.test/a``, or ``/a`` on every host
``prefix``            every URL that begins so, written in the same three ways
``tag``               every entry with this tag
``everything``        every entry
``urls``, ``tags``    every entry in one bucket: the form in which purges of URLs and tags are sent
====================  =====================================================================================================

A hard purge removes the entry. A soft purge makes it stale from the time of the purge on, and leaves its stale windows.

URLs are compared in normal form (``normalize``), which ignores the order of query parameters. That is coarser than the key of an
entry (key.py): one purge matches all spellings that a client might mean.

Purges are sent as notices of the bus (gateway/bus), in the form of ``short``. The marks of prefixes are bounded: an evicted one
raises the ``floor``, and everything stored before the floor counts as purged. So does everything before a gap in the notices, or
before a purge of a kind that only a later version knows.
"""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from ...bus.notice import Notice
from ...http.percent_encoding import normal_escapes
from ..entry import Entry, Variants

TOPIC = "purges"
KINDS = ("url", "prefix", "tag", "everything", "urls", "tags")
BUCKETS = 65_536
PREFIXES = 50_000
PORTS = {"http:": ":80", "https:": ":443"}
BUCKET = re.compile("([0-2]):([0-9]{1,6})")


class Purge(NamedTuple):
    """``at`` is in seconds (bus/clock.py). ``value`` is the address, the tag, or the number of a bucket."""

    kind: str
    value: str
    soft: bool
    at: float

    def short(self) -> Purge:
        """The form in which it is sent: an address or a tag as the number of its bucket."""
        if self.kind == "url":
            return self._replace(kind="urls", value=f"{form_of(self.value)}:{bucket_of(self.value)}")
        if self.kind == "tag":
            return self._replace(kind="tags", value=str(bucket_of(self.value)))
        return self


def purge_notice(purge: Purge) -> Notice:
    return Notice(TOPIC, f"{'soft' if purge.soft else 'hard'} {purge.kind} {purge.value}", None, True, purge.at)


def purge_of(notice: Notice) -> Purge:
    """Parse the purge in a notice; one of a kind that only a later version knows becomes a purge of everything."""
    how, _, what = (notice.key or "").partition(" ")
    kind, _, value = what.partition(" ")
    if how not in ("soft", "hard") or kind not in KINDS:
        return Purge("everything", "", False, notice.at)
    return Purge(kind, value, how == "soft", notice.at)


class Times:
    """The time of the latest purge in each bucket: half a megabyte, allocated with the first one."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: array[float] | None = None

    def __bool__(self) -> bool:
        return self._times is not None

    def mark(self, bucket: int, at: float) -> None:
        if self._times is None:
            self._times = array("d", bytes(8 * BUCKETS))
        self._times[bucket] = max(self._times[bucket], at)

    def at(self, bucket: int) -> float:
        return 0.0 if self._times is None else self._times[bucket]


class Prefixes:
    """The time of the latest purge of each prefix, at most ``limit``, the oldest first. ``lengths`` has the number of prefixes of
    each length."""

    __slots__ = ("limit", "_times", "lengths")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._times: OrderedDict[str, float] = OrderedDict()
        self.lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    def mark(self, prefix: str, at: float) -> float:
        """Record a purge. Returns the time of the prefix that was evicted for it, 0 when none was."""
        before = self._times.pop(prefix, None)
        self._times[prefix] = at if before is None else max(at, before)
        if before is None:
            self.lengths[len(prefix)] = self.lengths.get(len(prefix), 0) + 1
        if len(self._times) <= self.limit:
            return 0.0
        oldest, at = self._times.popitem(last=False)
        self.lengths[len(oldest)] -= 1
        if not self.lengths[len(oldest)]:
            del self.lengths[len(oldest)]
        return at

    def latest(self, addresses: Collection[str]) -> float:
        return max([self._times.get(address[:length], 0.0) for address in addresses for length in self.lengths
                    if length <= len(address)], default=0.0)


class PurgeIndex:
    """The marks of one kind of purge, hard or soft. ``urls`` has one Times for each form of an address (``addresses``)."""

    __slots__ = ("floor", "urls", "tags", "prefixes")

    def __init__(self, prefixes: int) -> None:
        self.floor = 0.0
        self.urls, self.tags, self.prefixes = (Times(), Times(), Times()), Times(), Prefixes(prefixes)

    def add(self, purge: Purge) -> None:
        kind, value, _, at = purge
        if kind == "everything":
            self.floor = max(self.floor, at)
        elif kind == "prefix":
            self.floor = max(self.floor, self.prefixes.mark(value, at))
        elif kind in ("url", "tag"):
            self.add(purge.short())
        elif kind == "tags" and value.isdecimal():
            self.tags.mark(int(value) % BUCKETS, at)
        elif kind == "urls" and (match := BUCKET.fullmatch(value)) is not None:
            self.urls[int(match[1])].mark(int(match[2]) % BUCKETS, at)

    def latest(self, entry: Entry) -> float:
        """The time of the latest purge that matches the entry, 0 for none."""
        latest = self.floor
        if self.tags and entry.tags:
            latest = max(latest, *[self.tags.at(bucket_of(tag)) for tag in entry.tags])
        if any(self.urls):
            for address in addresses(normalize(entry.url)):
                times = self.urls[form_of(address)]
                if times:
                    latest = max(latest, times.at(bucket_of(address)))
        if self.prefixes:
            latest = max(latest, self.prefixes.latest(addresses(normalize(entry.url, whole=False))))
        return latest

    def __repr__(self) -> str:
        return f"PurgeIndex({len(self.prefixes)} prefixes, floor {self.floor:.3f})"


class Marks:
    """All purges, of at most ``prefixes`` prefixes. ``number`` is incremented with each purge: a node in memory remembers up to
    which one its entries were compared."""

    def __init__(self, prefixes: int = PREFIXES) -> None:
        self.number = 0
        self.hard, self.soft = PurgeIndex(prefixes), PurgeIndex(prefixes)

    def add(self, purge: Purge) -> None:
        self.number += 1
        (self.soft if purge.soft else self.hard).add(purge)

    def purge_times(self, entry: Entry) -> tuple[float, float]:
        """The times of the latest hard and soft purge that match the entry, 0 for none."""
        return self.hard.latest(entry), self.soft.latest(entry)

    def apply(self, variants: Variants) -> Variants | None:
        """Drop variants that are purged hard, and make those stale that are purged softly. Returns the same object when none is
        purged, None when none is left."""
        entries, has_change = [], False
        for entry in variants:
            hard, soft = self.purge_times(entry)
            if entry.request_time <= hard:
                has_change = True
                continue
            if entry.request_time <= soft < entry.expires:
                entry, has_change = stale_from(entry, soft), True
            entries.append(entry)
        if not has_change:
            return variants
        return tuple(entries) if entries else None

    def __repr__(self) -> str:
        return f"Marks({self.number} purges, hard {self.hard!r}, soft {self.soft!r})"


def stale_from(entry: Entry, moment: float) -> Entry:
    """A copy of a fresh entry that expires at ``moment``; the lengths of its stale windows stay."""
    earlier, stale = entry.expires - moment, entry.copy()
    stale.expires = moment
    stale.stale_while_revalidate -= earlier
    stale.stale_if_error -= earlier
    return stale


def form_of(address: str) -> int:
    """The index of an address's form in ``addresses``."""
    return 0 if not address.startswith("/") else 1 if address.startswith("//") else 2


def bucket_of(text: str) -> int:
    """The bucket of a text, the same in every process. As the CRCs of similar texts are similar, multiplication spreads them
    (Knuth)."""
    return (crc32(text.encode("utf-8", "surrogatepass")) * 0x9E3779B1 & 0xFFFFFFFF) * BUCKETS >> 32


def addresses(url: str) -> Sequence[str]:
    """The three forms of a normalized address: complete, without scheme, without scheme and host."""
    _, mark, rest = url.partition("://")
    if not mark:
        return (url,)
    host, slash, path = rest.partition("/")
    bare = f"//{without_port(host)}{slash}{path}"
    return (url, bare, slash + path) if slash else (url, bare)


def without_port(host: str) -> str:
    """The host without a default port of any scheme, for addresses without a scheme."""
    for port in PORTS.values():
        host = host.removesuffix(port)
    return host


class Addresses:
    """The URLs under which routes store an answer: some routes drop parts of the query."""

    def __init__(self) -> None:
        self._queries: dict[object, Callable[[str], str | None]] = {}

    def counts_query(self, what: object, query_of: Callable[[str], str | None]) -> None:
        """Register the function with which a route filters queries; ``what`` identifies equal functions."""
        self._queries[what] = query_of

    def purges(self, urls: Iterable[str], soft: bool, at: float) -> set[Purge]:
        """The purges of these URLs, and of them with each registered filter applied. Raises ValueError for an invalid URL."""
        purges = set()
        for url in urls:
            purges.add(parse_purge(url, None, None, False, soft, at))
            address, mark, query = url.partition("#")[0].partition("?")
            for query_of in self._queries.values() if mark else ():
                left = query_of(query)
                purges.add(parse_purge(address if left is None else f"{address}?{left}", None, None, False, soft, at))
        return purges


def parse_purge(url: str | None, prefix: str | None, tag: str | None, everything: bool, soft: bool, at: float) -> Purge:
    """The purge of exactly one of these. Raises ValueError with a message for the operator."""
    choices = [(kind, value) for kind, value in (("url", url), ("prefix", prefix), ("tag", tag)) if value is not None]
    if everything:
        choices.append(("everything", ""))
    if len(choices) != 1:
        raise ValueError("purge one of: url, prefix, tag, everything")
    [(kind, value)] = choices
    if kind != "everything" and not value:
        raise ValueError(f"{kind} is empty")
    if kind in ("url", "prefix"):
        value = normalize(without_fragment(value), whole=kind == "url")
    return Purge(kind, value, soft, at)


def without_fragment(address: str) -> str:
    """The address without its fragment. Raises ValueError when it is not an address."""
    address = address.partition("#")[0]
    if address.startswith("/") and not address.startswith("//"):
        return address
    scheme, mark, rest = address.partition("//")
    if not mark or scheme and scheme.lower() not in PORTS or not rest.partition("/")[0]:
        raise ValueError(f"{address!r} is not an address: write https://host/path, //host/path, or /path for every host")
    return address


def normalize(address: str, whole: bool = True) -> str:
    """The normal form in which addresses are compared (RFC 3986 section 6.2): lower-case scheme and host, no default port, no
    unnecessary percent-encoding. A ``whole`` address gets a path and a sorted query; others are prefixes."""
    start, query = address, ""
    if "?" in address:
        start, _, query = address.partition("?")
        query = f"?{'&'.join(sorted(unescape(query).split('&'))) if whole else unescape(query)}"
    scheme, mark, rest = start.partition("//")
    if start.startswith("/") and not start.startswith("//") or not mark:
        return unescape(start) + query
    scheme = scheme.lower()
    host, slash, path = rest.partition("/")
    host = host.lower()
    host = host.removesuffix(PORTS[scheme]) if scheme in PORTS else without_port(host)
    return f"{scheme}//{host}{'/' if whole else slash}{unescape(path)}{query}"


def unescape(text: str) -> str:
    """Normalize percent-encoding: decode unreserved characters, and encode the others as UTF-8 in upper case."""
    if not text.isascii():
        text = "".join(char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
                       for char in text)
    return normal_escapes(text)
