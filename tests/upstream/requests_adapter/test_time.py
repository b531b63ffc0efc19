"""The time a call has, and bodies as they come."""

from __future__ import annotations

from itertools import product

import gevent
import pytest
import requests
from gevent.event import Event
from odd_service import answer, chunked

from gateway import gather
from gateway.errors import DeadlineExceeded, UpstreamTimeout
from gateway.tasks import current_request
from gateway.upstream.requests.adapter import DeadlineTimeout, gateway_error, govern_requests
from tests.waiting import SAFETY


def test_attempts_are_noted_on_the_request(orders, service, in_request):
    orders()
    foreign, request = service(), in_request()
    gather(lambda: requests.get("http://orders/plain"), lambda: requests.get(foreign.base + "/404"),
           lambda: pytest.raises(requests.ConnectionError, requests.get, foreign.base + "/says-nothing"))
    noted = sorted((attempt.upstream, attempt.status, attempt.flag) for attempt in request.attempts)
    place = f"127.0.0.1:{foreign.port}"
    assert noted == [(place, 0, "UC"), (place, 404, ""), ("orders", 200, "")]


@pytest.mark.parametrize("reply", ["nothing", "a part of a small body", "a part of a large body", "a part of a chunked body"])
def test_a_call_has_the_time_the_request_has_left(reply, orders, service, stall, in_request):
    first = {"nothing": b"", "a part of a small body": answer(b"x", "Content-Length: 5", length=False),
             "a part of a large body": answer(b"x", "Content-Length: 500000", length=False),
             "a part of a chunked body": chunked(b"x", end=b"")}[reply]
    foreign, instances = service(), orders()
    for each in (foreign, *instances):
        each.extra["/stall"] = stall(first)
    request = in_request(0.05)
    for base, timeout in product((foreign.base, "http://orders"), (None, SAFETY, (SAFETY, None), (None, SAFETY))):
        request.deadline.restart()
        with pytest.raises(requests.exceptions.Timeout) as excinfo:
            requests.get(base + "/stall", timeout=timeout)
        error = excinfo.value
        assert type(error) is DeadlineTimeout and isinstance(error, (requests.ReadTimeout, DeadlineExceeded))
        assert (error.status, error.code) == (504, "deadline_exceeded")
        assert isinstance(gateway_error(error), DeadlineExceeded) and isinstance(error.__cause__, DeadlineExceeded)


def test_a_passed_deadline_sends_nothing(service, in_request):
    one, request = service(), in_request()
    govern_requests()
    request.deadline.at = 0.0
    for body in (None, b"x", iter([b"x"])):
        with pytest.raises(DeadlineTimeout):
            requests.post(one.base + "/echo", data=body)
    assert one.connections == 0


def test_a_loop_of_calls_after_the_deadline_lets_others_run(service, in_request):
    one = service()
    govern_requests()
    in_request().deadline.at = 0.0
    ran = []
    gevent.spawn(ran.append, True)
    for _ in range(100):
        with pytest.raises(DeadlineTimeout):
            requests.get(one.base + "/plain")
        if ran:
            return
    pytest.fail("nobody else ran")


def test_an_upload_does_not_move_the_deadline_of_the_request(service, in_request):
    one, request = service(), in_request()
    govern_requests()
    before = request.deadline.at
    for body in (iter([b"x"] * 3), open(__file__, "rb")):
        with getattr(body, "__enter__", lambda: gevent.Timeout(None))():
            requests.post(one.base + "/echo", data=body)
    assert request.deadline.at == before


@pytest.mark.parametrize("upload", [False, True])
@pytest.mark.parametrize("path, error", [("/stall", requests.ReadTimeout), ("/stall-in-large-body", requests.ConnectionError)])
def test_the_timeout_of_a_call_holds_for_upstreams_and_uploads_too(path, error, upload, orders, stall):
    for each in orders():
        each.extra.update({"/stall": stall(), "/stall-in-large-body": stall(answer(b"x", "Content-Length: 500000", length=False))})
    with pytest.raises(error) as excinfo:
        requests.post("http://orders" + path, data=iter([b"body"]) if upload else b"body", timeout=1.0)
    assert isinstance(gateway_error(excinfo.value), UpstreamTimeout)


def test_a_slow_generator_is_not_the_servers_fault(service, stall):
    one, timeout = service(), (SAFETY, 1.0)
    one.extra["/stall"] = stall()

    def pieces():
        yield b"first"
        with pytest.raises(requests.ReadTimeout):        # all the time that an answer may take
            requests.get(one.base + "/stall", timeout=timeout)
        yield b"second"

    govern_requests()
    assert requests.post(one.base + "/echo", data=pieces(), timeout=timeout).json()["body"] == "firstsecond"


# -- bodies as they come

def test_pieces_are_delivered_as_they_come(service):
    one, got = service(), [Event(), Event(), Event()]

    def events(record):
        yield chunked(end=b"")
        for number in range(3):
            yield b"%x\r\n%b\r\n" % (7, b"data:%d\n" % number)
            assert got[number].wait(SAFETY)              # the next one only when this one has arrived
        yield b"0\r\n\r\n"

    one.extra["/events"] = events
    govern_requests()
    with requests.get(one.base + "/events", stream=True) as response:
        for number, line in enumerate(response.iter_lines()):
            assert line == b"data:%d" % number
            got[number].set()
    assert number == 2


def test_a_generator_body_is_read_in_the_context_of_the_call(service, in_request):
    def pieces():
        for _ in range(3):
            yield current_request.get().id.encode()

    one = service()
    govern_requests()
    in_request()
    assert requests.post(one.base + "/echo", data=pieces()).json()["body"] == "id-of-the-request" * 3


def test_an_answer_before_the_end_of_the_upload_is_heard(serve):
    def refuse(sock, address):
        sock.recv(1000)
        sock.sendall(answer(b"too large", "Connection: close", status="413 Content Too Large"))
        while sock.recv(65536):
            pass

    def endless():
        while True:
            yield b"x" * 65536

    govern_requests()
    assert requests.post(f"http://127.0.0.1:{serve(refuse)}/", data=endless()).status_code == 413
