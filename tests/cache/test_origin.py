"""The head of an answer decides who waits on: real upstreams whose small bodies come later than their heads."""

from __future__ import annotations

import pytest
from asking import Stream, at_once, ok, status_of

from gateway.cache.coalesce import WaitLimits
from gateway.config import Config
from gateway.errors import UpstreamTruncated
from gateway.pipeline import Pipeline
from gateway.telemetry.log import RequestLog
from tests.waiting import until


class Slow:
    """An upstream on a real socket: each answer's head comes at once, and its body when ``enough`` requests have come."""

    def __init__(self, serve, head, enough, body=b"hello"):
        self.head = head
        self.enough = enough
        self.body = body
        self.asked = 0
        self.port = serve(self.answer)

    def answer(self, sock, address):
        received = b""
        while piece := sock.recv(65536):
            received += piece
            if received.endswith(b"\r\n\r\n"):
                received = b""
                self.asked += 1
                sock.sendall(self.head)
                until(lambda: self.asked >= self.enough)
                if self.body is None:
                    return
                sock.sendall(self.body)


@pytest.fixture
def pipeline(world):
    """``pipeline(upstream, cache)`` is the world's step and target: what a configuration makes of a route with a cache."""
    made = []

    def make(upstream, cache=None, **route):
        config = Config.model_validate({
            "upstreams": {"u": {"instances": [f"http://127.0.0.1:{upstream.port}"]}},
            "routes": [{"path": "/*", "upstream": "u", "cache": cache or {}, **route}]})
        made.append(Pipeline(config, view=world.upstream, log=RequestLog("off"), registry=world.registry))
        [world.step] = made[-1].handlers.values()
        (world.step.next if route.get("websocket") else world.step).fetch.limits = PATIENT
        return made[-1]

    yield make
    for each in made:
        each.close()


PATIENT = WaitLimits(stream=1000.0, unlikely_shared=1000.0, unknown=1000.0)        # nobody goes on since it has waited for long
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"


@pytest.mark.parametrize("route", [{}, {"websocket": True}])
@pytest.mark.parametrize("fields", [
    b"Cache-Control: no-store", b"Cache-Control: private", b"Cache-Control: max-age=60\r\nSet-Cookie: a=b", b"Vary: *",
    b'Cache-Control: no-cache\r\nETag: "v"', b'Cache-Control: max-age=0\r\nETag: "v"'])
def test_a_small_answer_for_one_lets_the_others_go_with_its_head(world, serve, pipeline, fields, route):
    """Its body comes when all twenty have asked: if they waited for it, none would."""
    upstream = Slow(serve, HEAD + fields + b"\r\n\r\n", enough=20)
    pipeline(upstream, **route)
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20 and upstream.asked == 20


def test_a_streamed_answer_that_is_stored_for_one_lets_the_others_go_with_its_head(world):
    world.cache(limits=PATIENT._asdict())

    class Endless(Stream):
        def __iter__(self):
            until(lambda: len(world.seen) == 20)
            yield b"hello"

    world.answer = lambda request: ok("no-cache", Endless(), ETag='"v"')
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20


def test_a_small_answer_for_several_is_waited_for_with_its_body(world, serve, pipeline):
    upstream = Slow(serve, HEAD + b"Cache-Control: max-age=60\r\n\r\n", enough=1)
    pipeline(upstream)
    assert [answer.text for answer in at_once(world, 20)] == [b"hello"] * 20 and upstream.asked == 1


@pytest.mark.parametrize("fields", [b"Cache-Control: no-store", b"Cache-Control: max-age=60"])
def test_a_small_body_that_is_cut_short_is_still_an_error(world, serve, pipeline, fields):
    pipeline(Slow(serve, HEAD + fields + b"\r\n\r\nhel", enough=1, body=None))
    with pytest.raises(UpstreamTruncated):
        world.ask()


def test_a_small_body_that_is_cut_short_is_covered_like_any_error(world, serve, pipeline):
    upstream = Slow(serve, HEAD + b'Cache-Control: max-age=60, stale-if-error=60\r\nETag: "v"\r\n\r\n', enough=1)
    pipeline(upstream)
    world.ask()
    world.step.store.purger.purge(url="http://shop.test/a", soft=True)
    upstream.head, upstream.body = HEAD + b"Cache-Control: no-store\r\n\r\nbro", None
    answer = world.ask()
    assert (answer.text, upstream.asked) == (b"hello", 2) and "detail=" in status_of(answer)[0]


def test_a_failure_is_covered_with_its_head(world, serve, pipeline):
    """Nobody waits for the body of an answer that is not passed on."""
    upstream = Slow(serve, HEAD + b'Cache-Control: max-age=60, stale-if-error=60\r\nETag: "v"\r\n\r\n', enough=1)
    pipeline(upstream)
    world.ask()
    world.step.store.purger.purge(url="http://shop.test/a", soft=True)
    upstream.head, upstream.enough = b"HTTP/1.1 503 Gone\r\nContent-Length: 5\r\n\r\n", 1000
    answers = at_once(world, 5)
    assert [answer.text for answer in answers] == [b"hello"] * 5 and upstream.asked == 2
    assert "fwd-status=503" in status_of(answers[0])[0]
    upstream.enough = 0
