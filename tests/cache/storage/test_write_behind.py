"""What is written beside the requests: bounded, in order, the latest of each name."""

from __future__ import annotations

import gevent
import pytest

from gateway.cache.storage.write_behind import PendingWrite, WriteBehind
from tests.waiting import SAFETY


class Tier:
    """Batches, each written when ``go`` is set."""

    def __init__(self):
        self.batches = []
        self.lost = 0
        self.go = gevent.event.Event()
        self.go.set()

    def write(self, operations):
        assert self.go.wait(SAFETY)
        self.batches.append([" ".join(operation) for operation in operations])
        return self.lost


@pytest.fixture
def tier():
    return Tier()


@pytest.fixture
def make(tier):
    """``make(records=..., record_bytes=...)`` is a writer; ``.lost`` is what found no room."""
    made = []

    def start(**limits) -> WriteBehind:
        lost = []
        made.append(WriteBehind(tier.write, lost.append, **limits))
        made[-1].lost = lost
        return made[-1]

    yield start
    for each in made:
        tier.go.set()
        each.stop(SAFETY)


def record(name: str, size: int = 1, **more) -> PendingWrite:
    return PendingWrite(lambda: ("put", name), value=name, size=size, **more)


def test_nothing_runs_while_nothing_is_written(make, tier):
    writer = make()
    assert writer.flush(0) and writer._greenlet is None
    writer.add("a", record("1"))
    assert writer.pending("a").value == "1" and tier.batches == [], "whoever adds does not wait"
    assert writer.flush(SAFETY) and tier.batches == [["put 1"]]
    assert writer.pending("a") is None and writer._greenlet is None and writer.bytes == 0


def test_order_and_the_latest_of_each_name(make, tier):
    writer = make()
    for name, value in (("a", "1"), ("lease", "2"), ("b", "3"), ("a", "4")):
        writer.add(name, record(value))
    assert writer.flush(SAFETY) and tier.batches == [["put 4", "put 2", "put 3"]]


def test_what_is_added_while_it_is_written_is_written_afterwards(make, tier):
    writer = make()
    tier.go.clear()
    writer.add("a", record("1"))
    gevent.sleep(0)
    writer.add("a", record("2"))
    assert writer.pending("a").value == "2" and len(writer) == 2
    tier.go.set()
    assert writer.flush(SAFETY) and tier.batches == [["put 1"], ["put 2"]]


def test_batches(make, tier):
    writer = make(batch=2, batch_bytes=10)
    for name, size in (("a", 1), ("b", 1), ("c", 100), ("d", 9), ("e", 2), ("f", 0)):
        writer.add(name, record(name, size))
    assert writer.flush(SAFETY)
    assert tier.batches == [["put a", "put b"], ["put c"], ["put d"], ["put e", "put f"]]


@pytest.mark.parametrize("limits, sizes, kept", [
    ({"records": 0}, [1], 0), ({"records": 1}, [1, 1], 1), ({"records": 2}, [1, 1, 1], 2), ({"record_bytes": 0}, [1], 0),
    ({"record_bytes": 10}, [5, 5, 1], 2), ({"record_bytes": 10}, [11, 10], 1), ({"records": 1, "record_bytes": 1}, [1, 1], 1)])
def test_what_finds_no_room_is_dropped_and_counted(make, tier, limits, sizes, kept):
    writer = make(**limits)
    assert sum(writer.add(str(number), record(str(number), size)) for number, size in enumerate(sizes)) == kept
    assert sum(writer.lost) == len(sizes) - kept
    assert writer.add("delete", PendingWrite(lambda: ("delete", "x"))), "deletions have room of their own"
    assert writer.flush(SAFETY) and sum(map(len, tier.batches)) == kept + 1 and writer.bytes == 0


def test_the_latest_takes_the_room_of_what_it_replaces(make, tier):
    writer = make(records=1, record_bytes=10)
    assert writer.add("a", record("1", 8)) and writer.add("a", record("2", 10))
    assert not writer.add("a", record("3", 11)), "it is too large, and what was there before it is out of date"
    assert writer.flush(SAFETY) and tier.batches == [] and sum(writer.lost) == 2
    assert writer.add("a", record("4", 10))


def test_deletions_are_bounded_too(make):
    writer = make(others=2)
    assert [writer.add(name, PendingWrite(lambda: ("delete", name))) for name in "abc"] == [True, True, False]


def test_what_is_withdrawn_is_not_written(make, tier):
    writer = make()
    writer.add("a", record("1"))
    writer.add("b", record("2"))
    assert writer.withdraw("a").value == "1" and writer.withdraw("a") is None
    assert writer.flush(SAFETY) and tier.batches == [["put 2"]] and writer.bytes == 0


def test_what_has_become_useless_is_not_written(make, tier):
    writer, after = make(), []
    writer.add("a", PendingWrite(lambda: None, size=1, after=lambda: after.append(list(tier.batches))))
    assert writer.flush(SAFETY) and tier.batches == [] and after == [[]]


def test_afterwards(make, tier):
    writer, after = make(), []
    writer.add("a", record("1", after=lambda: after.append(list(tier.batches))))
    assert writer.flush(SAFETY) and after == [[["put 1"]]]


def test_what_was_to_follow_follows_what_took_the_place(make, tier):
    writer, after = make(), []
    writer.add("a", PendingWrite(lambda: ("delete", "a"), after=lambda: after.append(list(tier.batches))))
    writer.add("a", record("1"))
    assert after == [] and writer.flush(SAFETY) and after == [[["put 1"]]]


@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_to_follow_follows_at_once_when_there_is_no_room(make, replaced):
    writer, after = make(record_bytes=10, others=1 if replaced else 0), []
    deletion = PendingWrite(lambda: ("delete", "a"), after=lambda: after.append(1))
    if replaced:
        assert writer.add("a", deletion) and not writer.add("a", record("too large", 11))
    else:
        assert not writer.add("a", deletion)
    assert after == [1] and writer.flush(SAFETY) and after == [1]


def test_what_the_tier_loses_is_counted(make, tier):
    writer = make()
    tier.lost = 2
    for name in "abc":
        writer.add(name, record(name))
    assert writer.flush(SAFETY) and writer.lost == [2.0]


def test_what_fails_unexpectedly_ends_nothing(make, tier, caplog):
    writer, after = make(), []
    writer.add("a", PendingWrite(lambda: 1 // 0, size=1, after=lambda: after.append(1)))
    assert writer.flush(SAFETY) and writer.lost == [1.0] and after == [1] and "ZeroDivisionError" in caplog.text
    writer.add("a", record("1"))
    assert writer.flush(SAFETY) and tier.batches == [["put 1"]]


def test_a_writer_that_ends(make, tier):
    writer = make()
    tier.go.clear()
    for name in "ab":
        writer.add(name, record(name))
        gevent.sleep(0)
    writer.stop(0.01)
    assert sum(writer.lost) == 2 and len(writer) == 0 and writer._greenlet is None
    tier.go.set()
    writer.add("c", record("3"))
    writer.stop(SAFETY)
    assert tier.batches == [["put 3"]]
