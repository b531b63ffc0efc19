"""Compositions of real upstreams: in flight together, out of time, broken, and left when another failed."""

from __future__ import annotations

import orjson
import pytest
from gevent.event import Event

from gateway import config
from gateway.aggregate.target import Aggregate
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, PartFailed, UpstreamTimeout
from gateway.message import Response
from gateway.upstream.client import Upstream
from tests.aggregate.composing import built, parts, request, told
from tests.waiting import PATIENT, SAFETY

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def sized(data):
    return OK + b"Content-Length: %d\r\n\r\n" % len(data) + data


def head_of(sock):
    """One request, as lines; bodies are not expected."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return []
        data += piece
    return data.decode("latin-1").split("\r\n")


@pytest.fixture
def real(serve):
    """``real(name=handle, ...)`` is ``send`` for upstreams that ``handle(socket, head)`` answers, one request a connection."""
    made = {}

    def start(**handlers):
        for name, handle in handlers.items():
            def answer(sock, address, handle=handle):
                handle(sock, head_of(sock))
            settings = config.UpstreamSettings(instances=[f"http://127.0.0.1:{serve(answer)}"], connect_timeout=PATIENT,
                                               pool_timeout=PATIENT)
            made[name] = Upstream(name, settings)
        return lambda upstream, call: made[upstream].send(call)

    yield start
    for upstream in made.values():
        upstream.close()


def says(data):
    return lambda sock, head: sock.sendall(data)


def test_three_real_parts_are_in_flight_together(real):
    arrived, everybody = [], Event()

    def meet(sock, head):
        arrived.append(head[0])
        if len(arrived) == 3:
            everybody.set()
        assert everybody.wait(SAFETY)                    # nobody is answered before all three have asked
        sock.sendall(sized(b'{"id":1}'))

    send = real(users=meet, orders=meet)
    asked = request(params={"id": "a b/c"})
    response = built(parts(user="users:/users/{id}", orders="orders:/o?of={id}", team="users:/t"), send)(asked)
    assert response.body == b'{"user":{"id":1},"orders":{"id":1},"team":{"id":1}}'
    assert sorted(arrived) == ["GET /o?of=a%20b%2Fc HTTP/1.1", "GET /t HTTP/1.1", "GET /users/a%20b%2Fc HTTP/1.1"]
    assert sorted((attempt.upstream, attempt.status) for attempt in asked.attempts) == [
        ("orders", 200), ("users", 200), ("users", 200)]


def test_a_real_chain(real):
    heads = []

    def users(sock, head):
        heads.append(head)
        sock.sendall(OK + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"team_id":"a&b"\r\n')
        sock.sendall(b"1\r\n}\r\n0\r\n\r\n")

    def teams(sock, head):
        heads.append(head)
        sock.sendall(sized(b'"blue"'))

    send = real(users=users, teams=teams)
    team = {"from": "teams:/?id={user.team_id}", "headers": {"X-Team": "{user.team_id}"}}
    response = built(parts(user="users:/", team=team), send)(request(headers=[("Cookie", "sid=1")]))
    assert response.body == b'{"user":{"team_id":"a&b"},"team":"blue"}'
    assert heads[1][0] == "GET /?id=a%26b HTTP/1.1"
    assert {"Cookie: sid=1", "X-Team: a&b", "X-Request-Id: req-1", "Accept: application/json"} < set(heads[1])


def never(sock, head):
    """Ask and get nothing: ends when the other side does."""
    sock.recv(1)


def stalls(start):
    def handle(sock, head):
        sock.sendall(start)
        sock.recv(1)
    return handle


@pytest.mark.parametrize("handle", [
    never,
    stalls(OK),
    stalls(OK + b"Content-Length: 10\r\n\r\n{"),
    stalls(OK + b"Content-Length: 1000000\r\n\r\n{"),
    stalls(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
], ids=["no answer", "half a head", "half a body", "half a stream", "half of chunks"])
@pytest.mark.parametrize("others", [{}, {"other": "other:/"}], ids=["alone", "not alone"])
def test_a_parts_own_timeout(handle, others, real):
    send = real(users=handle, other=says(sized(b"1")))
    user = {"from": "users:/", "timeout": "50ms"}
    with pytest.raises(PartFailed) as caught:
        built(parts(user=user, **others), send)(request())
    assert (caught.value.status, caught.value.detail) == (504, "part 'user': no answer in time")
    assert isinstance(caught.value.__cause__, UpstreamTimeout)
    asked = request()
    response = built(parts(user={**user, "optional": True}, **others), send)(asked)
    assert orjson.loads(response.body) == {"user": None} | dict.fromkeys(others, 1)
    assert response.header("X-Partial") == "user"
    assert flags(asked) == ("UT", ["UT"])


@pytest.mark.parametrize("settings", [{}, {"timeout": "5s"}])
@pytest.mark.parametrize("handle", [never, stalls(OK + b"Content-Length: 10\r\n\r\n{"),
                                    stalls(OK + b"Content-Length: 1000000\r\n\r\n{")], ids=["no answer", "body", "stream"])
def test_the_requests_own_time_is_not_the_parts(handle, settings, real):
    asked = request()
    asked.deadline = Deadline(0.05)
    with pytest.raises(PartFailed) as caught:
        built(parts(user={"from": "users:/", **settings}), real(users=handle))(asked)
    assert isinstance(caught.value.__cause__, DeadlineExceeded)
    assert flags(asked) == ("DT", ["DT"])


def flags(asked):
    """What the log says of the part "user": its note, and its attempts."""
    return asked.notes["parts"]["user"], [attempt.flag for attempt in asked.attempts if attempt.upstream == "users"]


@pytest.mark.parametrize("data", [
    b"",
    b"HTTP/1.1 200",
    OK + b"Content-Length: 10\r\n\r\n{",
    OK + b"Content-Length: 1000000\r\n\r\n{",
    OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
])
def test_a_real_part_that_breaks(data, real):
    send = real(users=says(data))
    with pytest.raises(PartFailed) as caught:
        built(parts(user="users:/"), send)(request())
    assert caught.value.status == 502 and caught.value.part == "user"


def test_an_upstream_is_left_when_another_failed(real):
    asked, left = Event(), Event()

    def waits(sock, head):
        asked.set()
        if sock.recv(1) == b"":
            left.set()

    def fails(sock, head):
        assert asked.wait(SAFETY)
        sock.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(PartFailed, match="part 'bad': answered 500"):
        built(parts(slow="slow:/", bad="bad:/"), real(slow=waits, bad=fails))(request())
    assert left.wait(SAFETY)


@pytest.mark.parametrize("fields, shared", [
    ([], True), ([("Cache-Control", "max-age=60")], True), ([("cache-control", "max-age=60, Private")], False),
    ([("Cache-Control", "no-store")], False), ([("Set-Cookie", "a=1")], False), ([("Vary", "Accept, *")], False),
    ([("CDN-Cache-Control", "no-store")], False), ([("Wicketgate-Cache-Control", "private")], False),
    ([("CDN-Cache-Control", "max-age=9")], True), ([("Vary", "Accept")], True), ([("Cache-Control", "x-private-y")], False)])
def test_what_one_part_forbids_to_share_holds_for_the_whole(fields, shared):
    def send(upstream, call):
        return Response(200, [("Content-Type", "application/json"), *(fields if upstream == "a" else ())], b"1")

    declared = parts(a="a:/", b="b:/")
    assert Aggregate(declared, send, told, cacheable=True)(request()).header("Vary") == ("" if shared else "*")
    assert Aggregate(declared, send, told)(request()).header("Vary") == ""
