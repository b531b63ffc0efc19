"""Which instance and which connection a call gets, and when it is tried again."""

from __future__ import annotations

from contextlib import suppress
from socket import SHUT_WR

import gevent
import pytest
from gevent.event import Event
from raw import OK, Peer, Service, body_of, content, get, pool_of, post

from gateway.errors import ConfigError, DeadlineExceeded, GatewayError, PoolExhausted, UpstreamClosed, UpstreamTimeout
from tests.waiting import until


def test_connections_are_kept_and_used_again(serve, upstream):
    service = Service()
    one = upstream(serve(service))
    calls = [get() for _ in range(5)]
    for call in calls:
        one.send(call)
    assert service.connections == 1 and len(service.requests) == 5
    assert [call.attempts[0].reuse for call in calls] == [False, True, True, True, True]


def test_two_hundred_calls_share_ten_connections(serve, upstream):
    def answer(head: bytes, body: bytes) -> bytes:
        gevent.sleep(0)
        return OK

    service = Service(answer)
    one = upstream(serve(service), max_connections=10, pool_timeout="10s")
    calls = [gevent.spawn(one.send, get(f"/{number}")) for number in range(200)]
    gevent.joinall(calls, timeout=30, raise_error=True)
    assert [call.value.body for call in calls] == [b"ok"] * 200
    assert len(service.requests) == 200 and service.connections == 10
    assert pool_of(one) == (10, 10, 0)


@pytest.mark.parametrize("settings, error, flag", [({}, PoolExhausted, "UO"), ({"seconds": 0.001}, DeadlineExceeded, "DT"),
                                                   ({"timeout": 0.001}, UpstreamTimeout, "UT")])
def test_nobody_waits_for_a_connection_for_ever(serve, upstream, settings, error, flag):
    go, call = Event(), get(**settings)
    one = upstream(serve(Service(lambda head, body: go.wait() and OK)), max_connections=1, pool_timeout="20ms")
    first = gevent.spawn(one.send, get())
    gevent.idle()
    with pytest.raises(error) as excinfo:
        one.send(call)
    assert type(excinfo.value) is error and call.attempts[0].flag == flag
    go.set()
    assert first.get(timeout=30).body == b"ok"
    assert pool_of(one) == (1, 1, 0)


@pytest.mark.parametrize("harm", [
    lambda connection: connection.socket.shutdown(SHUT_WR), lambda connection: connection.close()])
def test_a_request_that_could_not_leave_is_sent_on_a_fresh_connection(serve, upstream, harm):
    """It is posted, and fails at the end of the turn."""
    service, call = Service(), get()
    one = upstream(serve(service))
    one.send(get())
    connection = one.instances[0].pool.idle[0]
    sending = gevent.spawn(one.send, call)
    gevent.get_hub().loop.run_callback(harm, connection)     # after the greenlet has begun to wait, before what it posted leaves
    assert sending.get(timeout=30).status == 200
    assert [attempt.flag for attempt in call.attempts] == ["UC", ""] and len(service.requests) == 2 and service.connections == 2
    assert pool_of(one) == (1, 1, 0)


@pytest.mark.parametrize("call", [get(seconds=0), post(b"x", seconds=0)])
def test_a_call_whose_time_is_over_is_not_sent_on_a_warm_connection_either(serve, upstream, call):
    service = Service()
    one = upstream(serve(service))
    one.send(get())
    with pytest.raises(DeadlineExceeded):
        one.send(call)
    one.send(get("/next"))
    assert [head.split()[1] for head, _ in service.requests] == [b"/", b"/next"] and pool_of(one) == (1, 1, 0)


def strayed(serve, upstream):
    """An upstream, and its unused connection: bytes that nobody asked for have come on it, and the loop has not looked yet."""
    def handle(sock, address):
        peer = Peer(sock)
        while peer.request():
            sock.sendall(OK)
            if not stray.is_set():
                stray.wait()
                sock.sendall(b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n")

    stray = Event()
    one = upstream(serve(handle))
    one.send(get())
    connection = one.instances[0].pool.idle[0]
    connection.readable.unwatch()
    connection.readable.is_watched = True
    stray.set()
    until(lambda: not connection.alive())
    return one, connection


@pytest.mark.parametrize("make", [get, lambda: post(b"x", "PUT"), lambda: get("/", ("X", "x" * 20000))])
def test_bytes_that_came_before_a_request_are_no_answer_to_it(serve, upstream, make):
    """Also when the reader is woken by them before what it posted has left."""
    one, connection = strayed(serve, upstream)
    call = make()
    sending = gevent.spawn(one.send, call)
    gevent.get_hub().loop.run_callback(connection.readable._ready)      # as when both were ready in one turn
    assert sending.get(timeout=30).status == 200 and call.attempts[-1].status == 200
    assert pool_of(one) == (1, 1, 0)


def test_bytes_that_come_before_a_posted_request_leaves_are_no_answer_to_it(serve, upstream):
    one, _ = strayed(serve, upstream)
    call = get()
    assert one.send(call).status == 200 and [attempt.flag for attempt in call.attempts] == ["UC", ""]


def test_stray_bytes_never_reach_the_next_client(serve, upstream):
    def handle(sock, address):
        peer = Peer(sock)
        if peer.request():
            sock.sendall(OK)
            stray.wait()
            sock.sendall(b"HTTP/1.1 500 Stray\r\nContent-Length: 0\r\n\r\n")
            sent.set()
            peer.request()

    stray, sent = Event(), Event()
    one = upstream(serve(handle))
    one.send(get())
    stray.set()
    sent.wait(30)
    call = post(b"x")
    assert one.send(call).status == 200
    assert [(attempt.status, attempt.reuse) for attempt in call.attempts] == [(200, False)]


def test_a_connection_closed_meanwhile_is_not_used(serve, upstream):
    def handle(sock, address):
        Peer(sock).request()
        sock.sendall(OK)
        sock.close()
        closed.set()

    closed = Event()
    one = upstream(serve(handle))
    for _ in range(3):
        closed.clear()
        call = post(b"x")
        assert one.send(call).body == b"ok"
        assert len(call.attempts) == 1
        closed.wait(30)


def test_the_promise_of_a_service_to_keep_a_connection_is_known_to_the_pool(serve, upstream):
    one = upstream(serve(Service(b"HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5\r\n\r\n")), idle_timeout="50s")
    one.send(get())
    pool = one.instances[0].pool
    assert 3 < pool.idle[0].expires - pool.clock.now() <= 4


def test_close_closes_the_unused(serve, upstream):
    service = Service()
    one = upstream(serve(service))
    one.send(get())
    one.close()
    assert pool_of(one) == (0, 0, 0)
    assert one.send(get()).body == b"ok"
    assert pool_of(one) == (0, 0, 0)


def test_calls_go_round_the_instances(serve, upstream):
    services = [Service(), Service(), Service()]
    one = upstream(*map(serve, services))
    for _ in range(6):
        one.send(get())
    assert [len(service.requests) for service in services] == [2, 2, 2]


def test_least_requests_avoids_the_busy_one(serve, upstream):
    go = Event()
    slow, quick = Service(lambda head, body: go.wait() and OK), Service()
    one = upstream(serve(slow), serve(quick), balance="least-requests")
    first = gevent.spawn(one.send, get())
    gevent.idle()
    for _ in range(5):
        one.send(get())
    assert (one.instances[0].in_flight, len(quick.requests)) == (1, 5)
    go.set()
    first.get(timeout=30)
    assert one.instances[0].in_flight == 0


def test_a_stream_counts_as_in_flight_until_it_ends(serve, upstream):
    one = upstream(serve(Service(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000)))
    stream = one.send(get()).body
    assert pool_of(one) == (1, 0, 1)
    assert len(content(stream)) == 70000
    assert pool_of(one) == (1, 1, 0)


# A connection that had served before and ends without an answer

class Fickle:
    """A service whose first connection answers once and then, on the next request, ends without a word."""

    def __init__(self, last_words: bytes = b"") -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.last_words = last_words

    def __call__(self, sock, address) -> None:
        self.connections += 1
        peer = Peer(sock)
        fickle = self.connections == 1
        while True:
            try:
                request = peer.request()
            except (OSError, EOFError):
                return
            if request is None:
                return
            self.requests.append(request)
            if fickle and len(self.requests) > 1:
                sock.sendall(self.last_words)
                sock.close()
                return
            sock.sendall(OK)


@pytest.mark.parametrize("method, body", [("GET", None), ("HEAD", None), ("OPTIONS", None), ("DELETE", None), ("PUT", b"x"),
                                          ("PUT", b"x" * 100),
                                          ("PUT", "small"), ("TRACE", None)])
def test_an_idempotent_request_goes_once_more(serve, upstream, method, body):
    service = Fickle()
    one = upstream(serve(service))
    one.send(get())
    call = post(body_of([b"abc"], 3) if body == "small" else body, method)
    response = one.send(call)
    assert response.status == 200
    assert [(attempt.status, attempt.flag, attempt.reuse) for attempt in call.attempts] == [(0, "UC", True), (200, "", False)]
    assert service.connections == 2 and service.requests[1] == service.requests[2]
    assert pool_of(one)[2] == 0


@pytest.mark.parametrize("method, body", [("POST", b"x"), ("POST", None), ("PATCH", b"x"), ("LOCK", None), ("PUT", "stream")])
def test_no_other_request_is_sent_twice(serve, upstream, method, body):
    service = Fickle()
    one = upstream(serve(service))
    one.send(get())
    call = post(body_of([b"abc"], None) if body == "stream" else body, method)
    with pytest.raises(UpstreamClosed):
        one.send(call)
    assert len(service.requests) == 2 and service.connections == 1
    assert [(attempt.status, attempt.flag, attempt.reuse) for attempt in call.attempts] == [(0, "UC", True)]
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("words", [b"H", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_nothing_is_sent_twice_once_a_byte_of_the_answer_came(serve, upstream, words):
    service = Fickle(words)
    one = upstream(serve(service))
    one.send(get())
    with pytest.raises(UpstreamClosed, match="within the head"):
        one.send(get())
    assert len(service.requests) == 2


def test_a_fresh_connection_is_not_tried_twice(serve, upstream):
    service = Service(lambda head, body: None)
    one = upstream(serve(service))
    call = get()
    with pytest.raises(UpstreamClosed):
        one.send(call)
    assert len(service.requests) == 1 and len(call.attempts) == 1


@pytest.mark.parametrize("body", [b"x", b"x" * 70000, "stream"])
def test_what_never_left_goes_once_more_whatever_it_is(serve, upstream, body):
    """The connection dies between the look at it and the write: nothing was sent, so a POST may go again."""
    service = Service()
    one = upstream(serve(service))
    one.send(get())
    connection = one.instances[0].pool.idle[0]
    connection.socket.shutdown(1)                        # a write now fails, and so does the look at it, unless ...
    connection._poll.unregister(connection.socket)       # ... it sees nothing
    call = post(body_of([b"abc"], None) if body == "stream" else body)
    assert one.send(call).body == b"ok"
    assert [(attempt.flag, attempt.reuse) for attempt in call.attempts] == [("UC", True), ("", False)]
    assert [received for head, received in service.requests] == [b"", b"abc" if body == "stream" else body]


def test_the_second_attempt_makes_room_for_itself(serve, upstream):
    service = Fickle()
    one = upstream(serve(service), max_connections=1)
    one.send(get())
    assert one.send(get()).body == b"ok"
    assert pool_of(one) == (1, 1, 0)


# The greenlet that waits is killed

@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200 OK\r\n",), (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",)])
@pytest.mark.parametrize("exception", [gevent.GreenletExit, ValueError("thrown")])
def test_killing_the_caller_closes_the_connection(serve, upstream, parts, exception):
    sent, ended = Event(), Event()

    def handle(sock, address):
        peer = Peer(sock)
        peer.request()
        for part in parts:
            sock.sendall(part)
        sent.set()
        with suppress(OSError):                          # a reset is an end too
            peer.request()
        ended.set()
        sock.close()

    one = upstream(serve(handle))
    caller = gevent.spawn(one.send, get())
    assert sent.wait(30)
    gevent.idle()
    caller.kill(exception)
    assert ended.wait(30)
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("exception", [TimeoutError("of the caller's own"), ConnectionResetError(104, "elsewhere"),
                                       DeadlineExceeded("outer")])
def test_what_is_thrown_at_the_caller_is_not_the_services_fault(serve, upstream, exception):
    """An OSError that comes from outside while it waits is neither translated nor a reason to try again."""
    go = Event()
    service = Service(lambda head, body: go.wait() and OK if head.startswith(b"GET /wait") else OK)
    one = upstream(serve(service))
    one.send(get())
    call = get("/wait")
    caller = gevent.spawn(one.send, call)
    until(lambda: len(service.requests) == 2)
    caller.kill(exception)
    assert caller.exception is exception
    assert len(call.attempts) == 1 and call.attempts[0].reuse
    go.set()
    gevent.idle()
    assert len(service.requests) == 2 and pool_of(one) == (0, 0, 0)


def test_killing_who_waits_for_a_connection_loses_none(serve, upstream):
    go = Event()
    one = upstream(serve(Service(lambda head, body: go.wait() and OK)), max_connections=1)
    first = gevent.spawn(one.send, get())
    gevent.idle()
    second = gevent.spawn(one.send, get())
    gevent.idle()
    assert pool_of(one) == (1, 0, 2)
    second.kill()
    go.set()
    first.get(timeout=30)
    assert pool_of(one) == (1, 1, 0)
    assert one.send(get()).body == b"ok"


# Building one

def test_it_says_what_it_is(upstream):
    one = upstream("http://10.0.0.5:8000/", "unix:/run/app.sock", balance="least-requests")
    assert repr(one) == "Upstream(shop, least-requests over 2)"
    assert repr(one.instances[0]) == "Instance(http://10.0.0.5:8000, 0 in flight, Pool(0 of 1000 open, 0 idle, 0 waiting))"
    assert [(instance.name, instance.scheme, instance.authority) for instance in one.instances] == [
        ("http://10.0.0.5:8000", "http", "10.0.0.5:8000"), ("unix:/run/app.sock", "http", "localhost")]


@pytest.mark.parametrize("instances, settings, error", [
    ((), {}, ValueError), (("http://",), {}, ValueError), (("https://a",), {"tls": {"ca": "/nowhere.pem"}}, ConfigError),
    (("https://a",), {"tls": {"certificate": "/nowhere.pem"}}, ConfigError),
    (("https://a",), {"tls": {"server_name": ".a"}}, ConfigError),
])
def test_settings_that_cannot_work_are_refused_at_once(upstream, instances, settings, error):
    with pytest.raises(error):
        upstream(*instances, **settings)


def test_every_error_is_one_of_the_gateways(serve, upstream):
    """Whatever a service says, byte by byte cut off: an answer or a GatewayError, and no connection left over."""
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    cut = iter(range(len(whole) + 1))

    def handle(sock, address):
        Peer(sock).request()
        sock.sendall(whole[:next(cut)])
        sock.close()

    one = upstream(serve(handle))
    answered = 0
    for _ in range(len(whole) + 1):
        try:
            answered += content(one.send(get()).body) == b"ok"
        except GatewayError:
            continue
    assert answered == 1
    assert pool_of(one)[2] == 0
