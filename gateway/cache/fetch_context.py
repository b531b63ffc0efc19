"""A request that the cache cannot answer at once, with what is found for it; and what is needed of the store."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol

from ..message import Request
from .decide import URI_MISS, VARY_MISS, Decision, withhold
from .entry import Entry, Variants
from .key import SEPARATOR, lines_of, normal, select
from .request_directives import RequestDirectives


class Store(Protocol):
    """What is needed of the store (cache/storage/store.py)."""

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
    """One request that goes on, with what was found for it. ``group`` is the key for waiting: requests with credentials wait only
    for each other. ``decision`` is why it goes on. ``credentials`` are those that the key does not tell apart."""

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
        self.number = 0                                  # the store's when it was last looked up
        self.in_memory = False                           # did memory have its key when it went on?
        self.alone = False                               # it waits for nobody, and nobody for it
        self.refreshing = False                          # it refreshes what is stored, and no client waits
        self.whole = False                               # it is for a range, and fetches the whole for all

    @property
    def flight_key(self) -> Any:
        """Requests that Vary is known to tell apart do not wait for each other."""
        if self.variants is None or not self.variants.entries[0].vary:
            return self.group
        return self.group, *(normal(name, lines_of(self.request, name)) for name, _ in self.variants.entries[0].vary)

    @property
    def lease(self) -> str:
        """The name of the flight's key among all workers."""
        key = self.flight_key
        return self.key if key is self.key else f"{self.key}{SEPARATOR}{sha256(repr(key).encode()).hexdigest()}"

    def look_again(self, store: Store) -> None:
        """After a wait: what was found before it may be purged by now."""
        if self.number != store.number:
            self.number = store.number
            self.variants = store.peek(self.key)
            entry = select(self.variants, self.request) if self.variants is not None else None
            self.entry = entry if entry is None or withhold(entry, self.credentials) is None else None
            if self.entry is None:
                self.decision = URI_MISS if self.variants is None else VARY_MISS
