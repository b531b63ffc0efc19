"""What an attempt says of its instance, and whether another follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event
from raw import OK, Peer, Service, get, stall
from test_connecting import closed_port

from gateway.config import UpstreamSettings as Settings
from gateway.errors import (ConnectFailed, ConnectTimeout, DeadlineExceeded, OutOfFiles, PoolExhausted, UpstreamClosed,
                            UpstreamError, UpstreamProtocolError, UpstreamTimeout)
from gateway.upstream.client import Upstream
from gateway.upstream.retry import AT_ONCE, STOP, Outcome, Resend, Result, decide, judge, judge_status


@pytest.mark.parametrize("resend, then", [(Resend.NOWHERE, STOP), (Resend.SAME, AT_ONCE), (Resend.OTHER, AT_ONCE)])
@pytest.mark.parametrize("result", Result)
def test_what_comes_after_an_attempt(result, resend, then):
    assert [decide(Outcome(result, "UF", resend), number, 1000.0) for number in (1, 2, 100)] == [then] * 3


def ended(unsent: bool = False, stale: bool = False) -> UpstreamClosed:
    error = UpstreamClosed()
    error.unsent, error.stale = unsent, stale
    return error


@pytest.mark.parametrize("error, connected, method, consumed, outcome", [
    (ConnectFailed(), False, "POST", False, (Result.FAILURE, "UF", Resend.OTHER, True)),
    (ConnectFailed(), False, "POST", True, (Result.FAILURE, "UF", Resend.NOWHERE, True)),
    (ConnectTimeout(), False, "POST", False, (Result.FAILURE, "UT", Resend.OTHER, True)),
    (UpstreamTimeout(), False, "POST", False, (Result.FAILURE, "UT", Resend.OTHER, True)),
    (UpstreamTimeout(), True, "GET", False, (Result.FAILURE, "UT", Resend.NOWHERE, False)),
    (UpstreamProtocolError(), True, "GET", False, (Result.FAILURE, "UP", Resend.NOWHERE, False)),
    (PoolExhausted(), False, "POST", False, (Result.IGNORED, "UO", Resend.OTHER, False)),
    (ended(), True, "GET", False, (Result.FAILURE, "UC", Resend.NOWHERE, False)),
    (ended(unsent=True), True, "POST", False, (Result.FAILURE, "UC", Resend.OTHER, False)),
    (ended(unsent=True, stale=True), True, "POST", False, (Result.IGNORED, "UC", Resend.SAME, False)),
    (ended(stale=True), True, "GET", False, (Result.IGNORED, "UC", Resend.SAME, False)),
    (ended(stale=True), True, "POST", False, (Result.IGNORED, "UC", Resend.NOWHERE, False)),
    (ended(stale=True), True, "PUT", True, (Result.IGNORED, "UC", Resend.NOWHERE, False)),
    (DeadlineExceeded(), True, "GET", False, (Result.IGNORED, "DT", Resend.NOWHERE, False)),
    (OutOfFiles(), False, "GET", False, (Result.IGNORED, "OF", Resend.NOWHERE, False)),
    (KeyboardInterrupt(), False, "GET", False, (Result.IGNORED, "", Resend.NOWHERE, False)),
])
def test_the_outcome_of_an_attempt(error, connected, method, consumed, outcome):
    assert judge(error, connected, method, consumed) == outcome


@pytest.mark.parametrize("method, consumed, resend", [
    ("GET", False, Resend.OTHER), ("GET", True, Resend.NOWHERE), ("POST", False, Resend.NOWHERE)])
def test_a_status_can_be_a_failure(method, consumed, resend):
    assert judge_status(503, method, consumed) == (Result.FAILURE, "503", resend, False)


# What subscribers hear of real servers

def sends(data: bytes) -> Callable[[Any, Any], None]:
    """A service that answers with ``data`` and closes."""
    def handle(sock: Any, address: Any) -> None:
        Peer(sock).request()
        sock.sendall(data)
        sock.close()
    return handle


ANSWERS: dict[str, tuple[Callable[[Any, Any], None] | None, Outcome]] = {
    "no server": (None, Outcome(Result.FAILURE, "UF", Resend.OTHER, is_connect_failure=True)),
    "a close": (sends(b""), Outcome(Result.FAILURE, "UC")),
    "a part of a head": (sends(b"HTTP/1.1 200 OK\r\n"), Outcome(Result.FAILURE, "UC")),
    "silence": (stall(), Outcome(Result.FAILURE, "UT")),
    "no HTTP": (sends(b"220 mail.test\r\n\r\n"), Outcome(Result.FAILURE, "UP")),
    "a body that is cut": (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), Outcome(Result.SUCCESS)),
    "an answer": (sends(OK), Outcome(Result.SUCCESS)),
}


@pytest.fixture
def outcomes(serve):
    """``outcomes(handler)`` starts a service: the upstream that has it as its instance, and the outcomes of that."""
    upstreams = []

    def start(handler, **settings) -> tuple[Upstream, list[Outcome]]:
        port = closed_port() if handler is None else serve(handler)
        upstreams.append(Upstream("shop", Settings(instances=(f"http://127.0.0.1:{port}",), **settings)))
        results: list[Outcome] = []
        upstreams[-1].instances[0].subscribe(lambda attempt, outcome, start, now: results.append(outcome))
        return upstreams[-1], results

    yield start
    for upstream in upstreams:
        upstream.close()


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_instance_fails_that_gives_no_answer_and_backs_off_without_a_connection(answer, outcomes):
    handler, expected = ANSWERS[answer]
    upstream, results = outcomes(handler)
    try:
        upstream.send(get(timeout=0.1 if answer == "silence" else None))
    except UpstreamError as error:
        assert error.flag == (expected.reason or "UX")
    assert results == [expected]
    assert bool(upstream.instances[0].backoff.failures) == (answer == "no server")


def test_the_end_of_a_reused_connection_says_nothing(outcomes):
    upstream, results = outcomes(Service(lambda head, body: OK if b"/first" in head else None))
    upstream.send(get("/first"))
    with pytest.raises(UpstreamClosed):
        upstream.send(get("/second"))
    assert [outcome.result for outcome in results] == [Result.SUCCESS, Result.IGNORED, Result.FAILURE]


def test_a_timeout_while_all_connections_are_busy_says_nothing(outcomes):
    go = Event()
    upstream, results = outcomes(Service(lambda head, body: go.wait() and OK), max_connections=1)
    first = gevent.spawn(upstream.send, get())
    gevent.idle()
    with pytest.raises(UpstreamTimeout):
        upstream.send(get(timeout=0.01))
    assert results == [Outcome(Result.IGNORED, "UT", Resend.OTHER)] and not upstream.instances[0].backoff.failures
    go.set()
    assert first.get(timeout=30).status == 200
