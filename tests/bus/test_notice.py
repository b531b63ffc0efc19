"""Notices on a line of a log, and what of a log is left when it is compacted."""

from __future__ import annotations

import pytest

from gateway.bus.log_compaction import halve, latest, total
from gateway.bus.notice import EVERY, Notice, gap, gaps, line_of, parse


def notice(key: str, at: float, topic: str = "stages", retain: bool = True, payload: object = None) -> Notice:
    return Notice(topic, key, payload, retain, at)


@pytest.mark.parametrize("one", [
    notice("a", 1.5), notice("", 0.0), notice("\udce9 ä\n", 1.0), notice("a", 1.0, payload={"share": 5, "to": ["canary"]}),
    notice("a", 1.0, retain=False), gap(7.5), gap(7.5, "stages")])
def test_a_notice_on_a_line(one):
    line = line_of(one)
    assert parse(line) == one and line.count(b"\n") == 1 and line.isascii()


@pytest.mark.parametrize("line, read", [
    (b'["stages","a",null,true,1.0,"of a later version",7]', notice("a", 1.0)),
    (b'["stages","a",null,true,1]', notice("a", 1.0)),
    (b'["stages","a",null,true]', None),
    (b'["stages","a",null,1,1.0]', None),
    (b'["stages","a",null,true,"1.0"]', None),
    (b'["stages","a",null,true,NaN]', None),
    (b'["stages",7,null,true,1.0]', None),
    (b'[null,"a",null,true,1.0]', None),
    (b'["tag","a",false,1.0]', None),                    # of an earlier version
    (b'["after","1:2"]', None), (b"null", None), (b"{}", None), (b"[]", None), (b"nonsense", None), (b"\xff", None), (b"", None)])
def test_what_is_a_notice(line, read):
    assert parse(line) == read


def test_gaps_in_place_of_notices_are_one_for_each_topic():
    lost = {each.identity: each for each in (notice("a", 1.0), notice("b", 2.0), notice("a", 1.0, "purges"))}
    assert list(gaps(lost, 5.0).values()) == [gap(5.0, "stages"), gap(5.0, "purges")]


def left(*notices: Notice, junk: bytes = b"") -> list[Notice | None]:
    lines = [*map(line_of, notices), junk]
    return [parse(line.text) for line in latest(lines, sum(map(len, lines)))]


@pytest.mark.parametrize("before, after", [
    ([], []),
    ([("a", 1.0)], [("a", 1.0)]),
    ([("a", 5.0), ("b", 1.0), ("a", 4.5), ("b", 2.0)], [("a", 5.0), ("b", 2.0)]),
    ([("a", 1.0), ("b", 2.0), ("a", 3.0)], [("b", 2.0), ("a", 3.0)]),            # behind what was published before it
    ([("a", 1.0), ("a", 1.0, "purges")], [("a", 1.0), ("a", 1.0, "purges")]),
    ([("a", 1.0), (None, 2.0), (None, 3.0)], [("a", 1.0), (None, 3.0)]),
    ([("a", 1.0, "deleted", False), ("b", 2.0), ("c", 3.0, "deleted", False)], [("b", 2.0), ("c", 3.0, "deleted", False)])])
def test_the_latest_of_each_key_is_left(before, after):
    assert left(*(notice(*each) for each in before)) == [notice(*each) for each in after]


def test_what_is_no_notice_is_left_out():
    assert left(notice("a", 1.0), junk=b"nonsense\n") == [notice("a", 1.0)]


@pytest.mark.parametrize("count, lost", [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_the_largest_topic_loses_its_older_half(count, lost):
    notices = [notice("x", 0.5, "sent"), *(notice(f"{number} is a long key", float(number)) for number in range(1, count + 1)),
               notice("y", 9.0, "edge")]
    lines = latest([*map(line_of, notices)], 0)
    found = halve(lines)
    assert parse(found[0].text) == gap(float(lost), "stages")
    assert found[1:] == [line for line in lines if line.topic != "stages" or line.at > lost], "in their order"
    assert total(found) == sum(len(line.text) for line in found)


def test_of_nothing_nothing_is_left_but_a_gap():
    assert [parse(line.text) for line in halve([])] == [gap(0.0, EVERY)]
