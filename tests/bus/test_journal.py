"""The journal: every reader gets everything once, whatever is damaged, replaced, full or slow; it stays short."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import gevent
import pytest

from gateway.bus.change_stamp import ChangeStamp
from gateway.bus.journal import PAUSE, Journal
from gateway.bus.notice import EVERY, Notice, gap, line_of
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MB = 1024 ** 2


def notice(key: str = "a", at: float = 1.0, topic: str = "stages", retain: bool = True) -> Notice:
    return Notice(topic, key, None, retain, at)


def keys(notices: list[Notice], topic: str = "stages") -> list[str]:
    return [each.key for each in notices if each.topic == topic and each.key is not None]


def settled(journal: Journal, notice: Notice) -> None:
    """Write it; the file is as long as it may be again."""
    assert journal.write(notice)
    if journal._compacting is not None:                  # a loop of sleep(0) takes the interpreter from that thread
        journal._compacting.join()


def taken(work) -> int:
    """The most bytes that were taken meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_every_reader_gets_everything_once(tmp_path):
    writer, first = Journal(tmp_path / "notices"), Journal(tmp_path / "notices")
    assert first.read() == []
    assert writer.write(notice("a", 1.5)) and writer.write(notice("ä\n", 2.5))
    assert first.read() == [notice("a", 1.5), notice("ä\n", 2.5)]
    assert first.read() == []
    writer.write(notice("c"))
    late = Journal(tmp_path / "notices")
    assert [each.key for each in late.read()] == ["a", "ä\n", "c"] and first.read() == [notice("c")]
    assert os.stat(tmp_path / "notices").st_mode & 0o077 == 0


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    reader = Journal(tmp_path / "notices")
    line = line_of(notice("b"))
    (tmp_path / "notices").write_bytes(line_of(notice("a")) + line[:12])
    assert reader.read() == [notice("a")]
    with (tmp_path / "notices").open("ab") as file:
        file.write(line[12:])
    assert reader.read() == [notice("b")]


def test_what_is_no_notice_is_passed_over(tmp_path):
    (tmp_path / "notices").write_bytes(b'null\n{}\n\xff\n[]\n["stages","a",null,true]\n' + line_of(notice("a")))
    assert Journal(tmp_path / "notices").read() == [notice("a")]


def test_a_long_journal_is_replaced_by_its_newer_half(tmp_path):
    writer, reader = Journal(tmp_path / "notices", limit=2000), Journal(tmp_path / "notices", limit=2000)
    heard = []
    for number in range(500):
        settled(writer, notice(str(number), float(number)))
        heard += reader.read()
        assert os.stat(tmp_path / "notices").st_size <= 2100
    assert heard == [notice(str(number), float(number)) for number in range(500)], "each once, also what the new file says again"
    late = Journal(tmp_path / "notices").read()
    left = [each for each in late if each.key is not None]
    assert late[0] == gap(left[0].at - 1, "stages") and left[-1].key == "499"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notices.bell", "notices"]


def test_a_journal_of_the_same_keys_says_them_once(tmp_path):
    """Nothing is lost, and there is no gap."""
    writer = Journal(tmp_path / "notices", limit=4000)
    for number in range(1000):
        for key in "abcdefgh":
            settled(writer, notice(key, float(number)))
        settled(writer, notice(str(number), float(number), "deleted", retain=False))
    late = Journal(tmp_path / "notices").read()
    assert not [each for each in late if each.key is None]
    assert {each.key: each.at for each in late if each.topic == "stages"} == dict.fromkeys("abcdefgh", 999.0)
    left = [int(key) for key in keys(late, "deleted")]
    assert left == list(range(left[0], 1000)) and len(left) > 5, "those of the newer half are still there"
    assert os.stat(tmp_path / "notices").st_size <= 4000


@pytest.mark.parametrize("topic, retain", [("deleted", False), ("stages", False), ("purges", True)])
def test_a_topic_with_much_to_say_takes_nothing_from_the_others(tmp_path, topic, retain):
    writer = Journal(tmp_path / "notices", limit=2000)
    assert writer.write(notice("legacy", 1.0))
    for number in range(500):
        settled(writer, notice(str(number), float(number), topic, retain))
    late = Journal(tmp_path / "notices").read()
    assert len(late) < 100 and notice("legacy", 1.0) in late
    assert [each.topic for each in late if each.key is None] == ([topic] if retain else [])


def test_a_journal_is_compacted_while_others_go_on(tmp_path):
    """Both write and read into what is about to be replaced; the loop has a pause after each line."""
    writer, other, reader = (Journal(tmp_path / "notices", limit=640, lines=1, piece=1) for _ in range(3))
    other.limit = 10 ** 6                                # one replacement: who missed several hears all of it again
    heard = []
    for number in range(20):
        writer.write(notice("same", float(number)))
    first, compacting = os.stat(tmp_path / "notices").st_ino, writer._compacting
    heard += reader.read()
    pauses = 0
    while writer._compacting is not None:
        other.write(notice(f"meanwhile {pauses}", 100.0))
        heard += reader.read() if pauses % 2 else []
        pauses += 1
        gevent.sleep(PAUSE)
    for journal in (writer, other):
        journal.limit = 10 ** 6
        if journal._compacting is not None:
            journal._compacting.join()
    assert compacting is not None and pauses > 5 and os.stat(tmp_path / "notices").st_ino != first
    other.write(notice("last"))
    heard += reader.read()
    expected = [*(f"meanwhile {number}" for number in range(pauses)), "last"]
    found = keys(heard)
    assert found[:20] == ["same"] * 20
    assert list(dict.fromkeys(found[20:])) == expected, "all, in order; what came as the file was replaced perhaps twice"
    assert keys(Journal(tmp_path / "notices").read()) == ["same", *expected]


def test_who_missed_more_than_one_replacement_hears_all_of_it(tmp_path):
    writer, reader = Journal(tmp_path / "notices", limit=2000), Journal(tmp_path / "notices")
    settled(writer, notice("heard"))
    assert reader.read() == [notice("heard")]
    for number in range(300):
        settled(writer, notice(str(number), float(number)))
    late, heard = Journal(tmp_path / "notices").read(), reader.read()
    assert heard[-len(late):] == late and late[-1] == notice("299", 299.0)
    assert heard[:2] == [notice("0", 0.0), notice("1", 1.0)], "and before, the rest of what it was reading"


def test_a_line_that_found_no_room_does_not_spoil_the_next(tmp_path):
    """The limit for the size of files is in the middle of a line; a pipe takes what is logged of it."""
    code = ("import resource, signal, sys; from gateway.bus.journal import Journal; from gateway.bus.notice import Notice\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))\n"
            "journal = Journal(sys.argv[1])\n"
            "sys.exit([journal.write(Notice('stages', key, None, True, 1.0)) for key in 'ab'] != [True, False])")
    child = subprocess.run([sys.executable, "-c", code, tmp_path / "notices"], cwd=ROOT, timeout=60, stderr=subprocess.PIPE)
    assert child.returncode == 0 and b"do not hear of stages: b" in child.stderr
    Journal(tmp_path / "notices").write(notice("c"))
    assert Journal(tmp_path / "notices").read() == [notice("a"), notice("c")]


def test_many_writers_lose_nothing(tmp_path):
    """Processes that write at once, while the file is replaced under them."""
    code = ("import gevent, sys, time; from gateway.bus.journal import Journal; from gateway.bus.notice import Notice\n"
            "journal = Journal(sys.argv[1], limit=8000)\n"
            "for number in range(100):\n"
            "    journal.write(Notice('stages', f'{sys.argv[2]}-{number}', None, True, time.time())); gevent.sleep(0)")
    reader, heard = Journal(tmp_path / "notices"), []
    children = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "notices", str(child)], cwd=ROOT) for child in range(4)]
    for child in children:
        while child.poll() is None:
            heard += reader.read()
            gevent.sleep(0.001)
        assert child.returncode == 0
    heard += reader.read()
    lost = max((each.at for each in heard if each.key is None), default=0.0)
    assert {f"{child}-99" for child in range(4)} <= set(keys(heard)) and lost < time.time()
    reader.close()


def test_a_place_that_cannot_be_written(tmp_path, caplog):
    journal = Journal(tmp_path / "no" / "notices")
    assert not journal.write(notice("canary"))
    assert "the other workers do not hear of stages: canary" in caplog.text and journal.read() == []


class Stolen(ChangeStamp):
    """A stamp that nobody can share."""

    def attach(self, path: Path) -> None:
        raise PermissionError(13, "not allowed")


@pytest.mark.parametrize("stamp", ["shared", "missing"])
def test_a_journal_that_was_started_is_followed(tmp_path, stamp, caplog):
    """Also without a stamp, which is said once."""
    writer, follower = Journal(tmp_path / "notices"), Journal(tmp_path / "notices", poll=0.02)
    writer.write(notice("before"))
    if stamp == "missing":
        for each in (writer, follower):
            each.stamp = Stolen()
    heard: list[Notice] = []
    follower.start(heard.append)
    assert keys(heard) == ["before"], "all that was, before anything is served"
    writer.write(notice("after"))
    until(lambda: keys(heard) == ["before", "after"])
    follower.stop()
    assert caplog.text.count("there is no change stamp") == (2 if stamp == "missing" else 0)


def test_a_line_that_does_not_end(tmp_path):
    with (tmp_path / "notices").open("wb") as file:
        file.write(line_of(notice("a")))
        for _ in range(40):
            file.write(b"x" * MB)
        file.write(b"\n" + line_of(notice("b")))
    heard: list[Notice] = []
    journal = Journal(tmp_path / "notices")
    assert taken(lambda: heard.extend(journal.read())) < 8 * MB and keys(heard) == ["a", "b"]
    journal.close()


def test_a_journal_that_is_far_too_long_is_a_gap_in_every_topic(tmp_path):
    journal = Journal(tmp_path / "notices", limit=1000, huge=2)
    (tmp_path / "notices").write_bytes(b"".join(line_of(notice(str(number))) for number in range(1000)))
    settled(journal, notice("a"))
    [left] = Journal(tmp_path / "notices").read()
    assert (left.topic, left.key) == (EVERY, None) and time.time() - left.at < 60
    journal.stop()
