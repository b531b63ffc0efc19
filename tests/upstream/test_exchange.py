"""One request and its answer over real sockets: exact bytes both ways, where answers end, and how long they may take."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from raw import OK, Peer, Service, body_of, content, get, pool_of, post, stall

from gateway.deadline import Deadline
from gateway.errors import (BadRequest, BodyTimeout, DeadlineExceeded, InvalidTarget, TruncatedBody, UpstreamProtocolError,
                            UpstreamTimeout, UpstreamTruncated)
from gateway.message import Body, Call
from gateway.upstream.stream import BodyStream
from tests.clocks import ManualClock


def test_a_call_and_its_answer_are_exact(serve, upstream):
    service = Service(b"HTTP/1.1 207 M\xfclti\tStatus\r\nX-b: 1\r\nx-B: \xe9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
                      b"Content-Length: 5\r\n\r\nhello")
    port = serve(service)
    call = get("/a%2Fb//c?q=+%20", ("X-Two", "1"), ("x-two", "\xe9"))
    response = upstream(port).send(call)
    sent = f"GET /a%2Fb//c?q=+%20 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Two: 1\r\nx-two: \xe9\r\n\r\n"
    assert service.requests == [(sent.encode("latin-1"), b"")]
    assert (response.status, response.reason, response.body) == (207, "M\xfclti\tStatus", b"hello")
    assert response.headers == [("X-b", "1"), ("x-B", "\xe9"), ("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Content-Length", "5")]
    attempt, = call.attempts
    found = attempt.upstream, attempt.instance, attempt.status, attempt.flag, attempt.reuse
    assert found == ("shop", f"http://127.0.0.1:{port}", 207, "", False)
    assert 0 < attempt.seconds < 10


def test_a_host_of_its_own(serve, upstream):
    service = Service()
    upstream(serve(service)).send(get(host="www.shop.test"))
    assert service.requests[0][0] == b"GET / HTTP/1.1\r\nHost: www.shop.test\r\n\r\n"


@pytest.mark.parametrize("body, field", [
    (None, b""), (b"", b"Content-Length: 0\r\n"), (b"x", b"Content-Length: 1\r\n"), (b"x" * 65536, b"Content-Length: 65536\r\n"),
    (b"x" * 65537, b"Content-Length: 65537\r\n"), (b"x" * 3_000_000, b"Content-Length: 3000000\r\n"),
])
def test_bytes_are_sent_whole(serve, upstream, body, field):
    service = Service()
    assert upstream(serve(service)).send(post(body)).body == b"ok"
    (head, received), = service.requests
    assert received == (body or b"")
    assert head.partition(b"\r\n")[2].partition(b"\r\n")[2] == field + b"\r\n"


@pytest.mark.parametrize("pieces, length, field", [
    ([], 0, b"Content-Length: 0"), ([b"ab", b"c"], 3, b"Content-Length: 3"), ([b"x" * 65536], 65536, b"Content-Length: 65536"),
    ([b"x" * 65536, b"y"], 65537, b"Content-Length: 65537"), ([b"z" * 60000] * 50, 3_000_000, b"Content-Length: 3000000"),
    ([], None, b"Transfer-Encoding: chunked"), ([b"a", b"bc" * 40000], None, b"Transfer-Encoding: chunked"),
])
def test_a_body_is_passed_on_piece_by_piece(serve, upstream, pieces, length, field):
    service = Service()
    one = upstream(serve(service))
    assert one.send(post(body_of(pieces, length))).body == b"ok"
    (head, received), = service.requests
    assert received == b"".join(pieces)
    assert field in head.split(b"\r\n")
    assert pool_of(one) == (1, 1, 0)


def test_a_small_body_goes_out_in_one_write(serve, upstream):
    first = []

    def handle(sock, address):
        first.append(sock.recv(100_000))
        sock.sendall(OK)

    upstream(serve(handle)).send(post(body_of([b"a" * 500, b"b" * 500], 1000)))
    assert first[0].endswith(b"\r\n\r\n" + b"a" * 500 + b"b" * 500)


ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "length zero": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
    "64 KB": (b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536, b"x" * 65536, True),
    "more than 64 KB": (b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, b"x" * 65537, True),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 9\r\n\r\n", b"hello",
                True),
    "chunked, large": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n" + b"x" * 0x4000 + b"\r\n0\r\n\r\n", b"x" * 0x4000, True),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "204 with a length of zero": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"", True),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", False),
    "204 chunked": (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"", False),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
    "304 chunked": (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", False),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", True),
    "103 and 102 before": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\nContent-Length: 9\r\n\r\n" + OK,
                           b"ok", True),
    "excess": (OK + b"stray", b"ok", False),
    "excess after chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n0", b"", False),
    "excess after 204": (b"HTTP/1.1 204 No Content\r\n\r\nno content", b"", False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_ends_where_it_says(serve, upstream, name):
    data, body, kept = ANSWERS[name]
    service = Service(data)
    one = upstream(serve(service))
    for number in (1, 2):
        assert content(one.send(get()).body) == body
        assert pool_of(one) == (int(kept), int(kept), 0)
        assert service.connections == (1 if kept else number)


@pytest.mark.parametrize("name", [name for name, (data, body, kept) in ANSWERS.items() if len(data) < 1000])
def test_an_answer_may_come_in_single_bytes(serve, upstream, name):
    data, body, kept = ANSWERS[name]

    def handle(sock, address):
        Peer(sock).request()
        for place in range(len(data)):
            sock.sendall(data[place:place + 1])
            gevent.sleep(0)

    assert content(upstream(serve(handle)).send(get()).body) == body


def test_an_answer_to_head_has_no_body(serve, upstream):
    service = Service(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    one = upstream(serve(service))
    for _ in range(2):
        response = one.send(post(None, "HEAD"))
        assert response.body == b"" and response.header("Content-Length") == "5000"
    assert service.connections == 1


def test_a_body_until_the_connection_ends(serve, upstream):
    def handle(sock, address):
        Peer(sock).request()
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nsome")
        gevent.sleep(0)
        sock.sendall(b" more")
        sock.close()

    one = upstream(serve(handle))
    response = one.send(get())
    assert isinstance(response.body, BodyStream)
    assert response.body.read() == b"some more" and response.body.complete
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("data", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\nhell",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n0\r\n",
])
def test_an_answer_cut_short_is_never_complete(serve, upstream, data):
    def handle(sock, address):
        Peer(sock).request()
        sock.sendall(data)
        sock.close()

    one = upstream(serve(handle))
    call = get()
    with pytest.raises(UpstreamTruncated) as excinfo:
        content(one.send(call).body)
    assert (excinfo.value.upstream, excinfo.value.instance) == ("shop", one.instances[0].name)
    assert [(attempt.status, attempt.flag) for attempt in call.attempts] == [(200, "UX")]
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("data", [
    b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\n\n", b"HTTP/1.1 200 OK\r\nbad field\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201 + b"\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 65536,
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 101 + OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
])
def test_what_is_no_valid_answer_is_an_error(serve, upstream, data):
    service = Service(data)
    one = upstream(serve(service))
    call = get()
    with pytest.raises(UpstreamProtocolError) as excinfo:
        content(one.send(call).body)
    assert excinfo.value.instance == one.instances[0].name
    assert call.attempts[0].flag == "UP"
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("call", [get("/a b"), get("/", ("A", "b\r\nC: d")), get("/", ("A b", "c"))])
def test_what_would_be_two_requests_is_never_sent(serve, upstream, call):
    service = Service()
    with pytest.raises((InvalidTarget, BadRequest)):
        upstream(serve(service)).send(call)
    assert service.connections == 0 and call.attempts == []


# Time

@pytest.mark.parametrize("seconds, timeout, error, flag", [
    (0.02, None, DeadlineExceeded, "DT"), (0.02, 5.0, DeadlineExceeded, "DT"), (5.0, 0.02, UpstreamTimeout, "UT"),
])
@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200 OK\r\n",), (b"HTTP/1.1 103 Early Hints\r\n\r\n",)])
def test_the_wait_for_the_head_is_bounded(serve, upstream, parts, seconds, timeout, error, flag):
    one = upstream(serve(stall(*parts)))
    call = get(seconds=seconds, timeout=timeout)
    with pytest.raises(error) as excinfo:
        one.send(call)
    assert type(excinfo.value) is error
    assert [(attempt.status, attempt.flag) for attempt in call.attempts] == [(0, flag)]
    assert pool_of(one) == (0, 0, 0)


def test_the_settings_bound_an_attempt_unless_the_call_does(serve, upstream):
    one = upstream(serve(stall()), timeout="20ms")
    with pytest.raises(UpstreamTimeout, match="0.02 s"):
        one.send(get())
    with pytest.raises(UpstreamTimeout, match="0.03 s"):
        one.send(get(timeout=0.03))


def test_a_deadline_already_over_sends_nothing(serve, upstream):
    service = Service()
    one = upstream(serve(service))
    with pytest.raises(DeadlineExceeded):
        one.send(get(seconds=0))
    assert service.connections == 0 and pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("head, streamed", [(b"Content-Length: 5", False), (b"Content-Length: 70000", True),
                                            (b"Transfer-Encoding: chunked", True), (b"A: b", True)])
def test_silence_within_a_body_is_bounded(serve, upstream, head, streamed):
    one = upstream(serve(stall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")), read_timeout="20ms")
    call = get()
    if streamed:
        body = one.send(call).body
        with pytest.raises(UpstreamTimeout, match="no byte of the body"):
            content(body)
    else:
        with pytest.raises(UpstreamTimeout, match="no byte of the body"):
            one.send(call)
    assert [(attempt.status, attempt.flag) for attempt in call.attempts] == [(200, "UT")]
    assert pool_of(one) == (0, 0, 0)


def test_the_deadline_holds_for_a_body_in_memory_and_not_for_a_stream(serve, upstream):
    go = Event()

    def handle(sock, address):
        head = Peer(sock).request()[0]
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 5\r\n\r\nhel" if b"/small" in head else b"\r\nhel"))
        go.wait()
        sock.sendall(b"lo")
        sock.close()

    one = upstream(serve(handle))
    with pytest.raises(DeadlineExceeded):
        one.send(get("/small", seconds=0.05))
    call = get("/stream")
    stream = one.send(call).body
    call.deadline.at = 0.0                               # over, long ago
    go.set()
    assert content(stream) == b"hello"


def test_a_small_body_that_does_not_come_is_the_clients_fault(serve, upstream):
    service = Service()
    never = Body(lambda size: Event().wait() and b"", 10)
    with pytest.raises(BodyTimeout) as excinfo:
        upstream(serve(service), read_timeout="20ms").send(post(never))
    assert excinfo.value.status == 408 and service.connections == 0


def test_the_time_a_small_body_takes_does_not_count(serve, upstream):
    clock = ManualClock(100.0)

    def read(size: int) -> bytes:
        clock.time += 60
        return b"01234"

    deadline = Deadline(10.0, clock.now)
    call = Call("POST", "/", [], Body(read, 10, deadline), deadline=deadline)
    assert upstream(serve(Service()), clock=clock).send(call).body == b"ok"
    assert deadline.at - clock.time == deadline.seconds and clock.time == 220.0


def test_a_small_body_cut_short_is_never_sent(serve, upstream):
    service = Service()
    call = post(body_of([b"abc", TruncatedBody("cut")], 10))
    with pytest.raises(TruncatedBody):
        upstream(serve(service)).send(call)
    assert service.connections == 0 and call.attempts == []


def test_another_protocol_does_not_begin_within_the_request(serve, upstream):
    """The rest of the request would be taken for it."""
    def handle(sock, address):
        Peer(sock).until(b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        Peer(sock).until(b"never")
        sock.close()

    def pieces():
        while True:
            gevent.sleep(0)
            yield b"x" * 1000

    one = upstream(serve(handle))
    with pytest.raises(UpstreamProtocolError, match="101 before the request was sent"):
        one.send(post(body_of(pieces(), None), upgrade="x"))
    assert pool_of(one) == (0, 0, 0)
