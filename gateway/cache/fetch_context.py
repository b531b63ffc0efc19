"""The state of a request that the cache forwards, and the protocol of the store as fetches use it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol

from ..message import Request
from .decide import withhold
from .entry import Entry, Variants
from .key import SEPARATOR, lines_of, normal, select
from .reasons import URI_MISS, VARY_MISS, Decision
from .request_directives import RequestDirectives


class Store(Protocol):
    """The store as fetches use it (cache/storage/store.py)."""

    def get(self, key: str, owner: Any = None) -> Variants | None: ...

    @property
    def number(self) -> int: ...

    def peek(self, key: str) -> Variants | None: ...

    def put(self, key: str, variants: Variants, keep: float, request_time: float, owner: Any = None) -> Variants | None: ...

    def owner(self, route: str) -> Any: ...

    purger: Any
    caches: Callable[[str], bool]

    def delete(self, key: str) -> None: ...

    def lease(self, key: str, seconds: float) -> Any: ...

    def is_leased(self, key: str) -> bool: ...

    def wait(self, key: str, seconds: float, lease: str = "", demand: Any = None) -> Variants | None: ...


class FetchContext:
    """One request to forward, with the result of its lookup. ``group`` is the key for coalescing: requests with credentials
    coalesce only with each other. ``decision`` is why it is forwarded. ``credentials`` are those that are not in the key."""

    __slots__ = ("request", "directives", "key", "group", "entry", "decision", "personal", "variants", "credentials", "number",
                 "in_memory", "alone", "refreshing", "whole")

    def __init__(self, request: Request, directives: RequestDirectives | None, key: str, group: Any, entry: Entry | None,
                 decision: Decision, personal: bool, variants: Variants | None = None, credentials: int = 0) -> None:
        self.request = request
        self.directives = directives
        self.key = key
        self.group = group
        self.entry = entry
        self.decision = decision
        self.personal = personal
        self.variants = variants
        self.credentials = credentials
        self.number = 0                                  # the store's number of purges at the last lookup
        self.in_memory = False                           # was the key in memory when it was forwarded?
        self.alone = False                               # it neither leads nor follows a flight
        self.refreshing = False                          # a background refresh: no client waits
        self.whole = False                               # a range request that fetches the whole representation

    @property
    def flight_key(self) -> Any:
        """The key of its flight: ``group``, and the fields of Vary where those are known."""
        if self.variants is None or not self.variants[0].vary:
            return self.group
        return self.group, *(normal(name, lines_of(self.request, name)) for name, _ in self.variants[0].vary)

    @property
    def lease(self) -> str:
        """The name of its lease: the flight's key for all workers."""
        key = self.flight_key
        return self.key if key is self.key else f"{self.key}{SEPARATOR}{sha256(repr(key).encode()).hexdigest()}"

    def look_again(self, store: Store) -> None:
        """Repeat the lookup after a wait, if there were purges meanwhile."""
        if self.number != store.number:
            self.number = store.number
            self.variants = store.peek(self.key)
            entry = select(self.variants, self.request) if self.variants is not None else None
            self.entry = entry if entry is None or withhold(entry, self.credentials) is None else None
            if self.entry is None:
                self.decision = URI_MISS if self.variants is None else VARY_MISS
