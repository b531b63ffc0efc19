"""Group commit: what is written together, in which order, and what happens to too much of it."""

from __future__ import annotations

import gevent
import pytest

from gateway.bus.group_commit import GroupCommit
from gateway.bus.notice import Notice, gap
from tests.waiting import SAFETY


def notice(key: str, at: float = 1.0, topic: str = "stages") -> Notice:
    return Notice(topic, key, None, True, at)


class Writer:
    """``batches`` are what was written, each time; ``accepts`` is whether it is taken."""

    def __init__(self) -> None:
        self.batches: list[list[Notice]] = []
        self.accepts = True

    def __call__(self, *notices: Notice) -> bool:
        gevent.sleep(0)
        self.batches.append([*notices])
        return self.accepts


@pytest.fixture
def writer() -> Writer:
    return Writer()


def test_what_comes_while_one_batch_is_written_goes_with_the_next(writer):
    commit = GroupCommit(writer)
    first = commit.add(notice("a"))
    gevent.sleep(0)
    others = {commit.add(notice(key)) for key in "bcd"}
    [second] = others
    assert second is not first and second.completion.wait(SAFETY) and first.completion.is_set()
    assert [[each.key for each in batch] for batch in writer.batches] == [["a"], ["b", "c", "d"]]
    assert first.success and second.success


def test_the_latest_of_one_key_stands_behind_what_was_added_before_it(writer):
    commit = GroupCommit(writer)
    for number, key in enumerate("abab c a".replace(" ", "")):
        batch = commit.add(notice(key, float(number)))
    batch.completion.wait(SAFETY)
    assert writer.batches == [[notice("b", 3.0), notice("c", 4.0), notice("a", 5.0)]]


def test_a_batch_that_is_not_taken_is_settled_too(writer):
    writer.accepts = False
    batch = GroupCommit(writer).add(notice("a"))
    assert batch.completion.wait(SAFETY) and not batch.success


def test_a_transport_with_a_defect_takes_what_comes_next(writer, caplog):
    commit = GroupCommit(lambda *notices: 1 / 0)
    batch = commit.add(notice("a"))
    assert batch.completion.wait(SAFETY) and not batch.success and "1 notices are lost" in caplog.text
    commit.write = writer
    assert commit.add(notice("b")).completion.wait(SAFETY) and len(writer.batches) == 1


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_more_than_can_wait_are_a_gap_in_each_topic(writer, limit):
    commit = GroupCommit(writer, limit)
    for number in range(limit):
        commit.add(notice(str(number), topic="purges" if number % 2 else "stages"))
    commit.add(notice("0", 2.0))                         # in the place of the one before
    batch = commit.add(notice("last", 3.0))
    batch.completion.wait(SAFETY)
    topics = ["stages"] if limit == 1 else ["purges", "stages"] if limit == 2 else ["purges", "stages"]
    assert sorted(writer.batches[0][:-1]) == [gap(3.0, topic) for topic in topics] and writer.batches[0][-1] == notice("last", 3.0)


def test_flushing_ends_what_hangs():
    commit = GroupCommit(lambda *notices: gevent.sleep(SAFETY))
    batch = commit.add(notice("a"))
    gevent.sleep(0)
    commit.flush(0.0)
    assert batch.completion.is_set() and not batch.success
