"""Purges: what a mark is about, hard and soft, marks and journals that stay small, and every worker hearing of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import entry_of, until, variants_of

from gateway.cache.entry import Variants
from gateway.cache.purge import journal as journals
from gateway.cache.purge import marks as purges
from gateway.cache.purge.journal import PurgeJournal, latest, line_of
from gateway.cache.purge.marks import Marks, Purge, addresses, normal, parsed_purge

ROOT = Path(__file__).parents[2]
URL = "https://shop.test/api/a?b=1"


def marks_of(*made: Purge) -> Marks:
    marks = Marks()
    for purge in made:
        marks.add(purge)
    return marks


def hit(marks: Marks, *, url: str = URL, tags=("red", "blue"), at: float = 100.0) -> bool:
    return marks.apply(variants_of(url, tags=tags, at=at)) is None


# -- what is meant

@pytest.mark.parametrize("kind, value, expected", [
    ("url", URL, True), ("url", "//shop.test/api/a?b=1", True), ("url", "/api/a?b=1", True),
    ("url", "/api/a", False), ("url", "http://shop.test/api/a?b=1", False), ("url", "https://other.test/api/a?b=1", False),
    ("url", URL + "2", False), ("url", "//other.test/api/a?b=1", False),
    ("prefix", "https://shop.test/api/", True), ("prefix", URL, True), ("prefix", "//shop.test/", True), ("prefix", "/api", True),
    ("prefix", "/", True), ("prefix", "/API", False), ("prefix", URL + "2", False), ("prefix", "https://shop.test/b", False),
    ("tag", "red", True), ("tag", "blue", True), ("tag", "re", False), ("tag", "Red", False), ("tag", "red blue", False),
    ("everything", "", True), ("key", URL, False), ("view", "", False),
])
@pytest.mark.parametrize("soft", [False, True])
def test_what_a_mark_is_about(kind, value, expected, soft):
    marks = marks_of(Purge(kind, value, soft, 100.0))
    hard, softly = marks.purged(entry_of(URL, tags=("red", "blue"), at=1.0))
    assert ((softly if soft else hard) == 100.0) is expected
    assert (hard if soft else softly) == 0.0


@pytest.mark.parametrize("at, gone", [(99.9, True), (100.0, True), (100.001, False)])
def test_only_what_was_asked_for_before(at, gone):
    assert hit(marks_of(Purge("tag", "red", False, 100.0)), at=at) is gone


def test_the_latest_of_several_counts():
    marks = marks_of(Purge("tag", "red", False, 100.0), Purge("tag", "red", False, 50.0), Purge("url", URL, False, 80.0))
    assert hit(marks, at=99) and hit(marks, at=100) and not hit(marks, at=101)


def test_each_entry_of_a_list_by_itself():
    old, new, other = entry_of(tags=["a"], at=10.0), entry_of(tags=["a"], at=200.0), entry_of(tags=["b"], at=10.0)
    marks = marks_of(Purge("tag", "a", False, 100.0))
    left = marks.apply(Variants([old, new, other]))
    assert left is not None and left.entries == [new, other]
    kept = Variants([new, other])
    assert marks.apply(kept) is kept, "nothing to change: the same object"


@pytest.mark.parametrize("at, expires, expected", [
    (10.0, 160.0, (100.0, 130.0, 160.0)),                # fresh until 160, stale 30 and 60 longer; purged at 100
    (10.0, 90.0, (90.0, 120.0, 150.0)),                  # was stale before
    (101.0, 160.0, (160.0, 190.0, 220.0)),               # newer than the purge
])
def test_soft_makes_stale_and_keeps_the_windows(at, expires, expected):
    variants = variants_of(tags=["a"], at=at, lifetime=expires - at, stale=30.0)
    left = marks_of(Purge("tag", "a", True, 100.0)).apply(variants)
    assert left is not None
    [entry] = left.entries
    assert (entry.expires, entry.stale_while_revalidate, entry.stale_if_error) == expected
    assert variants.entries[0].expires == expires, "what others hold is not changed"


def test_soft_and_hard_together():
    both = marks_of(Purge("tag", "red", True, 100.0), Purge("everything", "", False, 50.0))
    assert hit(both, at=40) and not hit(both, at=60)


@pytest.mark.parametrize("url, expected", [
    ("https://a/b?c", ("https://a/b?c", "//a/b?c", "/b?c")), ("http://a", ("http://a", "//a")), ("odd", ("odd",))])
def test_the_ways_to_write_an_address(url, expected):
    assert addresses(url) == expected


@pytest.mark.parametrize("address, expected", [
    ("HTTPS://Shop.Test/A?b#c", "https://shop.test/A?b"), ("//Shop.Test/A", "//shop.test/A"), ("/A#x", "/A"), ("/", "/"),
    ("http://shop.test", "http://shop.test/"), ("http://[::1]:80/a", "http://[::1]/a"), ("http://h:443/", "http://h:443/"),
    ("https://h:443/", "https://h/"), ("//h:80/a", "//h/a"), ("//h:443/a", "//h/a"), ("//h:8080/a", "//h:8080/a"),
    ("/%7euser/%2f%c3%a9", "/~user/%2F%C3%A9"), ("/caf\u00e9", "/caf%C3%A9"), ("/a%zz%4", "/a%zz%4"), ("/a//b", "/a//b"),
    ("http://h/?b=1&a=2&a=1", "http://h/?a=1&a=2&b=1"), ("http://h?b&%61", "http://h/?a&b"), ("/a?", "/a?"),
    ("/a?u=http://h:80/", "/a?u=http://h:80/")])
def test_addresses_are_read(address, expected):
    assert parsed_purge(address, None, None, False, False, 0.0).value == expected
    assert normal(expected) == expected


@pytest.mark.parametrize("address, expected", [
    ("http://shop.test", "http://shop.test"), ("HTTP://Shop.test:80/A?b=1&a", "http://shop.test/A?b=1&a"), ("/%7e", "/~")])
def test_prefixes_are_read(address, expected):
    assert parsed_purge(None, address, None, False, False, 0.0).value == expected


@pytest.mark.parametrize("stored, purged", [
    ("http://h/p?a=2&b=1", "http://h/p?b=1&a=2"), ("http://h/p?b=1&a=2", "http://h/p?a=2&b=1"), ("http://h/p", "http://h:80/p"),
    ("http://h:80/p", "http://h/p"), ("https://h:443/p", "//h/p"), ("http://h:443/p", "//h/p"), ("http://h/%7eu", "http://h/~u"),
    ("http://h/caf%c3%a9", "/caf\u00e9"), ("http://h/", "http://h")])
def test_one_purge_is_about_all_ways_to_write_an_address(stored, purged):
    marks = marks_of(parsed_purge(purged, None, None, False, False, 100.0))
    assert hit(marks, url=stored) and not hit(marks, url=stored + "x")


@pytest.mark.parametrize("address", ["", "shop.test/a", "ftp://shop.test/a", "a b", "http:/a", "//", "https://", "///a", "#"])
def test_what_is_no_address(address):
    with pytest.raises(ValueError):
        parsed_purge(address, None, None, False, False, 0.0)


@pytest.mark.parametrize("given_", [
    {}, {"url": "/a", "tag": "b"}, {"everything": True, "tag": "b"}, {"tag": ""}, {"prefix": ""}])
def test_one_thing_at_a_time(given_):
    arguments = {"url": None, "prefix": None, "tag": None, "everything": False, **given_}
    with pytest.raises(ValueError):
        parsed_purge(**arguments, soft=False, at=0.0)


# -- marks stay small

@pytest.mark.parametrize("soft", [False, True])
def test_the_oldest_prefixes_become_a_floor(monkeypatch, soft):
    monkeypatch.setattr(purges, "MOST_PREFIXES", 10)
    marks = marks_of(*(Purge("prefix", f"/{number}", soft, float(number)) for number in range(1, 31)))
    side = marks.soft if soft else marks.hard
    assert (len(side.prefixes), side.floor, sum(side.prefixes.lengths.values())) == (10, 20.0, 10)
    assert soft or hit(marks, url="http://other.test/", tags=(), at=20.0) and not hit(marks, url="http://x/", tags=(), at=20.1)


def test_a_prefix_purged_again_stays_longer(monkeypatch):
    monkeypatch.setattr(purges, "MOST_PREFIXES", 2)
    marks = marks_of(*(Purge("prefix", prefix, False, at) for prefix, at in (("/a", 1.0), ("/b", 2.0), ("/a", 3.0), ("/c", 4.0))))
    assert marks.hard.floor == 2.0
    assert [hit(marks, url=f"http://h{path}", at=2.5) for path in ("/a", "/b", "/c")] == [True, False, True]


@pytest.mark.parametrize("kind", ["url", "tag"])
def test_many_purges_push_out_nothing(kind):
    """However many addresses and tags are purged, what is not meant stays, but for the few that share a bucket."""
    marks = marks_of(*(Purge(kind, f"http://h/{number}", False, 50.0) for number in range(20_000)))
    assert marks.hard.floor == 0.0
    stays = sum(not hit(marks, url=f"http://h/other/{number}", tags=[f"other-{number}"], at=10.0) for number in range(1000))
    assert 600 < stays < 1000, "about three quarters"
    assert all(hit(marks, url=f"http://h/{number}", tags=[f"http://h/{number}"], at=10.0)
               for number in range(0, 20_000, 100))


@pytest.mark.parametrize("purge", [
    Purge("url", "/a", True, 5.0), Purge("tag", "t", False, 5.0), Purge("prefix", "/a", False, 5.0), Purge("key", "k", False, 5.0)])
def test_what_travels_says_the_same(purge):
    short = purge.short()
    assert len(short.value) <= 7 and short.soft == purge.soft and short.short() == short
    for where, tags in (("http://h/a", ()), ("http://h/b", ("t",)), ("http://h/b", ())):
        entry = entry_of(where, tags=tags)
        assert marks_of(short).purged(entry) == marks_of(purge).purged(entry)


@pytest.mark.parametrize("value", ["", "x", "-1", "70000", "1.5", "3:1", "1:", "1:70000", "2:9999999"])
def test_odd_buckets_do_no_harm(value):
    marks_of(Purge("urls", value, False, 5.0), Purge("tags", value, False, 5.0))


KINDS = st.sampled_from([("url", "/a"), ("url", "//shop.test/a"), ("prefix", "/"), ("prefix", "//shop.test"), ("tag", "t"),
                         ("tag", "u"), ("everything", "")])


@given(st.lists(st.tuples(KINDS, st.booleans(), st.floats(1, 100)), max_size=20), st.floats(1, 100), st.sampled_from(["t", "u"]))
def test_never_older_than_a_purge(made, at, tag):
    """Whatever the order in which purges are heard, nothing from before a hard one is left, nor fresh after a soft."""
    marks = marks_of(*(Purge(*what, soft, moment) for what, soft, moment in made))
    left = marks.apply(variants_of("http://shop.test/a", tags=[tag], at=at, lifetime=1000.0))
    about = [(soft, moment) for (kind, value), soft, moment in made if kind != "tag" or value == tag]
    hard = max((moment for soft, moment in about if not soft), default=0.0)
    soft = max((moment for soft, moment in about if soft), default=0.0)
    assert (left is None) is (at <= hard)
    if left is not None:
        assert left.entries[0].expires == (soft if at <= soft else at + 1000.0)


# -- the journal

def purge(value: str = "a", at: float = 1.0) -> Purge:
    return Purge("tag", value, False, at)


def test_every_reader_gets_everything_once(tmp_path):
    writer, first = PurgeJournal(tmp_path / "purges"), PurgeJournal(tmp_path / "purges")
    assert first.read() == []
    assert writer.write(purge("a", 1.5)) and writer.write(purge("ä\n", 2.5))
    assert first.read() == [purge("a", 1.5), purge("ä\n", 2.5)]
    assert first.read() == []
    writer.write(purge("c"))
    late = PurgeJournal(tmp_path / "purges")
    assert [each.value for each in late.read()] == ["a", "ä\n", "c"] and first.read() == [purge("c")]
    assert os.stat(tmp_path / "purges").st_mode & 0o077 == 0


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    reader = PurgeJournal(tmp_path / "purges")
    (tmp_path / "purges").write_bytes(b'["tag","a",false,1.0]\n["tag","b"')
    assert reader.read() == [purge("a")]
    with (tmp_path / "purges").open("ab") as file:
        file.write(b',false,1.0]\n')
    assert reader.read() == [purge("b")]


def test_what_is_no_purge_is_passed_over(tmp_path):
    (tmp_path / "purges").write_bytes(b'null\n{}\n\xff\n[]\n["colour","a",false,1.0]\n["tag",1,false,1.0]\n["tag","a",false,"x"]\n'
                                      b'["tag","a",false,1.0]\n')
    assert PurgeJournal(tmp_path / "purges").read() == [purge("a")]


def written(journal: PurgeJournal, purge: Purge) -> None:
    """The file is as long as it may be again."""
    assert journal.write(purge)
    if journal._shortening is not None:                  # a loop of sleep(0) takes the interpreter from that thread
        journal._shortening.join()


def test_a_long_journal_is_replaced_by_its_newer_half(tmp_path):
    writer, reader = PurgeJournal(tmp_path / "purges", limit=2000), PurgeJournal(tmp_path / "purges", limit=2000)
    heard = []
    for number in range(500):
        written(writer, purge(str(number), float(number)))
        heard += reader.read()
        assert os.stat(tmp_path / "purges").st_size <= 2100
    assert heard == [purge(str(number), float(number)) for number in range(500)], "each once, also what the new file says again"
    late = PurgeJournal(tmp_path / "purges").read()
    tags = [each for each in late if each.kind == "tag"]
    assert late[0] == Purge("everything", "", False, tags[0].at - 1) and tags[-1].value == "499"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".purges.bell", "purges"]


def test_a_journal_of_the_same_things_says_them_once(tmp_path):
    """It is replaced by one that says the same, and nothing counts as purged that was not."""
    writer = PurgeJournal(tmp_path / "purges", limit=4000)
    for number in range(1000):
        for value in "abcdefgh":
            written(writer, Purge("urls", value, False, float(number)))
        written(writer, Purge("key", str(number), False, float(number)))
    late = PurgeJournal(tmp_path / "purges").read()
    assert not [each for each in late if each.kind == "everything"]
    assert {each.value: each.at for each in late if each.kind == "urls"} == dict.fromkeys("abcdefgh", 999.0)
    keys = [int(each.value) for each in late if each.kind == "key"]
    assert keys == list(range(keys[0], 1000)) and len(keys) > 5, "keys of the newer half are still there"
    assert os.stat(tmp_path / "purges").st_size <= 4000


@pytest.mark.parametrize("others", ["key", "view", "tag"])
def test_that_view_code_has_cleared_its_cache_is_never_dropped(tmp_path, others):
    """What is in a folder is only marked by it. A purge of everything, which is about answers, does not say the same."""
    writer = PurgeJournal(tmp_path / "purges", limit=2000)
    assert writer.write(Purge("view", "", False, 1.0))
    for number in range(500):
        written(writer, Purge(others, str(number), False, float(number)))
    late = PurgeJournal(tmp_path / "purges").read()
    assert len(late) < 100 and Purge("view", "", False, 1.0) in late


def test_the_latest_of_each_is_left():
    lines = [line_of(each) for each in (purge("a", 5.0), purge("b", 1.0), purge("a", 4.5), purge("b", 2.0))]
    assert latest([*lines, b"nonsense\n", b"[1,x]\n"]) == [(5.0, lines[0]), (2.0, lines[3])]


def test_a_journal_is_shortened_while_others_go_on(tmp_path, monkeypatch):
    """Both write and read into what is about to be replaced; the loop has a pause after each line."""
    monkeypatch.setattr(journals, "LINES", 1)
    monkeypatch.setattr(journals, "SOME", 1)
    writer, other, reader = (PurgeJournal(tmp_path / "purges", limit=500) for _ in range(3))
    other.limit = 10 ** 6                                # one replacement: who missed several hears all of it again
    heard = []
    for number in range(20):
        writer.write(purge("same", float(number)))
    first, shortening = os.stat(tmp_path / "purges").st_ino, writer._shortening
    heard += reader.read()
    pauses = 0
    while writer._shortening is not None:
        other.write(purge(f"meanwhile {pauses}", 100.0))
        heard += reader.read() if pauses % 2 else []
        pauses += 1
        gevent.sleep(journals.PAUSE)
    for journal in (writer, other):
        journal.limit = 10 ** 6
        if journal._shortening is not None:
            journal._shortening.join()
    assert shortening is not None and pauses > 5 and os.stat(tmp_path / "purges").st_ino != first
    other.write(purge("last"))
    heard += reader.read()
    expected = [*(f"meanwhile {number}" for number in range(pauses)), "last"]
    assert [each.value for each in heard] == ["same"] * 20 + expected, "each once"
    late = [each.value for each in PurgeJournal(tmp_path / "purges").read() if each.kind == "tag"]
    assert late == ["same", *expected]


def test_who_missed_more_than_one_replacement_hears_all_of_it(tmp_path):
    writer, reader = PurgeJournal(tmp_path / "purges", limit=2000), PurgeJournal(tmp_path / "purges")
    written(writer, purge("heard"))
    assert reader.read() == [purge("heard")]
    for number in range(300):
        written(writer, purge(str(number), float(number)))
    late, heard = PurgeJournal(tmp_path / "purges").read(), reader.read()
    assert heard[-len(late):] == late and late[-1] == purge("299", 299.0)
    assert heard[:2] == [purge("0", 0.0), purge("1", 1.0)], "and before, the rest of what it was reading"


def test_a_line_that_found_no_room_does_not_spoil_the_next(tmp_path):
    """The limit for the size of files is in the middle of a line; a pipe takes what is logged of it."""
    code = ("import resource, signal, sys; from gateway.cache.purge.journal import PurgeJournal as Journal\n"
            "from gateway.cache.purge.marks import Purge\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))\n"
            "sys.exit([Journal(sys.argv[1]).write(Purge('tag', value, False, 1.0)) for value in 'ab'] != [True, False])")
    child = subprocess.run([sys.executable, "-c", code, tmp_path / "purges"], cwd=ROOT, timeout=60, stderr=subprocess.PIPE)
    assert child.returncode == 0 and b"do not hear of the purge of tag b" in child.stderr
    PurgeJournal(tmp_path / "purges").write(purge("c"))
    assert PurgeJournal(tmp_path / "purges").read() == [purge("a"), purge("c")]


def test_many_writers_lose_nothing(tmp_path):
    """Processes that write at once, while the file is replaced under them."""
    code = ("import gevent, sys, time; from gateway.cache.purge.journal import PurgeJournal as Journal\n"
            "from gateway.cache.purge.marks import Purge\n"
            "journal = Journal(sys.argv[1], limit=8000)\n"
            "for number in range(100):\n"
            "    journal.write(Purge('tag', f'{sys.argv[2]}-{number}', False, time.time())); gevent.sleep(0)")
    reader, heard = PurgeJournal(tmp_path / "purges"), []
    children = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "purges", str(child)], cwd=ROOT) for child in range(4)]
    for child in children:
        while child.poll() is None:
            heard += reader.read()
            gevent.sleep(0.001)
        assert child.returncode == 0
    heard += reader.read()
    floor = max((each.at for each in heard if each.kind == "everything"), default=0.0)
    last = {each.value for each in heard if each.kind == "tag"}
    assert {f"{child}-99" for child in range(4)} <= last and floor < time.time()
    reader.close()


def test_a_place_that_cannot_be_written(tmp_path, caplog):
    journal = PurgeJournal(tmp_path / "no" / "purges")
    assert not journal.write(purge("secret-tag"))
    assert "do not hear of the purge" in caplog.text and journal.read() == []


def test_a_started_journal_tells_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "POLL", 0.02)
    writer, follower = PurgeJournal(tmp_path / "purges"), PurgeJournal(tmp_path / "purges")
    writer.write(purge("before"))
    heard: list[Purge] = []
    follower.start(heard.append)
    assert [each.value for each in heard] == ["before"], "all that was, before anything is served"
    writer.write(purge("after"))
    until(lambda: len(heard) == 2)
    follower.stop()
