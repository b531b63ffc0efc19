"""Bodies that flow: sent while the answer is read, read piece by piece, cut, stopped and dropped."""

from __future__ import annotations

import gc
import itertools

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue
from gevent.socket import SO_LINGER, SOL_SOCKET, socketpair
from raw import OK, Peer, Service, body_of, content, get, pool_of, post

from gateway.config import UpstreamSettings as Settings
from gateway.errors import (BodyTimeout, ClientDisconnected, DeadlineExceeded, InternalError, MalformedBody, TruncatedBody,
                            UpstreamClosed, UpstreamTimeout, UpstreamTruncated)
from gateway.message import Body
from gateway.upstream.client import Upstream
from gateway.upstream.stream import BodyStream
from gateway.upstream.transport import PIECE, RESET, Connection, native_socket
from tests.clocks import ManualClock
from tests.waiting import until

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Recorder:
    """A service that reads whatever comes until the connection ends; ``answer`` is sent after the head. ``how`` says how it ended:
    "end" in order, "reset" otherwise."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.received = b""
        self.how = ""
        self.done = Event()

    def __call__(self, sock, address) -> None:
        peer = Peer(sock)
        assert peer.until(b"\r\n\r\n")
        self.received = peer.unread
        sock.sendall(self.answer)
        try:
            while data := sock.recv(65536):
                self.received += data
            self.how = "end"
        except ConnectionResetError:
            self.how = "reset"
        sock.close()
        self.done.set()


class Feed:
    """A request body fed by the test: ``give`` pieces, b"" is the end. ``reading`` is true while somebody waits for one."""

    def __init__(self, length: int | None = None) -> None:
        self.pieces = Queue()
        self.reading = False
        self.body = Body(self.read, length)

    def read(self, size: int) -> bytes:
        self.reading = True
        try:
            return self.pieces.get()
        finally:
            self.reading = False

    def give(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.pieces.put(piece)


def waits(stream) -> bool:
    """Does somebody wait for more of it?"""
    return stream._owner.connection.readable.reader is not None


# The request's body

def test_both_ways_flow_at_once(serve, upstream):
    """Each piece is answered before the next is sent."""
    def handle(sock, address):
        peer = Peer(sock)
        peer.until(b"\r\n\r\n")
        sock.sendall(CHUNKED)
        while piece := peer.chunk():
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece.upper()))
        sock.sendall(b"0\r\n\r\n")
        peer.request()

    one = upstream(serve(handle))
    feed = Feed()
    stream = one.send(post(feed.body)).body
    for word in (b"one", b"two", b"three"):
        feed.give(word)
        assert next(stream) == word.upper()
    feed.give(b"")
    assert list(stream) == [] and stream.complete
    assert pool_of(one) == (1, 1, 0)


@pytest.mark.parametrize("length", [None, 10_000_000])
@pytest.mark.parametrize("answer",
                         [b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig",
                          b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\nbig"])
def test_an_early_answer_is_heard_and_the_sender_stops(serve, upstream, length, answer):
    service = Recorder(answer)

    def handle(sock, address):
        service(sock, address)

    one = upstream(serve(handle))
    feed = Feed(length)
    feed.give(b"some")
    response = one.send(post(feed.body))
    if isinstance(response.body, BodyStream):            # ends with the connection, which lasts while the service reads
        assert next(response.body) == b"big"
        response.body.close()
    else:
        assert response.body == b"big"
    assert response.status == 413
    assert not feed.reading                              # nobody reads the client's body any more
    assert service.done.wait(30) and service.how == "reset"
    assert pool_of(one) == (0, 0, 0)


def test_an_early_answer_of_a_service_that_hangs_up(serve, upstream):
    """It answers, closes and never reads the body: what it said arrives although writing fails."""
    def handle(sock, address):
        sock.recv(10)
        sock.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        sock.close()

    one = upstream(serve(handle))
    response = one.send(post(body_of(itertools.repeat(b"x" * PIECE), None)))
    assert (response.status, response.body) == (401, b"no")
    assert pool_of(one) == (0, 0, 0)


def test_large_bytes_are_answered_early_too(serve, upstream):
    service = Recorder(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    def handle(sock, address):
        peer = Peer(sock)
        peer.until(b"\r\n\r\n")
        sock.sendall(service.answer)
        go.wait(30)
        sock.close()

    go = Event()
    one = upstream(serve(handle))
    assert one.send(post(b"x" * 30_000_000)).body == b"big"
    go.set()
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("length", [None, 100_000])
@pytest.mark.parametrize("failure, error", [(TruncatedBody("cut"), TruncatedBody), (MalformedBody("bad"), MalformedBody),
                                            (ConnectionResetError(104, "gone"), ClientDisconnected),
                                            (KeyError("defect"), KeyError)])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\nbeginning"])
def test_a_body_that_fails_is_never_taken_for_complete(serve, upstream, length, failure, error, answer):
    service = Recorder(answer)
    one = upstream(serve(service))
    feed = Feed(length)
    read = feed.body._read

    def fail_at_last(size: int) -> bytes:
        piece = read(size)
        if piece == b"fail":
            raise failure
        return piece

    call = post(Body(fail_at_last, length))
    feed.give(b"x" * 1000)
    if answer:
        stream = one.send(call).body
        assert next(stream) == b"beginning"
        feed.give(b"fail")
        with pytest.raises(error):
            next(stream)
    else:
        feed.give(b"fail")
        with pytest.raises(error):
            one.send(call)
    assert service.done.wait(30) and service.how == "reset"
    assert b"x" * 1000 in service.received and not service.received.endswith(b"0\r\n\r\n")
    assert pool_of(one) == (0, 0, 0)
    assert call.attempts[0].flag == getattr(error, "flag", "")


@pytest.mark.parametrize("pieces, error", [([b"x" * 70_000], TruncatedBody), ([b"x" * 100_000, b"y"], None),
                                           ([b"x" * 70_000, b"y" * 40_000], InternalError)])
def test_a_body_is_exactly_as_long_as_announced(serve, upstream, pieces, error):
    service = Service()
    one = upstream(serve(service))
    if error is None:
        one.send(post(body_of(pieces, 100_000)))
        assert [len(body) for head, body in service.requests] == [100_000]
    else:
        with pytest.raises(error):
            one.send(post(body_of(pieces, 100_000)))
        assert service.requests == []


def test_an_upload_is_not_cut_by_the_deadline_while_it_moves(serve):
    """The deadline and the attempt's time pass while the body is on its way; then they start anew."""
    service, clock = Service(), ManualClock()
    connections = []

    def open(endpoint):
        connections.append(Connection(native_socket(endpoint.family), clock))
        return connections[-1]

    one = Upstream("shop", Settings(instances=(f"http://127.0.0.1:{serve(service)}",)), clock=clock, open=open)
    feed = Feed()
    call = post(feed.body, seconds=30.0, clock=clock, timeout=20.0)
    answer = gevent.spawn(one.send, call)
    for _ in range(10):
        clock.time += 15.0
        feed.give(b"x")
        until(lambda: feed.pieces.empty() and feed.reading)
        for connection in connections:
            connection.wake()                            # who waits for the answer looks at its limit
        gevent.idle()
    feed.give(b"")
    assert answer.get(timeout=30).body == b"ok"
    assert call.deadline.at == clock.time + 30.0
    assert service.requests[0][1] == b"x" * 10
    one.close()


@pytest.mark.parametrize("seconds, timeout, error", [(0.02, None, DeadlineExceeded), (10, 0.02, UpstreamTimeout)])
def test_after_the_upload_the_answer_must_come_in_time(serve, upstream, seconds, timeout, error):
    one = upstream(serve(Recorder()))
    feed = Feed()
    feed.give(b"x", b"")
    with pytest.raises(error) as excinfo:
        one.send(post(feed.body, seconds=seconds, timeout=timeout))
    assert type(excinfo.value) is error


def test_a_client_that_stops_sending_is_at_fault(serve, upstream):
    service = Recorder()
    one = upstream(serve(service), read_timeout="20ms")
    feed = Feed()
    feed.give(b"x")
    call = post(feed.body)
    with pytest.raises(BodyTimeout) as excinfo:
        one.send(call)
    assert excinfo.value.status == 408 and call.attempts[0].flag == "BT"
    assert service.done.wait(30) and service.how == "reset"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_service_that_stops_reading_is_at_fault(serve, upstream, streamed):
    def handle(sock, address):
        go.wait(30)
        sock.close()

    go = Event()
    one = upstream(serve(handle), read_timeout="20ms")
    call = post(body_of([b"x" * PIECE] * 500, None) if streamed else b"x" * PIECE * 500)
    with pytest.raises(UpstreamTimeout, match="took no byte"):
        one.send(call)
    go.set()
    assert pool_of(one) == (0, 0, 0)


def test_silence_of_the_answer_does_not_count_while_the_body_moves(serve, upstream):
    def handle(sock, address):
        peer = Peer(sock)
        peer.until(b"\r\n\r\n")
        sock.sendall(CHUNKED)
        while peer.chunk():
            pass
        sock.sendall(b"2\r\nok\r\n0\r\n\r\n")
        peer.request()

    clock = ManualClock()
    one = upstream(serve(handle), clock=clock, read_timeout="20s")
    feed = Feed()
    stream = one.send(post(feed.body, clock=clock)).body
    rest = gevent.spawn(stream.read)
    until(lambda: waits(stream))
    for _ in range(10):
        clock.time += 15.0
        gevent.get_hub().loop.run_callback(stream._owner.connection.readable._after_turns)      # who reads looks at its limit
        gevent.idle()
        feed.give(b"x")
        until(lambda: feed.pieces.empty() and feed.reading and waits(stream))
    feed.give(b"")
    assert rest.get(timeout=30) == b"ok"


@pytest.mark.parametrize("exception", [gevent.GreenletExit, ValueError("thrown")])
def test_killing_the_caller_stops_the_sender(serve, upstream, exception):
    service = Recorder()
    one = upstream(serve(service))
    feed = Feed()
    feed.give(b"some")
    caller = gevent.spawn(one.send, post(feed.body))
    until(lambda: service.received)
    caller.kill(exception)
    assert not feed.reading
    assert service.done.wait(30) and service.how == "reset"
    assert pool_of(one) == (0, 0, 0)


# The answer's body

def test_events_come_as_they_are_sent(serve, upstream):
    def handle(sock, address):
        peer = Peer(sock)
        peer.request()
        sock.sendall(CHUNKED)
        for number in range(5):
            sock.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
            taken.wait()
            taken.clear()
        sock.sendall(b"0\r\n\r\n")
        peer.request()

    taken = Event()
    stream = upstream(serve(handle)).send(get()).body
    for number in range(5):
        assert next(stream) == b"data: %d\n\n" % number
        taken.set()
    assert list(stream) == [] and stream.complete


@pytest.mark.parametrize("chunked", [True, False])
def test_64_mb_pass_in_small_pieces(serve, upstream, chunked):
    piece = b"x" * PIECE

    def handle(sock, address):
        peer = Peer(sock)
        peer.request()
        sock.sendall(CHUNKED if chunked else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1024 * PIECE))
        for _ in range(1024):
            sock.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
        sock.sendall(b"0\r\n\r\n" if chunked else b"")
        peer.request()

    one = upstream(serve(handle))
    sizes = [len(piece) for piece in one.send(get()).body]
    assert sum(sizes) == 1024 * PIECE and max(sizes) <= PIECE
    assert pool_of(one) == (1, 1, 0)


def test_a_body_that_never_waits_lets_others_have_their_turn(serve, upstream):
    """Both sockets are always ready: the loop has to look at the other ones all the same."""
    here, there = socketpair()
    heard: list[int] = []
    pieces = 0

    def listen():
        there.recv(1)
        heard.append(pieces)

    def read(size: int) -> bytes:
        nonlocal pieces
        pieces += 1
        if pieces == 2:
            here.send(b"!")
        return b"x" * 1000 if pieces <= 20 else b""

    other = gevent.spawn(listen)
    gevent.sleep(0)
    assert upstream(serve(Service(OK))).send(post(Body(read, None))).body == b"ok"
    other.join(30)
    here.close()
    there.close()
    assert heard and heard[0] <= 4


def test_64_mb_are_sent_in_small_pieces(serve, upstream):
    held = most = 0

    def read(size: int) -> bytes:
        nonlocal held, most
        held += PIECE
        most = max(most, held - received)
        return b"x" * PIECE if held <= 1024 * PIECE else b""

    def handle(sock, address):
        nonlocal received
        peer = Peer(sock)
        peer.until(b"\r\n\r\n")
        while data := peer.chunk():
            received += len(data)
        sock.sendall(OK)
        peer.request()

    received = 0
    assert upstream(serve(handle)).send(post(Body(read, None))).body == b"ok"
    assert received == 1024 * PIECE
    assert most < 16 * 1024 * 1024                       # what the sockets hold, not the 64 MB


def test_read_gives_what_there_is_up_to_a_size(serve, upstream):
    def handle(sock, address):
        peer = Peer(sock)
        peer.request()
        sock.sendall(CHUNKED + b"5\r\nhello\r\n")
        go.wait(30)
        sock.sendall(b"8000\r\n" + b"ab" * 0x4000 + b"\r\n0\r\n\r\n")
        peer.request()

    go = Event()
    stream = upstream(serve(handle)).send(get()).body
    assert [stream.read(size) for size in (0, 2, 0, 1000)] == [b"", b"he", b"", b"llo"]
    go.set()
    found = b""
    while piece := stream.read(1000):
        assert len(piece) <= 1000
        found += piece
        if len(found) == 16000:
            found += next(stream)                        # the rest of what had been read ahead
    assert found == b"ab" * 0x4000
    assert stream.read(10) == stream.read(None) == stream.read() == b""


@pytest.fixture
def endless(serve, upstream):
    """An upstream that begins an answer and goes on only when told; and the service's event that its connection ended."""
    ended = Event()

    def handle(sock, address):
        peer = Peer(sock)
        peer.request()
        sock.sendall(CHUNKED + b"5\r\nhello\r\n")
        try:
            peer.request()
        except OSError:
            pass                                         # a reset is an end too
        ended.set()
        sock.close()

    return upstream(serve(handle)), ended


def test_closing_a_stream_early_closes_its_connection(endless):
    one, ended = endless
    stream = one.send(get()).body
    assert next(stream) == b"hello"
    stream.close()
    stream.close()
    assert ended.wait(30) and stream.closed and not stream.complete
    assert pool_of(one) == (0, 0, 0)
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_closing_a_stream_at_its_end_keeps_the_connection(serve, upstream):
    one = upstream(serve(Service(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000)))
    for _ in range(2):
        stream = one.send(get()).body
        assert sum(map(len, stream)) == 70000
        stream.close()
        assert pool_of(one) == (1, 1, 0) and stream.complete
        assert list(stream) == []


def test_a_stream_dropped_unread_gives_its_place_back(endless):
    one, ended = endless
    response = one.send(get())
    assert pool_of(one) == (1, 0, 1)
    del response
    gc.collect()
    assert ended.wait(30)
    assert pool_of(one) == (0, 0, 0)


def test_killing_who_reads_a_stream_closes_it(endless):
    one, ended = endless
    stream = one.send(get()).body
    reader = gevent.spawn(list, stream)
    until(lambda: waits(stream))
    reader.kill()
    assert ended.wait(30) and stream.closed
    assert pool_of(one) == (0, 0, 0)


def test_closing_a_stream_somebody_reads_ends_the_reading(endless):
    one, ended = endless
    stream = one.send(get()).body
    reader = gevent.spawn(list, stream)
    until(lambda: waits(stream))
    stream.close()
    with pytest.raises(UpstreamTruncated):
        reader.get(timeout=30)
    assert pool_of(one) == (0, 0, 0)


def test_two_may_not_read_at_once(endless):
    one, ended = endless
    stream = one.send(get()).body
    assert next(stream) == b"hello"
    reader = gevent.spawn(next, stream)
    until(lambda: waits(stream))
    with pytest.raises(RuntimeError, match="two greenlets"):
        stream._owner.connection.receive(stream._owner.limit)
    stream.close()
    with pytest.raises(UpstreamTruncated):
        reader.get(timeout=30)


def test_an_answer_that_is_reset_is_truncated(serve, upstream):
    def handle(sock, address):
        Peer(sock).request()
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nsome")
        assert go.wait(60)
        sock.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        sock.close()

    go = Event()
    one = upstream(serve(handle))
    stream = one.send(get()).body
    assert next(stream) == b"some"
    go.set()
    with pytest.raises(UpstreamTruncated, match="reset"):
        content(stream)


def test_a_reset_before_the_answer(serve, upstream):
    def handle(sock, address):
        sock.recv(1)
        sock.close()

    with pytest.raises(UpstreamClosed):
        upstream(serve(handle)).send(get())
