"""Purges: what a mark is about, hard and soft, how it travels, and that marks stay small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import entry_of, variants_of

from gateway.bus.notice import Notice, line_of, parse
from gateway.cache.entry import Variants
from gateway.cache.purging.purge_index import Marks, Purge, addresses, normalize, parse_purge, purge_notice, purge_of

URL = "https://shop.test/api/a?b=1"


def marks_of(*made: Purge, **limits) -> Marks:
    marks = Marks(**limits)
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
    ("everything", "", True),
])
@pytest.mark.parametrize("soft", [False, True])
def test_what_a_mark_is_about(kind, value, expected, soft):
    marks = marks_of(Purge(kind, value, soft, 100.0))
    hard, softly = marks.purge_times(entry_of(URL, tags=("red", "blue"), at=1.0))
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
    assert left is not None and left == (new, other)
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
    [entry] = left
    assert (entry.expires, entry.stale_while_revalidate, entry.stale_if_error) == expected
    assert variants[0].expires == expires, "what others hold is not changed"


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
    assert parse_purge(address, None, None, False, False, 0.0).value == expected
    assert normalize(expected) == expected


@pytest.mark.parametrize("address, expected", [
    ("http://shop.test", "http://shop.test"), ("HTTP://Shop.test:80/A?b=1&a", "http://shop.test/A?b=1&a"), ("/%7e", "/~")])
def test_prefixes_are_read(address, expected):
    assert parse_purge(None, address, None, False, False, 0.0).value == expected


@pytest.mark.parametrize("stored, purged", [
    ("http://h/p?a=2&b=1", "http://h/p?b=1&a=2"), ("http://h/p?b=1&a=2", "http://h/p?a=2&b=1"), ("http://h/p", "http://h:80/p"),
    ("http://h:80/p", "http://h/p"), ("https://h:443/p", "//h/p"), ("http://h:443/p", "//h/p"), ("http://h/%7eu", "http://h/~u"),
    ("http://h/caf%c3%a9", "/caf\u00e9"), ("http://h/", "http://h")])
def test_one_purge_is_about_all_ways_to_write_an_address(stored, purged):
    marks = marks_of(parse_purge(purged, None, None, False, False, 100.0))
    assert hit(marks, url=stored) and not hit(marks, url=stored + "x")


@pytest.mark.parametrize("address", ["", "shop.test/a", "ftp://shop.test/a", "a b", "http:/a", "//", "https://", "///a", "#"])
def test_what_is_no_address(address):
    with pytest.raises(ValueError):
        parse_purge(address, None, None, False, False, 0.0)


@pytest.mark.parametrize("given_", [
    {}, {"url": "/a", "tag": "b"}, {"everything": True, "tag": "b"}, {"tag": ""}, {"prefix": ""}])
def test_one_thing_at_a_time(given_):
    arguments = {"url": None, "prefix": None, "tag": None, "everything": False, **given_}
    with pytest.raises(ValueError):
        parse_purge(**arguments, soft=False, at=0.0)


# -- marks stay small

@pytest.mark.parametrize("soft", [False, True])
def test_the_oldest_prefixes_become_a_floor(soft):
    marks = marks_of(*(Purge("prefix", f"/{number}", soft, float(number)) for number in range(1, 31)), prefixes=10)
    side = marks.soft if soft else marks.hard
    assert (len(side.prefixes), side.floor, sum(side.prefixes.lengths.values())) == (10, 20.0, 10)
    assert soft or hit(marks, url="http://other.test/", tags=(), at=20.0) and not hit(marks, url="http://x/", tags=(), at=20.1)


def test_a_prefix_purged_again_stays_longer():
    marks = marks_of(*(Purge("prefix", prefix, False, at) for prefix, at in (("/a", 1.0), ("/b", 2.0), ("/a", 3.0), ("/c", 4.0))),
                     prefixes=2)
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
    Purge("url", "/a", True, 5.0), Purge("tag", "t", False, 5.0), Purge("prefix", "/a", False, 5.0)])
def test_what_travels_says_the_same(purge):
    short = purge.short()
    assert len(short.value) <= 7 and short.soft == purge.soft and short.short() == short
    for where, tags in (("http://h/a", ()), ("http://h/b", ("t",)), ("http://h/b", ())):
        entry = entry_of(where, tags=tags)
        assert marks_of(short).purge_times(entry) == marks_of(purge).purge_times(entry)


@pytest.mark.parametrize("value", ["", "x", "-1", "70000", "1.5", "3:1", "1:", "1:70000", "2:9999999"])
def test_odd_buckets_do_no_harm(value):
    marks_of(Purge("urls", value, False, 5.0), Purge("tags", value, False, 5.0))


@pytest.mark.parametrize("purge", [
    Purge("url", "/a", True, 5.0), Purge("tag", "a tag of words", False, 5.0), Purge("everything", "", True, 5.0),
    Purge("prefix", "/a\udce9 b\n", False, 5.0)])
def test_a_purge_travels_as_a_notice(purge):
    assert purge_of(parse(line_of(purge_notice(purge)))) == purge


@pytest.mark.parametrize("key", ["", "hard", "hard colour red", "soft colour red", "half tag t", "tag t", "hard  t"])
def test_a_purge_that_only_a_later_version_knows_is_one_of_everything(key):
    assert purge_of(Notice("purges", key, None, True, 5.0)) == Purge("everything", "", False, 5.0)


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
        assert left[0].expires == (soft if at <= soft else at + 1000.0)
