"""The numbers for Prometheus: counters, gauges and histograms that cost a tenth of a microsecond, summed over all workers.

A child (one name with one set of labels) is an index into an array of doubles (slot_memory.py), so that counting is
``values[index] += n``. Children are made when the pipeline is built or when a label is first seen, never for each request. They
may be made before the fork: until ``start`` they count in memory of the process, and ``start``, called in each worker, moves them
to that of the worker's slot. A forked child that does not call it counts in memory of its own.

Count on the thread of the event loop only: ``+=`` on the array is not atomic between native threads. What is exposed is in
exposition.py.
"""

from __future__ import annotations

import logging
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..local import run_directory
from .slot_memory import Identity, Key, SlotMemory, width

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

log = logging.getLogger("gateway")


class Sample:
    """A place in the array. ``values`` and ``index`` are set by the registry, and again when it starts."""

    __slots__ = ("values", "index")

    values: memoryview[float]
    index: int


class Counter(Sample):
    __slots__ = ()

    def inc(self, n: float = 1.0) -> None:
        self.values[self.index] += n


class Gauge(Sample):
    __slots__ = ()

    def set(self, value: float) -> None:
        self.values[self.index] = value

    def inc(self, n: float = 1.0) -> None:
        self.values[self.index] += n

    def dec(self, n: float = 1.0) -> None:
        self.values[self.index] -= n


class Histogram(Sample):
    """``bounds`` are the upper bounds of the buckets, in order; a value equal to a bound is in its bucket."""

    __slots__ = ("bounds", "sum_at")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.sum_at = len(bounds) + 1

    def observe(self, value: float) -> None:
        values, index = self.values, self.index
        values[index + bisect_left(self.bounds, value)] += 1.0
        values[index + self.sum_at] += value


class Registry:
    """The children of this process. The same name and labels give the same child, another kind is a ValueError.

    ``run_dir`` is the run directory whose slot is counted in, None before ``start`` and where its memory cannot be had. ``clock``
    gives Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._numbers = SlotMemory()
        self._inherited_keys: dict[Identity, Key] = {}
        self._children: dict[Identity, Any] = {}
        self._families: dict[str, tuple[str, tuple[float, ...], str]] = {}
        self._clock = clock
        self.run_dir: run_directory.RunDir | None = None

    def counter(self, name: str, help: str, labels: Mapping[str, str] | None = None) -> Counter:
        """A number that only grows. Its name ends in ``_total``."""
        return self._child(Counter, "counter", name, help, labels, ())

    def gauge(self, name: str, help: str, labels: Mapping[str, str] | None = None) -> Gauge:
        """A number that goes both ways; summed over the live workers."""
        return self._child(Gauge, "gauge", name, help, labels, ())

    def histogram(self, name: str, help: str, labels: Mapping[str, str] | None = None,
                  buckets: Sequence[float] = SECONDS) -> Histogram:
        """Counts by size, and the sum. ``buckets`` are upper bounds in ascending order, without infinity."""
        bounds = SECONDS if buckets is SECONDS else tuple(float(bound) for bound in buckets)
        return self._child(lambda: Histogram(bounds), "histogram", name, help, labels, bounds)

    def _child(self, make: Callable[[], Any], kind: str, name: str, help: str, labels: Mapping[str, str] | None,
               bounds: tuple[float, ...]) -> Any:
        identity = kind, name, tuple(sorted((labels or {}).items())), bounds
        child = self._children.get(identity)
        if child is None:
            family = self._families.setdefault(name, (kind, bounds, help))
            if family[:2] != (kind, bounds):
                raise ValueError(f"{name} is already a {family[0]} {family[1] or ''}")
            child = make()
            self._assign(identity, child)
            self._children[identity] = child
        return child

    def _assign(self, identity: Identity, child: Sample) -> None:
        """Give the child its numbers: those a worker before left for it, or new ones."""
        kind, name, labels, bounds = identity
        try:
            key = self._inherited_keys.get(identity) or self._numbers.add(kind, name, self._families[name][2], labels, bounds)
        except OSError as error:
            log.error("%s%s is counted in vain: %s", name, dict(labels), error)
            child.values, child.index = memoryview(bytearray(8 * width(kind, bounds))).cast("d"), 0
            return
        child.values, child.index = self._numbers.values, key.at

    def start(self, run_dir: run_directory.RunDir | None = None) -> None:
        """Count in the memory of this worker's slot from now on; without a run directory, as before. Once is enough."""
        run_dir = run_dir or run_directory.current()
        if run_dir is None or self.run_dir is not None:
            return
        try:
            numbers = SlotMemory(run_dir.memory.slot(run_dir.slot))
        except (OSError, ValueError) as error:
            log.error("the other workers cannot see the metrics of this one: %s", error)
            return
        self.run_dir = run_dir
        resets = self.counter("gateway_metrics_resets_total", "Metrics of slots that could not be read and were begun anew.")
        self._move(numbers, carry=True)
        if numbers.mismatch:
            log.error("the metrics of slot %d begin anew: %s", run_dir.slot, numbers.mismatch)
            resets.inc()
        self.gauge("gateway_worker_start_time_seconds", "When the worker of this slot started, in Unix time.",
                   {"slot": str(run_dir.slot)}).set(self._clock())

    def detach(self) -> None:
        """Count in memory of this process from now on, from 0. For a child after a fork, which must not count in our slot."""
        self.run_dir = None
        self._move(SlotMemory(), carry=False)

    def _move(self, numbers: SlotMemory, carry: bool) -> None:
        self._numbers = numbers
        self._inherited_keys = {key.identity: key for key in numbers.keys}
        for identity, child in self._children.items():
            values, start = child.values, child.index
            self._assign(identity, child)
            if carry:
                for offset in range(width(identity[0], identity[3])):
                    child.values[child.index + offset] += values[start + offset]

    def own(self) -> tuple[list[Key], memoryview[float]]:
        """The keys and numbers of this process."""
        return list(self._numbers.keys), self._numbers.values

    def __repr__(self) -> str:
        return f"Registry({len(self._children)} children in {self._numbers!r})"


registry = Registry()
os.register_at_fork(after_in_child=registry.detach)
