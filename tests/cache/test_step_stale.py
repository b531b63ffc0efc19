"""What has expired: validation, stale answers while that goes on or fails, and refreshes before it."""

from __future__ import annotations

import pytest
from asking import Stream, ok, settle, status_of
from gevent.event import Event

from gateway.errors import ConnectFailed, InternalError, UpstreamTimeout
from gateway.message import Response
from tests.waiting import SAFETY


def test_a_304_makes_it_fresh_again(world):
    world.answer = ok("max-age=10", ETag='"v"', Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT", X_A="1")
    world.ask()
    world.offset = 20.0
    world.answer = Response(304, [("Cache-Control", "max-age=30"), ("ETag", 'W/"v"'), ("X-B", "2")])
    response = world.ask()
    assert world.seen[1].header("If-None-Match") == '"v"'
    assert world.seen[1].header("If-Modified-Since") == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert (response.status, response.text, response.header("X-A"), response.header("X-B")) == (200, b"hello", "1", "2")
    assert status_of(response) == ["wicketgate; fwd=stale; fwd-status=304; stored"]
    world.offset = 49.0
    assert status_of(world.ask()) == ["wicketgate; hit; ttl=1"]


@pytest.mark.parametrize("asked, status", [(("If-None-Match", '"v"'), 304), (("Range", "bytes=0-1"), 206), (("X", "y"), 200)])
def test_the_age_of_a_new_answer_is_told_whatever_is_made_of_it(world, asked, status):
    world.answer = ok(ETag='"v"', Age="7")
    response = world.ask(asked)
    assert (response.status, response.header_list("Age")) == (status, ["7"])
    assert status_of(response) == ["wicketgate; fwd=uri-miss; fwd-status=200; stored"], "what the origin said"


def test_another_answer_takes_its_place_and_an_error_does_not(world):
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.offset = 20.0
    world.answer = ok(status=500, cc="", body=b"broken")
    assert world.ask().text == b"broken"
    world.answer = ok("max-age=10", body=b"newer", ETag='"w"')
    assert [world.ask().text, world.ask().text] == [b"newer", b"newer"]


def test_a_304_about_something_else_is_no_answer(world):
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.offset = 20.0
    world.answer = lambda request: Response(304, [("ETag", '"w"')]) if request.header("If-None-Match") else ok(body=b"newer")
    assert world.ask().text == b"newer"
    assert len(world.seen) == 3
    assert world.count("gateway_cache_requests_total", outcome="stale") == 1, "it is one request, though it went on twice"


def test_an_answer_that_may_no_longer_be_kept_is_forgotten(world):
    world.answer = ok("max-age=10", ETag='"v"')
    world.ask()
    world.offset = 20.0
    world.answer = Response(304, [("Cache-Control", "no-store")])
    assert world.ask().text == b"hello"
    assert world.store.get("http://shop.test/a") is None


def test_no_cache_is_validated_every_time_and_by_each_for_itself(world):
    world.answer = lambda request: Response(304, []) if request.header("If-None-Match") else ok("no-cache", ETag='"v"')
    assert [world.ask().text for _ in range(3)] == [b"hello"] * 3
    assert len(world.seen) == 3


def test_the_client_gets_its_304_whatever_had_to_be_asked(world):
    world.answer = lambda request: Response(304, []) if request.header("If-None-Match") == '"v"' else ok("max-age=10", ETag='"v"')
    cold = world.ask(("If-None-Match", '"v"'))                           # taken off: the whole answer is for all
    warm = world.ask(("If-None-Match", 'W/"v"'))
    world.offset = 20.0
    stale = world.ask(("If-None-Match", '"v"'))
    other = world.ask(("If-None-Match", '"x"'))
    assert [one.status for one in (cold, warm, stale, other)] == [304, 304, 304, 200]
    assert [seen.header("If-None-Match") for seen in world.seen] == ["", '"v"']


def test_parts(world):
    world.answer = lambda request: ok(status=206, body=b"he", Content_Range="bytes 0-1/5") if request.header("Range") else ok()
    cold = world.ask(("Range", "bytes=0-1"))
    assert (cold.status, cold.text, world.store.get("http://shop.test/a")) == (206, b"he", None)     # 206 does not fill 200
    assert world.ask().text == b"hello"
    warm = world.ask(("Range", "bytes=1-2"))
    assert (warm.status, warm.text, warm.header("Content-Range"), len(world.seen)) == (206, b"el", "bytes 1-2/5", 2)


# -- Stale

def test_stale_while_revalidate(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0
    began = Event()

    def slow(request):
        began.wait(SAFETY)
        return ok("max-age=10", body=b"newer")

    world.answer = slow
    served = [world.ask() for _ in range(3)]
    settle()
    assert [one.text for one in served] == [b"hello"] * 3
    assert status_of(served[0]) == ["wicketgate; hit; ttl=-10"]
    assert len(world.seen) == 2                                          # one refresh for all
    assert world.seen[1].connection is None
    began.set()
    settle()
    assert world.ask().text == b"newer"
    assert world.count("gateway_cache_refreshes_total", result="done") == 1


def test_a_head_refreshes_by_a_get(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0
    world.answer = lambda request: ok(body=request.method.encode())
    world.ask(method="HEAD")
    settle()
    assert world.ask().text == b"GET"


def test_a_refresh_that_fails_is_not_tried_at_once_again(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0

    def broken(request):
        raise ConnectFailed("refused")

    world.answer = broken
    for _ in range(3):
        assert world.ask().text == b"hello"
        settle()
    assert len(world.seen) == 2
    assert world.count("gateway_cache_refreshes_total", result="failed") == 1


def test_a_streamed_refresh_is_read_to_its_end(world):
    world.answer = ok("max-age=10, stale-while-revalidate=30")
    world.ask()
    world.offset = 20.0
    stream = Stream(b"ne", b"wer")
    world.answer = lambda request: ok(body=stream)
    world.ask()
    settle()
    assert (world.ask().text, stream.closed) == (b"newer", True)


def refused(request):
    raise ConnectFailed("refused")


def crashed(request):
    raise InternalError("a view")


def late(request):
    raise UpstreamTimeout("late")


@pytest.mark.parametrize("cc, policy, failing, stale", [
    ("max-age=10, stale-if-error=30", {}, refused, True),
    ("max-age=10, stale-if-error=30", {}, late, True),
    ("max-age=10, stale-if-error=30", {}, crashed, True),
    ("max-age=10, stale-if-error=30", {}, ok(status=503), True),
    ("max-age=10, stale-if-error=30", {}, ok(status=504), True),
    ("max-age=10, stale-if-error=30", {}, ok(status=501), False),        # an answer, though not a good one
    ("max-age=10, stale-if-error=5", {}, ok(status=503), False),
    ("max-age=10", {}, ok(status=503), False),
    ("max-age=10", {}, refused, True),                                   # section 4.2.4: disconnected
    ("max-age=10, must-revalidate", {}, refused, False),
    ("s-maxage=10", {}, refused, False),
    ("max-age=10", {"stale_if_error": "1m"}, ok(status=503), True),
    ("max-age=10", {"stale_if_error": "5s"}, refused, False),
    ("max-age=10, stale-if-error=0", {}, refused, False),
])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_stale_if_error(world, cc, policy, failing, stale, method):
    world.cache(policy)
    world.answer = ok(cc)
    world.ask()
    world.offset = 20.0
    world.answer = failing
    if stale:
        response = world.ask(method=method)
        assert response.text == b"hello"
        [said] = status_of(response)                     # it was forwarded: no hit (RFC 9211 section 2.1)
        status = "" if callable(failing) else f"; fwd-status={failing.status}"
        assert said.startswith(f"wicketgate; fwd=stale{status}; ttl=-10; detail=")
        again = world.ask(method=method)                 # for a moment nobody tries again
        assert (again.text, status_of(again), len(world.seen)) == (b"hello", ["wicketgate; hit; ttl=-10"], 2)
    elif callable(failing):
        with pytest.raises(ConnectFailed):
            world.ask(method=method)
    else:
        assert world.ask(method=method).status == failing.status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("failing", [refused, ok(status=503)])
def test_a_client_may_refuse_stale_answers(world, method, failing):
    world.answer = ok("max-age=10, stale-if-error=60")
    world.ask()
    world.offset = 20.0
    world.answer = failing
    asked = ("Cache-Control", "stale-if-error=0")
    if callable(failing):
        with pytest.raises(ConnectFailed):
            world.ask(asked, method=method)
    else:
        assert world.ask(asked, method=method).status == 503


def test_early_refresh(world):
    world.cache({"early_refresh": True}, draw=lambda: 0.999999)

    def slow(request):
        world.offset += 1.0
        return ok(body=str(len(world.seen)).encode())

    world.answer = slow
    world.ask()
    world.offset += 55.0
    assert world.ask().text == b"1"
    settle()
    assert world.ask().text == b"2"
