"""The content of ``/metrics``: the numbers of all slots of the instance, summed, and what the run directory knows.

Counters and histograms are summed over all slots, also those whose worker has ended; gauges over the slots with a live worker.
Where two slots disagree about what a name is (a worker of another version), the first one read decides and the other is left out.
A slot that cannot be read is left out and counted: a scrape never fails for it. May run in a native thread.
"""

from __future__ import annotations

import platform
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from ..build import RUNNING, own_version
from .metrics import Registry
from .slot_memory import CorruptSlot, Key, Labels, read

NOT_YET = ("starting", "failed")        # has not taken its slot over: the gauges in it are those of the worker before

Part = tuple[list[Key], "memoryview[float]", bool]


class Family:
    """All children of a name. ``cells`` are the summed numbers of each set of labels."""

    def __init__(self, key: Key) -> None:
        self.shape = key.kind, key.bounds
        self.key = key
        self.cells: dict[Labels, list[float]] = {}

    def add(self, key: Key, numbers: memoryview[float]) -> None:
        """Add the numbers of a key, unless it is of another shape."""
        if (key.kind, key.bounds) != self.shape:
            return
        values = list(numbers)
        sums = self.cells.get(key.labels)
        self.cells[key.labels] = values if sums is None else [a + b for a, b in zip(sums, values)]

    def metric(self) -> Metric:
        key = self.key
        metric = Metric(key.name.removesuffix("_total") if key.kind == "counter" else key.name, key.help, key.kind)
        for labels, numbers in sorted(self.cells.items()):
            if key.kind == "histogram":
                add_histogram(metric, dict(labels), key.bounds, numbers)
            else:
                metric.add_sample(key.name, dict(labels), numbers[0])
        return metric


class Exposition:
    """A collector for ``prometheus_client``: what ``registry`` and its instance have counted."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.unreadable = 0

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Family] = {}
        for keys, values, live in self.parts():
            for key in keys:
                if live or key.kind != "gauge":
                    family = families.get(key.name)
                    if family is None:
                        family = families[key.name] = Family(key)
                    family.add(key, values[key.at:key.end])
        for name in sorted(families):
            yield families[name].metric()
        yield from self.facts()

    def parts(self) -> list[Part]:
        """Keys, numbers and "has a live worker" of each slot; without a run directory, those of this process."""
        run_dir = self.registry.run_dir
        if run_dir is None:
            keys, values = self.registry.own()
            return [(keys, values, True)]
        live = {slot for slot, worker in run_dir.states().items() if worker.state not in NOT_YET}
        parts: list[Part] = []
        for slot in range(run_dir.board.slots):
            try:
                parts.append((*read(run_dir.memory, slot), slot in live))
            except CorruptSlot:
                self.unreadable += 1
        return parts

    def facts(self) -> Iterator[Metric]:
        """The metrics that nobody counts: the version, the workers, the run directory."""
        yield gauge("gateway_build_info", "The version and the build that run.",
                    [({"version": own_version(), "build": RUNNING.name, "python": platform.python_version()}, 1)])
        yield gauge("gateway_metrics_unreadable", "Slots whose metrics could not be read for this answer.", [({}, self.unreadable)])
        run_dir = self.registry.run_dir
        if run_dir is not None:
            states = Tally(worker.state for worker in run_dir.states().values())
            yield gauge("gateway_workers", "Live workers by state.", [({"state": name}, n) for name, n in sorted(states.items())])
            yield gauge("gateway_config_problems", "Mistakes in the configuration file as it is now; above 0 an older one serves.",
                        [({}, len(run_dir.config_problems()))])
            yield gauge("gateway_run_dir_usable", "Whether every process of the instance can use the run directory.",
                        [({}, float(run_dir.usable))])
            yield counter("gateway_run_dir_repairs_total", "How often the run directory or its files were mended.", run_dir.repairs)


def render(registry: Registry, accept: str = "") -> tuple[bytes, str]:
    """The exposition and its content type: OpenMetrics where the Accept asks for it, else the text format 0.0.4."""
    encode, content_type = choose_encoder(accept)
    return encode(Exposition(registry)), content_type


def gauge(name: str, help: str, samples: list[tuple[dict[str, str], float]]) -> Metric:
    metric = Metric(name, help, "gauge")
    for labels, value in samples:
        metric.add_sample(name, labels, value)
    return metric


def counter(name: str, help: str, value: float) -> Metric:
    metric = Metric(name.removesuffix("_total"), help, "counter")
    metric.add_sample(name, {}, value)
    return metric


def add_histogram(metric: Metric, labels: dict[str, str], bounds: tuple[float, ...], numbers: list[float]) -> None:
    """The samples of one histogram: buckets add up, the last one is everything."""
    count = 0.0
    for bound, number in zip((*map(repr, bounds), "+Inf"), numbers):
        count += number
        metric.add_sample(metric.name + "_bucket", {**labels, "le": bound}, count)
    metric.add_sample(metric.name + "_count", labels, count)
    metric.add_sample(metric.name + "_sum", labels, numbers[-1])
