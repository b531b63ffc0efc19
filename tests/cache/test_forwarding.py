"""What goes on to the upstream, and what its answer does to that of others: the answers of RFC 9111 that are no plain 200."""

from __future__ import annotations

import time

import pytest
from asking import DictStore, Stream, at_once, ok, settle, status_of
from stored import variants_of

from gateway.errors import BodyTooLarge, DeadlineExceeded
from gateway.message import Body, Request, Response
from tests.waiting import until

CONDITION, RANGE = ("If-None-Match", '"v"'), ("Range", "bytes=0-1")


@pytest.mark.parametrize("shared, asked, onward", [
    (True, [CONDITION], []),                             # others wait for a whole answer
    (False, [CONDITION], [CONDITION]),
    (True, [RANGE], [RANGE]),                            # nobody waits for a part
    (True, [RANGE, ("If-Range", '"v"')], [RANGE, ("If-Range", '"v"')]),
    (True, [RANGE, CONDITION], [RANGE, CONDITION]),
])
def test_the_clients_conditions_go_on_where_nobody_shares_the_answer(world, shared, asked, onward):
    world.answer = ok("max-age=60" if shared else "no-store")
    world.ask(target="/a" if not shared else "/other")
    world.ask(*asked)
    assert world.seen[-1].headers == onward


def test_of_those_whom_a_stream_keeps_waiting_one_asks_for_all(world):
    """The leader's client does not read; the others wait for one of them, not each for its own."""
    world.cache(limits={"stream": 0.01})
    world.answer = ok(body=Stream(b"hel", b"lo"))
    slow = world.step(Request("GET", "/a", [], host="shop.test"))

    def whole(request):
        settle()
        return ok()

    world.answer = whole
    assert [answer.text for answer in at_once(world, 10)] == [b"hello"] * 10
    slow.body.close()
    assert len(world.seen) == 2


def test_leaders_whose_time_is_over_take_none_from_the_others(world):
    def late(request):
        settle()
        if len(world.seen) <= 4:
            raise DeadlineExceeded("its own")
        return ok()

    world.answer = late
    answers = at_once(world, 20)
    assert [type(answer) for answer in answers].count(DeadlineExceeded) == 4 and len(world.seen) == 5


def test_a_304_to_a_post_refreshes_nothing(world):
    """RFC 9110 section 15.4.5: it answers a conditional GET or HEAD."""
    world.cache({"methods": ["GET", "POST"]})
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask(method="POST", body=Body.of(b"{}"))
    world.offset, world.answer = 20.0, Response(304, [("ETag", '"v"')])
    answer = world.ask(method="POST", body=Body.of(b"{}"))
    assert (answer.status, answer.text) == (304, b"")


@pytest.fixture
def validated(world):
    """``validated(answer)`` is what a client gets while ``answer`` is the upstream's to the validation of ``hello``."""
    world.cache({"explain": True})
    world.answer = ok("max-age=10, stale-if-error=60", ETag='"v"')
    world.offset = -20.0                                 # purges have the time of the machine
    world.ask()
    world.offset = 0.0

    def ask(answer, **more):
        world.answer = answer
        return world.ask(**more)

    return ask


def test_what_was_validated_for_this_request_has_no_age(validated):
    """RFC 9111 section 5.1: an Age says that it was neither made nor validated for it."""
    answer = validated(Response(304, []))
    assert (answer.text, answer.header("Age")) == (b"hello", "")


def test_a_304_that_says_no_store_is_reported(validated):
    answer = validated(Response(304, [("Cache-Control", "no-store")]))
    assert (answer.status, answer.text) == (200, b"hello")
    assert status_of(answer) == ['wicketgate; fwd=stale; fwd-status=304; key="http://shop.test/a"; detail="no-store"']


def test_what_is_purged_during_its_validation_is_served_to_who_asked_before_and_forgotten(world, validated):
    def purged(request):
        world.store.purger.purge(url="http://shop.test/a")
        return Response(304, [])

    answer = validated(purged)
    assert (answer.status, answer.text) == (200, b"hello")
    assert status_of(answer) == ['wicketgate; fwd=stale; fwd-status=304; key="http://shop.test/a"; detail="purged"']
    assert world.store.get("http://shop.test/a") is None


def test_an_error_that_is_the_clients_is_not_covered(world, validated):
    """RFC 5861 section 4: what stale-if-error covers is 500, 502, 503 or 504."""
    def refuses(request):
        raise BodyTooLarge("too large")

    assert BodyTooLarge.status < 500
    with pytest.raises(BodyTooLarge):
        validated(refuses)


@pytest.mark.parametrize("status, kept", [(200, False), (404, True), (403, True)])
def test_only_a_200_to_head_says_something_about_what_is_stored(world, validated, status, kept):
    """RFC 9111 section 4.3.5."""
    validated(Response(status, [("ETag", '"w"')]), method="HEAD")
    world.answer = ok("max-age=10", b"new")
    world.ask()
    assert world.seen[-1].header("If-None-Match") == ('"v"' if kept else "")


def test_an_answer_that_is_for_one_alone_leaves_the_variants_of_others(world):
    world.answer = lambda request: ok("max-age=60" if request.header("Accept") == "a/b" else "no-store", Vary="Accept")
    for kind in ("a/b", "c/d"):
        world.ask(("Accept", kind))
    assert status_of(world.ask(("Accept", "a/b"))) == ["wicketgate; hit; ttl=60"]


@pytest.mark.parametrize("asked, status", [(CONDITION, 304), (RANGE, 206)])
def test_what_is_made_of_a_new_answer_has_each_field_once(world, asked, status):
    world.cache({"fetch_whole": True})
    world.answer = ok("max-age=60", ETag='"v"', Age="5", Content_Location="/a")
    answer = world.ask(asked)
    names = [name.lower() for name, _ in answer.headers]
    assert answer.status == status and sorted(names) == sorted(set(names)) and "age" in names


def test_a_204_has_no_length_also_when_it_is_stored_and_validated(world):
    """RFC 9110 section 8.6: a server must not send Content-Length in a 204."""
    world.answer = lambda request: (Response(304, []) if request.header("If-None-Match")
                                    else ok("max-age=60", Stream(), 204, ETag='"v"'))
    for outcome in ("uri-miss", "hit", "stale"):
        world.offset = 100.0 if outcome == "stale" else 0.0
        answer = world.ask()
        assert (answer.status, answer.header("Content-Length"), world.note["cache"]) == (204, "", outcome)


@pytest.mark.parametrize("method, status, fields, kept", [
    ("POST", 200, {"cc": "max-age=60"}, True), ("POST", 201, {"cc": "max-age=60"}, False),
    ("POST", 200, {"cc": "max-age=0", "ETag": '"v"'}, False),
    ("POST", 200, {"cc": "", "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, False),
    ("PUT", 200, {"cc": "max-age=60"}, False)])
def test_which_answers_to_other_methods_answer_a_get(world, method, status, fields, kept):
    """RFC 9110 section 9.3.3: of POST a 200 that says how long, and that it is of this address; of PUT none (9.3.4)."""
    def answer(request):
        world.base = time.time() + 1                     # after the purge that the request itself is
        return ok(status=status, Content_Location="/a", **fields)

    world.answer = answer
    world.ask(method=method)
    world.ask()
    assert len(world.seen) == (1 if kept else 2) and world.seen[-1].header("If-None-Match") == ""


def test_a_callers_own_answer_is_his_again_whoever_set_its_lifetime(world):
    """It is in the key who asks: what is stored under it needs no ``public`` (RFC 9111 section 3.5)."""
    world.cache({"vary_by_caller": True, "ttl": "9s"})
    world.answer = ok("")
    for user, status in (("ann", "uri-miss"), ("ann", "hit"), ("bob", "uri-miss")):
        world.ask(("Authorization", user))
        assert world.note["cache"] == status


@pytest.mark.parametrize("early, took, expected", [(False, 100.0, 1), (True, 100.0, 2), (True, 0.0, 1)])
def test_only_where_the_route_says_so_a_fresh_answer_is_refreshed(world, early, took, expected):
    world.cache({"early_refresh": early}, draw=lambda: 0.5)

    def answer(request):
        world.offset += took
        return ok("max-age=160", ETag='"v"')

    world.answer = answer
    world.ask()
    assert status_of(world.ask())[0].startswith("wicketgate; hit")
    settle()
    assert len(world.seen) == expected


@pytest.mark.parametrize("doubtful", [False, True])
def test_what_is_known_of_a_key_goes_before_what_is_known_of_its_kind(world, doubtful):
    """What another worker stored has expired, and this worker has seen no answer yet, or none for several. All wait for one."""
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.cache(limits={"unknown": 0.0, "unlikely_shared": 0.0})
    world.offset = 20.0
    if doubtful:
        world.answer = ok("no-store")
        world.ask(target="/new")
    world.seen.clear()

    def validated(request):
        settle()
        return Response(304, [])

    world.answer = validated
    assert [answer.text for answer in at_once(world, 10)] == [b"hello"] * 10 and len(world.seen) == 1


@pytest.mark.parametrize("asked, text", [([], b"theirs"), ([("Cookie", "sid=ann")], b"hello")])
def test_what_another_worker_stores_for_strangers_is_not_for_who_shows_himself(world, asked, text):
    """Whoever waits for another worker's answer gets what a look-up would give: his own may be another one."""
    world.store = DictStore()
    world.store.elsewhere = True
    world.store.wait = lambda *args: variants_of(body=b"theirs", at=world.clock())
    world.cache()
    world.answer = ok(body=b"hello")
    assert world.ask(*asked).text == text


def test_a_refresh_that_an_error_answers_does_not_make_the_upstream_one_that_is_gone(world):
    """RFC 9111 section 4.2.4: only who is disconnected serves what is stale without leave."""
    world.answer = ok("max-age=10, stale-while-revalidate=10")
    world.ask()
    world.offset, world.answer = 19.0, ok("", status=503)
    assert world.ask().text == b"hello"
    until(lambda: world.count("gateway_cache_refreshes_total", result="failed") == 1)
    world.offset = 20.0
    assert world.ask().status == 503 and len(world.seen) == 3


@pytest.mark.parametrize("methods", [["GET"], ["GET", "POST"]])
def test_a_head_is_answered_from_what_a_get_stored(world, methods):
    """RFC 9110 section 9.3.2."""
    world.cache({"methods": methods})
    world.ask()
    assert status_of(world.ask(method="HEAD")) == ["wicketgate; hit; ttl=60"]


@pytest.mark.parametrize("field", [("Authorization", "x"), RANGE])
def test_who_shares_no_answer_waits_for_nobody(world, field):
    """However long the others of its kind may wait: the upstream answers when all five have come."""
    world.cache(limits={"stream": 1000.0, "unknown": 1000.0, "unlikely_shared": 1000.0})

    def together(request):
        until(lambda: len(world.seen) == 5)
        return ok("no-store")

    world.answer = together
    assert [answer.text for answer in at_once(world, 5, field)] == [b"hello"] * 5


def test_an_age_is_never_negative(world):
    """RFC 9111 section 4.2.3: also where the clock has been set back."""
    world.ask()
    world.offset = -5.0
    assert world.ask().header("Age") == "0"


@pytest.mark.parametrize("asked, method", [([("Cache-Control", "no-store")], "GET"), ([], "POST"), ([("Cookie", "sid=1")], "GET")])
def test_nginx_keeps_nothing_of_what_goes_past_the_cache(world, asked, method):
    world.cache({"edge": "10s"})
    if method == "GET":
        world.ask()
    assert world.ask(*asked, method=method).header("X-Accel-Expires") == "0"
