"""What the memory tier of the cache finds, against LRU and against the optimum: ``python bench/cache_hit_ratio.py``.

A trace is a sequence of keys, all of the same size. One is drawn from Zipf's law with the exponent 0.9 over 100,000 keys; the other
is the same with scans in between, a fifth of all requests: stretches of keys that are read once, as a crawler reads a site. The
optimum is Belady's: it knows the future and evicts what is needed last, or does not take it in. Takes about half a minute.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect
from collections import OrderedDict
from itertools import accumulate

from rich.console import Console
from rich.table import Table

from gateway.cache.storage.memory import NODE, MemoryTier

KEYS, EXPONENT, REQUESTS = 100_000, 0.9, 400_000
SIZES = (100, 1000, 5000, 20_000)       # entries there is room for
SCAN, EVERY = 2000, 8000                # keys of a scan; requests between two
SIZE, NAME = 100, 8


def zipf(requests: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    weights = list(accumulate(1 / rank ** EXPONENT for rank in range(1, KEYS + 1)))
    return [f"{bisect(weights, draw.random() * weights[-1]):08}" for _ in range(requests)]


def with_scans(trace: list[str]) -> list[str]:
    found, number = [], 0
    for start in range(0, len(trace), EVERY):
        found += trace[start:start + EVERY]
        found += [f"s{position:07}" for position in range(number, number + SCAN)]
        number += SCAN
    return found


def ours(trace: list[str], room: int) -> float:
    memory, hits = MemoryTier(room * (SIZE + NODE + NAME)), 0
    for key in trace:
        if memory.get(key) is not None:
            hits += 1
        else:
            memory.put(key, key, SIZE)
    return hits / len(trace)


def lru(trace: list[str], room: int) -> float:
    kept: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in kept:
            hits += 1
            kept.move_to_end(key)
        else:
            kept[key] = None
            if len(kept) > room:
                kept.popitem(last=False)
    return hits / len(trace)


def optimum(trace: list[str], room: int) -> float:
    never, last = len(trace), {}
    after = [never] * len(trace)
    for position in range(len(trace) - 1, -1, -1):
        after[position] = last.get(trace[position], never)
        last[trace[position]] = position
    kept: dict[str, int] = {}               # key: when it is needed next
    heap: list[tuple[int, str]] = []
    hits = 0
    for position, key in enumerate(trace):
        hits += key in kept
        kept[key] = after[position]
        heapq.heappush(heap, (-after[position], key))
        while len(kept) > room:
            moment, latest = heapq.heappop(heap)
            if kept.get(latest) == -moment:
                del kept[latest]
    return hits / len(trace)


def main() -> None:
    plain = zipf(REQUESTS, 1)
    for name, trace in (("Zipf(0.9)", plain), ("Zipf(0.9) with scans", with_scans(plain))):
        table = Table("room, of 100,000 keys", "LRU", "S3-FIFO (ours)", "optimum", "of the way from LRU to the optimum",
                      title=f"Hit ratio on {name}, {len(trace):,} requests")
        for room in SIZES:
            old, new, best = lru(trace, room), ours(trace, room), optimum(trace, room)
            table.add_row(f"{room:,}", f"{old:.1%}", f"{new:.1%}", f"{best:.1%}", f"{(new - old) / (best - old):.0%}")
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
