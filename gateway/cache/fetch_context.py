"""A request that the cache could not answer at once, with what was found for it; and what is needed of the store."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol

from ..message import Request
from . import rules
from .entry import Entry, Variants
from .key import SEPARATOR, lines_of, normal, select
from .purge.marks import Addresses
from .request_directives import RequestDirectives


class Store(Protocol):
    """What is needed of the store (cache/storage/store.py)."""

    def get(self, key: str, owner: Any = None) -> Variants | None: ...

    @property
    def number(self) -> int: ...

    def held(self, key: str) -> Variants | None: ...

    def put(self, key: str, variants: Variants, keep: float, begun: float, owner: Any = None) -> Variants | None: ...

    def owner(self, route: str) -> Any: ...

    addresses: Addresses
    kept: Callable[[str], bool]

    def delete(self, key: str) -> None: ...

    def invalidate(self, urls: list[str]) -> None: ...

    def lease(self, key: str, seconds: float) -> Any: ...

    def leased(self, key: str) -> bool: ...

    def wait(self, key: str, seconds: float, lease: str = "", wanted: Any = None) -> Variants | None: ...


class FetchContext:
    """One request that goes on, with what was found for it. ``lane`` is the key for waiting: those that show who they are wait
    only for each other. ``reason`` is the fwd of Cache-Status. ``shown`` is what it shows of its user (request_directives.py)."""

    __slots__ = ("request", "asked", "key", "lane", "entry", "reason", "personal", "variants", "shown", "number", "held", "alone",
                 "beside", "fills")

    def __init__(self, request: Request, asked: RequestDirectives | None, key: str, lane: Any, entry: Entry | None, reason: str,
                 personal: bool, variants: Variants | None = None, shown: int = 0) -> None:
        self.request = request
        self.asked = asked
        self.key = key
        self.lane = lane
        self.entry = entry
        self.reason = reason
        self.personal = personal
        self.variants = variants
        self.shown = shown
        self.number = 0                                  # the store's when it was last looked up
        self.held = False                                # did memory have its key when it went on?
        self.alone = False                               # it waits for nobody, and nobody for it
        self.beside = False                              # it refreshes what is stored, and no client waits

        self.fills = False                               # it asks for a range, and fetches the whole for all

    @property
    def flight_key(self) -> Any:
        """Requests that Vary is known to tell apart do not wait for each other."""
        if self.variants is None or not self.variants.entries[0].vary:
            return self.lane
        return self.lane, *(normal(name, lines_of(self.request, name)) for name, _ in self.variants.entries[0].vary)

    @property
    def lease(self) -> str:
        """The name of the flight's key among all workers."""
        key = self.flight_key
        return self.key if key is self.key else f"{self.key}{SEPARATOR}{sha256(repr(key).encode()).hexdigest()}"

    def look_again(self, store: Store) -> None:
        """It waited: what was found before may have been purged meanwhile."""
        if self.number != store.number:
            self.number = store.number
            self.variants = store.held(self.key)
            found = select(self.variants, self.request) if self.variants is not None else None
            self.entry = found if found is None or not rules.withheld(found, self.shown) else None
            if self.entry is None:
                self.reason = "uri-miss" if self.variants is None else "vary-miss"
