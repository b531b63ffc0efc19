"""The cache of view code, and the tiers that it shares with the HTTP cache.

``view_cache`` is one Flask-Caching object for the process, set up for the application by ``init``. It is for memoizing in
application code, where the author chooses the key. It is no HTTP cache: it knows nothing of Cache-Control, Vary, methods or users.
docs/cache.md says what that means for ``cached()``.

``Tiered`` is its backend: ``CACHE_TYPE = "gateway.view_cache.Tiered"``. A value is in the memory of the worker and, where there is
one, in a tier behind it, written as plain data (cache/storage/plain_values.py). A value that is none, an object of the
application's own classes, stays in the memory of the worker, as a copy. A delete or a clear reaches every worker; a value that
another worker sets is seen NEAR seconds later at most.

A tier may have a record older than that: one that was not replaced or deleted, because the tier was away, or for want of a loop in
a native thread. So memory goes before a record that is older, and each worker remembers the last DELETIONS keys that were deleted:
a record from before that counts for nothing.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from flask import Flask, Response
from flask_caching import Cache
from flask_caching.backends.base import BaseCache

from .bus.notice import Notice
from .cache.storage import plain_values
from .cache.storage.construction import store_of
from .cache.storage.lookups import Lookup
from .cache.storage.memory import MemoryTier
from .cache.storage.store import HttpStore
from .cache.storage.tiers import SharedTier
from .config import CacheStorage
from .loop.native_threads import native_lock, native_thread

NEAR = 1.0                      # seconds that memory goes without asking the tier behind it
DELETIONS = 10_000              # keys that are remembered as deleted
FOREVER = 10 * 365 * 86400.0    # seconds
MAGIC = b"WGVC\x01"
TOPIC = "views"                 # of the bus: keys that were deleted, and "" for all

view_cache = Cache()


def init(app: Flask, store: HttpStore | None = None) -> None:
    """Set ``view_cache`` up for ``app`` from its ``CACHE_*`` settings. Without CACHE_TYPE it is Tiered, over ``store``."""
    app.config.setdefault("CACHE_TYPE", "gateway.view_cache.Tiered")
    app.config.setdefault("CACHE_DEFAULT_TIMEOUT", 300)
    app.extensions["wicketgate.store"] = store
    view_cache.init_app(app)


class Tiered(BaseCache):
    """The backend. Without a store of the gateway, it makes one from CACHE_MEMORY (bytes), CACHE_REDIS_URL and CACHE_DIR."""

    def __init__(self, store: HttpStore, memory: int, default_timeout: int = 300, near: float = NEAR,
                 most_deletions: int = DELETIONS) -> None:
        super().__init__(default_timeout)
        self.store = store
        self.near = near
        self.most_deletions = most_deletions
        self.memory = MemoryTier(memory, store.counts.of("evicted", "views"))
        self.deletions: OrderedDict[str, float] = OrderedDict()      # when each of these keys was deleted, the last one last
        self.cleared_at = 0.0                            # when all were, the last time
        self._lock = native_lock()
        self._thread = native_thread()
        store.bus.subscribe(TOPIC, self._hear, self._clear)

    @classmethod
    def factory(cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> Tiered:
        store = app.extensions.get("wicketgate.store")
        if store is None:
            options = {"memory": config.get("CACHE_MEMORY"), "redis": config.get("CACHE_REDIS_URL"),
                       "file": config.get("CACHE_DIR"), "prefix": config.get("CACHE_KEY_PREFIX")}
            store = store_of(CacheStorage(**{name: value for name, value in options.items() if value}))
        return cls(store, store.memory.limit, config["CACHE_DEFAULT_TIMEOUT"])

    def get(self, key: str) -> Any:
        moment = self.store.clock()
        if native_thread() == self._thread:
            self.store.bus.catch_up()
        with self._lock:
            value = self.memory.get(key)
        if value is not None and value.until > moment and (value.checked_at + self.near > moment or not value.is_shared):
            return value.load()
        tiers = self._tiers()
        if tiers and (hit := self.store.lookups.ask(f"view:{key}", partial(self._look_up, key), self.store.patience)) is not None:
            return hit.load()
        if value is not None and value.until > moment and not any(tier.usable for tier in tiers):
            return value.load()                          # nobody can say whether there is a newer one
        return None

    def _look_up(self, key: str, look: Lookup) -> StoredValue | None:
        """What a tier has, in memory from now on; or what memory has, when that is newer."""
        for tier in self._tiers():
            data = tier.get(f"view:{key}")
            if data is not None and not look.invalidated and (value := self._read(tier, key, data)) is not None \
                    and value.stored_at <= self.store.clock() + tier.margin:          # else by a clock that was stepped since
                return self._newer(key, value, tier.margin)
        return None

    def _read(self, tier: SharedTier, key: str, data: bytes) -> StoredValue | None:
        """The value of a record; None when it is none."""
        try:
            value = value_of(key, data, tier.shift)
            value.checked_at = self.store.clock()
            return value
        except ValueError:
            self.store.counts.of("corrupt", tier.name)(1.0)
            tier.delete(f"view:{key}")
            return None

    def _newer(self, key: str, record: StoredValue, margin: float) -> StoredValue | None:
        """Of the value of a record and that in memory. None when the record is older than the last clear() or delete(), and memory
        has nothing. By ``margin`` a record says that it is older than it is, by up to three it seems so here."""
        with self._lock:
            value: StoredValue | None = self.memory.get(key)
            late = value is not None and value.stored_at > record.stored_at + 3 * margin
            valid = record.stored_at > self.cleared_at and record.stored_at + margin > self.deletions.get(key, 0.0)
            if not late and valid:
                self.memory.put(key, record, record.size)
                return record
            if value is None or value.until <= self.store.clock():
                return None
            value.checked_at = self.store.clock()
            return value

    def set(self, key: str, value: Any, timeout: Any = None) -> bool:
        seconds = self._normalize_timeout(timeout) or FOREVER
        if seconds < 0:
            return self.delete(key)
        moment = self.store.clock()
        tiers = self._tiers()
        record = StoredValue(value, moment + seconds, moment, bool(tiers))
        with self._lock:
            self.memory.put(key, record, record.size)
        self.store.lookups.forget(f"view:{key}")           # what a look-up finds now may be older
        if tiers and record.plain is not None:
            self._behind(partial(self._put, key, record, seconds, tiers))
        return True

    def _put(self, key: str, value: StoredValue, seconds: float, tiers: Sequence[SharedTier]) -> None:
        for tier in tiers:
            if not tier.put(f"view:{key}", record_of(key, value, tier.shift - tier.margin), seconds):
                self.store.counts.of("dropped", tier.name)(1.0)

    def _behind(self, work: Callable[[], object]) -> None:
        """Do it behind memory, and wait for it as long as a request may."""
        self.store.lookups.do([work], self.store.patience)

    def add(self, key: str, value: Any, timeout: Any = None) -> bool:
        return not self.has(key) and self.set(key, value, timeout)

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def delete(self, key: str) -> bool:
        present, moment = self.has(key), self.store.clock()
        self._forget(key, moment, moment)
        self._behind(partial(self._delete, key, self._tiers(), moment))
        return present

    def _delete(self, key: str, tiers: Sequence[SharedTier], at: float) -> None:
        for tier in tiers:
            tier.delete(f"view:{key}")
        self.store.bus.send(Notice(TOPIC, key, None, False, at)).wait()

    def _forget(self, key: str, at: float, surely: float) -> None:
        """Drop what was stored under a key before it was deleted ``at``. A record has to be from before ``surely``."""
        with self._lock:
            value = self.memory.get(key)
            if value is not None and value.stored_at <= at:
                self.memory.delete(key)
            self.deletions[key] = max(surely, self.deletions.pop(key, 0.0))
            if len(self.deletions) > self.most_deletions:
                self.deletions.popitem(last=False)
        self.store.lookups.forget(f"view:{key}")

    def clear(self) -> bool:
        self.store.bus.publish(Notice(TOPIC, "", None, True, self.store.clock())).wait()
        return True

    def _hear(self, notice: Notice) -> None:
        if not notice.key:
            self._clear(notice.at)
            return
        margin = max([tier.margin for tier in self.store.tiers], default=0.0)
        self._forget(notice.key, notice.at, notice.at - 2 * margin)      # what is set right after it is not refused for two clocks

    def _clear(self, at: float) -> None:
        """Forget what was stored up to then."""
        self.cleared_at = max(self.cleared_at, at)
        with self._lock:
            for key in [key for key, node in self.memory.nodes.items() if node.value.stored_at <= at]:
                self.memory.delete(key)

    def _tiers(self) -> Sequence[SharedTier]:
        """Those behind memory. Their connections belong to the loop of one thread."""
        return self.store.tiers if native_thread() == self._thread else ()

    def __repr__(self) -> str:
        return f"Tiered({self.memory!r}, {', '.join(map(repr, self.store.tiers)) or 'no tier behind it'})"


class StoredValue:
    """A value in memory. Each ``load()`` gives one of its own, so that whoever changes it changes nothing for others. ``plain`` is
    its plain form, None when it has none; then ``copy`` is a copy of it. Times are in seconds (bus/clock.py). ``is_shared``: tiers
    have it too; they were read at ``checked_at``."""

    __slots__ = ("plain", "copy", "until", "stored_at", "checked_at", "is_shared", "size")

    def __init__(self, value: Any, until: float, stored_at: float, is_shared: bool, plain: bytes | None = None) -> None:
        self.until = until
        self.stored_at = self.checked_at = stored_at
        self.plain = plain if plain is not None else pack(value)
        self.copy = None if self.plain is not None else deepcopy(value)
        self.is_shared = is_shared and self.plain is not None
        self.size = 200 + (len(self.plain) if self.plain is not None else 1000)

    def load(self) -> Any:
        return unpack(self.plain) if self.plain is not None else deepcopy(self.copy)


def pack(value: Any) -> bytes | None:
    """A value in its plain form, an answer of Flask among them; None when it has none."""
    try:
        if type(value) is Response and not value.is_streamed and not value.direct_passthrough:
            return b"R" + plain_values.dumps((value.status, list(value.headers), value.get_data()))
        return b"V" + plain_values.dumps(value)
    except plain_values.NotPlainData:
        return None


def unpack(plain: bytes) -> Any:
    value = plain_values.loads(plain[1:])
    if plain[:1] == b"V":
        return value
    status, headers, body = value
    return Response(body, status, headers)


def record_of(key: str, value: StoredValue, shift: float) -> bytes:
    """The record of a tier: a mark, a checksum, and when it was stored, until when, under which key, and the plain value."""
    rest = plain_values.dumps((value.stored_at + shift, value.until + shift, key, value.plain))
    return MAGIC + zlib.crc32(rest).to_bytes(4, "big") + rest


def value_of(key: str, data: bytes, shift: float) -> StoredValue:
    """The value of a record. Raises ValueError for what is no such record."""
    if data[:5] != MAGIC or data[5:9] != zlib.crc32(memoryview(data)[9:]).to_bytes(4, "big"):
        raise ValueError("not a record of this version")
    try:
        stored_at, until, stored_key, plain = plain_values.loads(data[9:])
        unpack(plain)
    except (TypeError, IndexError) as error:
        raise ValueError(f"not a record of this version: {error}") from None
    if stored_key != key or not (isinstance(stored_at, float) and isinstance(until, float)):
        raise ValueError("the record of another key")
    return StoredValue(None, until - shift, stored_at - shift, True, plain)
