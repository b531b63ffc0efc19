"""A range of what is not kept yet: with ``fetch_whole`` the whole is fetched once, and everybody gets his part of it."""

from __future__ import annotations

import gevent
import pytest
from asking import Stream, at_once, ok

BODY = b"0123456789" * 10


def answers(world, stream=False, size=len(BODY), **more):
    """An upstream that knows ranges; what it was asked."""
    body = BODY * (size // len(BODY))

    def answer(request):
        gevent.sleep(0)
        asked = request.header("Range")
        if asked:
            response = ok("max-age=60", body[1:3], 206, Content_Range=f"bytes 1-2/{size}")
            return response
        response = ok("max-age=60", body, ETag='"v"', **more)
        if stream:
            response.body = Stream(body[:10], body[10:])
            if stream != "unknown":
                response.headers.append(("Content-Length", str(size)))
        return response
    world.answer = answer
    return lambda: [request.header("Range") for request in world.seen]


@pytest.mark.parametrize("stream", [False, True, "unknown"])
@pytest.mark.parametrize("asked, status, body", [
    ([("Range", "bytes=1-2")], 206, b"12"), ([("Range", "bytes=-2")], 206, b"89"), ([("Range", "bytes=98-")], 206, b"89"),
    ([("Range", "bytes=100-")], 416, b""),
    ([("Range", "bytes=1-2"), ("If-Range", '"v"')], 206, b"12"), ([("Range", "bytes=1-2"), ("If-Range", '"w"')], 200, BODY)])
def test_the_whole_is_fetched_and_the_part_is_served(world, stream, asked, status, body):
    world.cache({"fetch_whole": True})
    said = answers(world, stream)
    for outcome in ("uri-miss", "hit"):
        response = world.ask(*asked)
        assert (response.status, response.text, world.note["cache"]) == (status, body, outcome)
    assert world.ask().text == BODY and said() == [""]


def test_many_at_once_fetch_it_once(world):
    world.cache({"fetch_whole": True})
    said = answers(world)
    got = at_once(world, 50, ("Range", "bytes=1-2"))
    assert {(each.status, each.text) for each in got} == {(206, b"12")} and said() == [""]


@pytest.mark.parametrize("policy, asked", [
    ({}, "bytes=1-2"), ({"fetch_whole": True}, "bytes=1-2,4-5"), ({"fetch_whole": True}, "lines=1-2"),
    ({"fetch_whole": True, "min_uses": 2}, "bytes=1-2")])
def test_else_the_range_goes_on_as_it_came(world, policy, asked):
    world.cache(policy)
    said = answers(world)
    assert world.ask(("Range", asked)).status == 206 and said() == [asked]


@pytest.mark.parametrize("stream", [False, True, "unknown"])
@pytest.mark.parametrize("size, kept", [(1000, True), (1100, False)])
def test_what_is_too_large_is_asked_for_in_parts_from_then_on(world, stream, size, kept):
    world.cache({"fetch_whole": True, "max_object": 1000})
    said = answers(world, stream, size)
    for _ in range(3):
        response = world.ask(("Range", "bytes=1-2"))
        assert (response.status, response.text) == (206, b"12")
    assert said() == ([""] if kept else ["", *["bytes=1-2"] * 3])


def test_the_stream_of_what_is_too_large_is_closed(world):
    world.cache({"fetch_whole": True, "max_object": 50})
    stream = Stream(BODY)
    world.answer = lambda request: (ok("max-age=60", b"12", 206) if request.header("Range")
                                    else ok("max-age=60", stream, Content_Length=str(len(BODY))))
    assert world.ask(("Range", "bytes=1-2")).status == 206 and stream.closed


def test_what_is_neither_kept_nor_short_is_passed_on_as_it_comes(world):
    world.cache({"fetch_whole": True, "max_object": 50})
    world.answer = lambda request: ok("no-store", Stream(BODY[:40], BODY[40:]))
    assert world.ask(("Range", "bytes=1-2")).text == BODY and len(world.seen) == 1


def test_what_is_not_kept_is_passed_on_and_asked_for_in_parts_from_then_on(world):
    world.cache({"fetch_whole": True})
    said = answers(world, stream=True)
    keep, world.answer = world.answer, lambda request: ok("no-store", BODY) if not request.header("Range") else keep(request)
    assert [world.ask(("Range", "bytes=1-2")).status for _ in range(3)] == [200, 206, 206]
    assert said() == ["", "bytes=1-2", "bytes=1-2"]
