"""Counters, gauges and histograms: before a slot is taken, in it, and after a fork."""

import os
import resource
import subprocess
import sys

import pytest

from gateway.telemetry.metrics import Registry
from gateway.telemetry.slotfile import SlotFile, read


class Place:
    """What a registry needs of a run directory."""

    def __init__(self, path, slot=0):
        self.path = path
        self.slot = slot


def numbers_of(path, slot=0):
    """Name and labels to the numbers in a slot's file."""
    keys, values = read(os.path.join(path, f"metrics.{slot}"))
    return {(key.name, *key.labels): values[key.at:key.end].tolist() for key in keys}


@pytest.fixture
def started(tmp_path):
    registry = Registry()
    registry.start(Place(tmp_path))
    yield registry
    registry.detach()


def value(child):
    return child.values[child.index]


def test_counter_counts(started):
    counter = started.counter("a_total", "")
    counter.inc()
    counter.inc(2.5)
    assert value(counter) == 3.5


def test_gauge_goes_both_ways(started):
    gauge = started.gauge("a", "")
    gauge.inc()
    gauge.inc(4)
    gauge.dec()
    gauge.dec(2)
    assert value(gauge) == 2.0
    gauge.set(7)
    assert value(gauge) == 7.0


@pytest.mark.parametrize("seconds, bucket", [(0.0, 0), (0.05, 0), (0.1, 0), (0.11, 1), (1.0, 1), (1.01, 2), (1e9, 2)])
def test_histogram_puts_a_bound_into_its_own_bucket(started, seconds, bucket):
    histogram = started.histogram("a", "", buckets=(0.1, 1.0))
    histogram.observe(seconds)
    numbers = histogram.values[histogram.index:histogram.index + 4].tolist()
    assert numbers == [float(position == bucket) for position in range(3)] + [seconds]


@pytest.mark.parametrize("labels, same", [({"a": "1", "b": "2"}, True), ({"b": "2", "a": "1"}, True), ({"a": "1"}, False),
                                          (None, False)])
def test_same_name_and_labels_are_the_same_child(started, labels, same):
    assert (started.counter("a_total", "", {"a": "1", "b": "2"}) is started.counter("a_total", "", labels)) is same


@pytest.mark.parametrize("again", [
    lambda registry: registry.counter("a", ""),
    lambda registry: registry.gauge("a", ""),
    lambda registry: registry.histogram("a", "", {"route": "x"}, buckets=(2.0,)),
])
def test_a_name_is_one_thing(started, again):
    started.histogram("a", "", buckets=(1.0,))
    with pytest.raises(ValueError, match="a is already a histogram"):
        again(started)


def test_what_was_counted_before_the_start_moves_to_the_file(tmp_path):
    registry = Registry()
    counter, gauge = registry.counter("a_total", "", {"x": "1"}), registry.gauge("b", "")
    histogram = registry.histogram("c", "", buckets=(1.0,))
    counter.inc(3)
    gauge.set(5)
    histogram.observe(0.5)
    assert os.listdir(tmp_path) == [], "nothing is opened before the start"
    registry.start(Place(tmp_path))
    counter.inc()
    gauge.inc()
    histogram.observe(2.0)
    found = numbers_of(tmp_path)
    assert found["a_total", ("x", "1")] == [4.0]
    assert found["b",] == [6.0]
    assert found["c",] == [1.0, 1.0, 2.5]
    registry.detach()


def test_second_start_changes_nothing(started, tmp_path):
    counter = started.counter("a_total", "")
    counter.inc()
    started.start(Place(tmp_path))
    assert numbers_of(tmp_path)["a_total",] == [1.0]


def test_next_worker_of_the_slot_goes_on(tmp_path):
    for total in (1.0, 2.0, 3.0):
        registry = Registry()
        registry.start(Place(tmp_path))
        registry.counter("a_total", "", {"status": "200"}).inc()
        registry.gauge("in_flight", "").inc()
        found = numbers_of(tmp_path)
        assert found["a_total", ("status", "200")] == [total]
        assert found["in_flight",] == [1.0]
        registry.detach()


def test_counts_before_the_start_are_added_to_those_inherited(tmp_path):
    for total in (2.0, 4.0):
        registry = Registry()
        registry.counter("a_total", "").inc(2)
        registry.start(Place(tmp_path))
        assert numbers_of(tmp_path)["a_total",] == [total]
        registry.detach()


def test_children_made_while_the_array_grows_all_count(started, tmp_path):
    children = [started.counter("n_total", "", {"n": str(n)}) for n in range(9000)]
    for number, child in enumerate(children):
        child.inc(number)
    found = numbers_of(tmp_path)
    assert [found["n_total", ("n", str(n))] for n in range(9000)] == [[float(n)] for n in range(9000)]


def test_broken_files_are_counted_and_begun_anew(tmp_path, caplog):
    SlotFile(str(tmp_path / "metrics.0")).close()
    (tmp_path / "metrics.0.keys").write_bytes(b"rubbish\n")
    registry = Registry()
    registry.start(Place(tmp_path))
    assert numbers_of(tmp_path)["gateway_metrics_resets_total",] == [1.0]
    assert "begins anew" in caplog.text
    registry.detach()


def test_without_a_place_for_the_files_counting_goes_on(tmp_path, caplog):
    registry = Registry()
    counter = registry.counter("a_total", "")
    registry.start(Place(tmp_path / "absent"))
    counter.inc()
    assert value(counter) == 1.0
    assert "cannot see the metrics" in caplog.text


def test_child_without_room_counts_in_vain_and_hurts_nobody(started, tmp_path, caplog):
    """The kernel's limit on the size of files stands for the full disk."""
    before = started.counter("a_total", "")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.0.keys").stat().st_size, hard))
    try:
        lost = started.histogram("lost", "", {"route": "/x"}, buckets=(1.0,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lost.observe(0.5)
    lost.observe(2.0)
    before.inc()
    started.counter("b_total", "").inc()
    found = numbers_of(tmp_path)
    assert found["a_total",] == found["b_total",] == [1.0]
    assert not any(name == "lost" for name, *_ in found)
    assert "counted in vain" in caplog.text


FORK = """
import os, sys
from types import SimpleNamespace
from gateway.telemetry.metrics import registry
counter = registry.counter("a_total", "")
registry.start(SimpleNamespace(path=sys.argv[1], slot=0))
counter.inc(5)
if not os.fork():
    counter.inc()
    os._exit(int(counter.values[counter.index]))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_forked_child_counts_for_itself(tmp_path):
    """It neither counts in our file nor goes on with our numbers."""
    assert subprocess.check_output([sys.executable, "-c", FORK, str(tmp_path)]) == b"1\n"
    assert numbers_of(tmp_path)["a_total",] == [5.0]


def test_repr(started):
    assert repr(started).startswith("Registry(2 children in SlotFile(")


@pytest.mark.parametrize("lost", [("metrics.0",), ("metrics.0.keys",), ("metrics.0", "metrics.0.keys")])
def test_a_lost_file_is_made_again_with_all_numbers(tmp_path, lost):
    """Also what workers before have counted, and this one has not; gauges are of the living."""
    before = Registry()
    before.start(Place(tmp_path))
    before.counter("old_total", "Of the worker before.", {"a": "b"}).inc(3)
    registry = Registry()
    registry.start(Place(tmp_path))
    counter, gauge = registry.counter("new_total", ""), registry.gauge("now", "")
    counter.inc(2), gauge.set(7)
    for name in lost:
        (tmp_path / name).unlink()
    registry.mend()
    counter.inc()
    keys, values = read(str(tmp_path / "metrics.0"))
    found = {key.name: values[key.at] for key in keys}
    assert (found["old_total"], found["new_total"], found["now"]) == (3.0, 3.0, 7.0)
    numbers = registry._numbers
    registry.mend()
    assert registry._numbers is numbers                      # nothing is lost
    assert registry.counter("old_total", "", {"a": "b"}) is not None and not registry.lost()


def test_a_place_that_comes_later_is_taken(tmp_path):
    registry = Registry()
    counter = registry.counter("a_total", "")
    registry.start(Place(tmp_path / "absent"))
    counter.inc()
    registry.mend()
    assert registry.lost()
    (tmp_path / "absent").mkdir()
    registry.mend()
    counter.inc()
    keys, values = read(str(tmp_path / "absent" / "metrics.0"))
    assert {key.name: values[key.at] for key in keys}["a_total"] == 2.0
