"""Counters, gauges and histograms: before a slot is taken, in it, and after a fork."""

import os
import shutil
import subprocess
import sys

import pytest

from gateway.local.run_directory import RunDir
from gateway.telemetry.metrics import Registry
from gateway.telemetry.slot_memory import LENGTH, SlotMemory, read


def numbers_of(path, slot=0):
    """Name and labels to the numbers in a slot."""
    keys, values = read(RunDir(path).memory, slot)
    return {(key.name, *key.labels): values[key.at:key.end].tolist() for key in keys}


@pytest.fixture
def started(tmp_path):
    registry = Registry()
    registry.start(RunDir(tmp_path))
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


def test_what_was_counted_before_the_start_moves_to_the_slot(tmp_path):
    registry = Registry()
    counter, gauge = registry.counter("a_total", "", {"x": "1"}), registry.gauge("b", "")
    histogram = registry.histogram("c", "", buckets=(1.0,))
    counter.inc(3)
    gauge.set(5)
    histogram.observe(0.5)
    assert os.listdir(tmp_path) == [], "nothing is opened before the start"
    registry.start(RunDir(tmp_path))
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
    started.start(RunDir(tmp_path))
    assert numbers_of(tmp_path)["a_total",] == [1.0]


def test_next_worker_of_the_slot_goes_on(tmp_path):
    for total in (1.0, 2.0, 3.0):
        registry = Registry()
        registry.start(RunDir(tmp_path))
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
        registry.start(RunDir(tmp_path))
        assert numbers_of(tmp_path)["a_total",] == [total]
        registry.detach()


def test_children_are_apart(started, tmp_path):
    children = [started.counter("n_total", "", {"n": str(n)}) for n in range(9000)]
    for number, child in enumerate(children):
        child.inc(number)
    found = numbers_of(tmp_path)
    assert [found["n_total", ("n", str(n))] for n in range(9000)] == [[float(n)] for n in range(9000)]


def test_a_slot_that_cannot_be_read_is_counted_and_begun_anew(tmp_path, caplog):
    place = RunDir(tmp_path)
    memory = place.memory.slot(0)
    SlotMemory(memory)
    memory[LENGTH:LENGTH + 7] = b"rubbish"
    registry = Registry()
    registry.start(place)
    assert numbers_of(tmp_path)["gateway_metrics_resets_total",] == [1.0]
    assert "begin anew" in caplog.text
    registry.detach()


def test_without_memory_of_the_instance_counting_goes_on(tmp_path, caplog):
    registry = Registry()
    counter = registry.counter("a_total", "")
    registry.start(RunDir(tmp_path / "absent"))
    counter.inc()
    assert value(counter) == 1.0
    assert "cannot see the metrics" in caplog.text


def test_a_child_without_room_counts_in_vain_and_hurts_nobody(tmp_path, caplog):
    registry = Registry()
    registry._numbers = SlotMemory(memoryview(bytearray(600)))       # room for about three keys
    before = registry.counter("a_total", "")
    lost = registry.histogram("lost", "x" * 500, {"route": "/x"}, buckets=(1.0,))
    lost.observe(0.5)
    lost.observe(2.0)
    before.inc()
    registry.counter("b_total", "").inc()
    keys, values = registry.own()
    assert {key.name: values[key.at] for key in keys} == {"a_total": 1.0, "b_total": 1.0}
    assert "counted in vain" in caplog.text


FORK = """
import os, sys
from gateway.local.run_directory import RunDir
from gateway.telemetry.metrics import registry
counter = registry.counter("a_total", "")
registry.start(RunDir(sys.argv[1]))
counter.inc(5)
if not os.fork():
    counter.inc()
    os._exit(int(counter.values[counter.index]))
print(os.waitstatus_to_exitcode(os.wait()[1]), counter.values[counter.index])
"""


def test_forked_child_counts_for_itself(tmp_path):
    """It neither counts in our file nor goes on with our numbers."""
    assert subprocess.check_output([sys.executable, "-c", FORK, str(tmp_path)]) == b"1 5.0\n"


def test_repr(started):
    assert repr(started).startswith("Registry(2 children in SlotMemory(")


def test_the_start_time_is_of_the_clock(tmp_path):
    registry = Registry(clock=lambda: 1234.5)
    registry.start(RunDir(tmp_path))
    assert numbers_of(tmp_path)["gateway_worker_start_time_seconds", ("slot", "0")] == [1234.5]
    registry.detach()


def test_the_numbers_survive_their_directory(tmp_path):
    place = RunDir(tmp_path / "run").create()
    registry = Registry()
    registry.start(place)
    counter = registry.counter("a_total", "")
    counter.inc()
    shutil.rmtree(place.path)
    counter.inc()
    place.mend()
    assert numbers_of(place.path)["a_total",] == [2.0]
    registry.detach()
    place.remove()
