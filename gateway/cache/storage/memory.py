"""The memory tier of one worker: a cache bounded in bytes, with S3-FIFO eviction. Pure.

Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction (SOSP 2023). Three queues, first in, first out::

    new key --------> small (a tenth of the bytes) --asked for twice--> main (the rest) <---+
                        |                                                |       |          |
                        +--not--> gone, remembered                  asked for    +----------+
                                  as a ghost                        or gone
    ghost's key ----------------------------------------------------> main

Entries that are read once, as by a crawler, pass through the small queue and evict nothing from main. A ghost is the hash of a key;
there are never more ghosts than entries in main. A hit increments a counter and moves nothing.

Every operation takes constant time: an eviction skips at most CHANCES entries, even in a queue full of popular ones. Not
thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import nlargest
from sys import getsizeof
from typing import Any

Setter = Callable[[float], None]

SMALL = 0.1                     # part of the bytes that new keys share
MOST_COUNTED = 3                # hits that count for staying
CHANCES = 32                    # entries that one eviction may spare
LARGEST = 8                     # an entry takes at most this part of the whole: 1/8
PLACE = 120                     # bytes of a node's place in the dictionary and of its ghost, about
STEP, SMALL_SIZE = 32, 16_384    # bytes; the sizes below that which are whole steps are numbers that many entries share
SIZES = tuple(range(0, SMALL_SIZE, STEP))


def whole_steps(size: int, key: str) -> int:
    """Round a size up so that with the overhead of ``put`` it is a multiple of STEP."""
    return size - (size + NODE + len(key)) % -STEP


class Share:
    """The share of one owner in the memory tier, for the metrics: its entries, bytes and evictions."""

    __slots__ = ("bytes", "entries", "_bytes", "_entries", "_count_evictions")

    def __init__(self, set_bytes: Setter, set_entries: Setter, count_evictions: Setter) -> None:
        self.bytes = self.entries = 0
        self._bytes, self._entries, self._count_evictions = set_bytes, set_entries, count_evictions

    def change(self, size: int, entries: int) -> None:
        """Add bytes and entries, or subtract them with negative numbers."""
        self.bytes += size
        self.entries += entries
        self._bytes(self.bytes)
        self._entries(self.entries)

    def evict(self, size: int) -> None:
        """Count the eviction of one entry of ``size`` bytes."""
        self.change(-size, -1)
        self._count_evictions(1.0)

    def __repr__(self) -> str:
        return f"Share({self.entries} entries, {self.bytes} bytes)"


class Node:
    """One key in a queue. ``hits`` is for operators, ``chances`` for eviction. The store sets ``purges``, the number of purges with
    which the value was compared, and ``last_renewal``, the time of the last lookup in the shared tiers for a newer one."""

    __slots__ = ("key", "value", "size", "hits", "chances", "main", "older", "newer", "purges", "last_renewal", "owner")

    key: str
    value: Any
    older: Node
    newer: Node

    def __init__(self) -> None:
        self.size = 0
        self.hits = 0
        self.chances = 0
        self.main = False
        self.purges = 0
        self.last_renewal = 0.0
        self.owner: Share | None = None


NODE = getsizeof(Node()) + PLACE             # bytes


class Queue:
    """A ring of nodes around ``end``: ``end.newer`` is the oldest, ``end.older`` the newest."""

    __slots__ = ("end", "bytes", "count")

    def __init__(self) -> None:
        self.end = Node()
        self.end.older = self.end.newer = self.end
        self.bytes = 0
        self.count = 0

    def add(self, node: Node) -> None:
        """Append ``node`` as the newest."""
        end = self.end
        newest = end.older
        node.older, node.newer = newest, end
        newest.newer = end.older = node
        self.bytes += node.size
        self.count += 1

    def remove(self, node: Node) -> None:
        node.older.newer = node.newer
        node.newer.older = node.older
        self.bytes -= node.size
        self.count -= 1


class MemoryTier:
    """``MemoryTier(64 * 1024 ** 2)``: keys and values of known sizes, at most that many bytes together.

    ``count_evictions`` is called with the number of entries that had to go, whenever some had to.
    """

    def __init__(self, limit: int, count_evictions: Callable[[int], None] = lambda count: None) -> None:
        self.limit = limit
        self.count_evictions = count_evictions
        self.nodes: dict[str, Node] = {}
        self.small, self.main = Queue(), Queue()
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    @property
    def bytes(self) -> int:
        return self.small.bytes + self.main.bytes

    def __len__(self) -> int:
        return len(self.nodes)

    def get(self, key: str) -> Any:
        """The value of a key, None when there is none; counted as a hit."""
        node = self.find(key)
        return None if node is None else node.value

    def find(self, key: str) -> Node | None:
        """The node of a key, counted as a hit."""
        node = self.nodes.get(key)
        if node is not None:
            node.hits += 1
            if node.chances < MOST_COUNTED:
                node.chances += 1
        return node

    def put(self, key: str, value: Any, size: int, purges: int = 0, owner: Share | None = None) -> bool:
        """Store ``value``, of ``size`` bytes. Returns False when it is too large, and then removes the key. A key keeps its first
        owner."""
        size += NODE + len(key)
        if size < SMALL_SIZE and not size % STEP:
            size = SIZES[size // STEP]
        node = self.nodes.get(key)
        if size * LARGEST > self.limit:
            if node is not None:
                self._drop(node)
            return False
        if node is None:
            node = self.nodes[key] = Node()
            node.key, node.size, node.purges, node.owner = key, size, purges, owner
            if owner is not None:
                owner.change(size, 1)
            node.main = self.ghosts.pop(hash(key), self) is None
            (self.main if node.main else self.small).add(node)
        else:
            queue = self.main if node.main else self.small
            queue.bytes += size - node.size
            if node.owner is not None:
                node.owner.change(size - node.size, 0)
            node.size, node.purges = size, purges
        node.value = value
        if self.small.bytes + self.main.bytes > self.limit:
            self._make_room()
        return True

    def delete(self, key: str) -> bool:
        """Remove a key; returns whether it was there."""
        node = self.nodes.get(key)
        if node is None:
            return False
        self._drop(node)
        return True

    def clear(self) -> None:
        for node in self.nodes.values():
            if node.owner is not None:
                node.owner.change(-node.size, -1)
        self.nodes.clear()
        self.ghosts.clear()
        self.small, self.main = Queue(), Queue()

    def hottest(self, count: int) -> list[Node]:
        """The ``count`` keys with most hits, in descending order. Takes linear time: for an operator's page."""
        return nlargest(count, list(self.nodes.values()), key=lambda node: node.hits)

    def _drop(self, node: Node) -> None:
        (self.main if node.main else self.small).remove(node)
        del self.nodes[node.key]
        if node.owner is not None:
            node.owner.change(-node.size, -1)

    def _make_room(self) -> None:
        share, before, promotions = int(self.limit * SMALL), len(self.nodes), 0
        while self.small.bytes + self.main.bytes > self.limit:
            if not self.main.count or self.small.bytes > share and promotions < CHANCES:
                promotions += self._evict_small()
            else:
                self._evict_main()
        self.count_evictions(before - len(self.nodes))

    def _evict_small(self) -> bool:
        """Move the oldest node of small to main if it had hits, and return True; else evict it."""
        small, node = self.small, self.small.end.newer
        small.remove(node)
        if node.chances > 1:
            node.chances, node.main = 0, True
            self.main.add(node)
            return True
        del self.nodes[node.key]
        if node.owner is not None:
            node.owner.evict(node.size)
        ghosts = self.ghosts
        ghosts[hash(node.key)] = None
        if len(ghosts) > self.main.count:
            ghosts.popitem(last=False)
        return False

    def _evict_main(self) -> None:
        """Evict the oldest node of main that has had no hit since it was last examined."""
        main = self.main
        for _ in range(CHANCES):
            node = main.end.newer
            if not node.chances:
                break
            node.chances -= 1
            main.remove(node)
            main.add(node)
        node = main.end.newer
        main.remove(node)
        del self.nodes[node.key]
        if node.owner is not None:
            node.owner.evict(node.size)

    def __repr__(self) -> str:
        return f"MemoryTier({len(self.nodes)} entries, {self.bytes} of {self.limit} bytes)"
