"""The outermost step: whatever happens below, one id, one answer, one line, one count."""

import json
import re
import subprocess
import sys

import gevent
import pytest

from gateway.config import Route
from gateway.deadline import Deadline
from gateway.errors import (ClientDisconnected, ConnectFailed, DeadlineExceeded, MethodNotAllowed, NoRoute, UpstreamTimeout,
                            UpstreamTruncated)
from gateway.message import Attempt, Request, Response, RouteEntry
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import Registry
from gateway.telemetry.observe import Observe, new_id

ROUTE = Route(path="/users/{id}", upstream="users")
FRESH = re.compile(r"[0-9a-f]{32}")


class Lines:
    """A request log that keeps its lines."""

    destination = "memory"

    def __init__(self, enabled=True):
        self.enabled = enabled
        self.lines = []

    def write(self, line):
        self.lines.append(json.loads(line))


class Seen:
    """An Observe around ``handler``, with what it wrote and counted."""

    def __init__(self, handler, **settings):
        self.log = Lines()
        self.registry = Registry()
        self.step = Observe(handler, self.log, self.registry, **settings)

    def __call__(self, request):
        return self.step(request)

    @property
    def line(self):
        assert len(self.log.lines) == 1
        return self.log.lines[0]

    def metrics(self):
        """Sample lines, without those of time and version."""
        text = render(self.registry)[0].decode()
        return {line for line in text.splitlines() if line.startswith("gateway_") and "_seconds" not in line
                and not line.startswith(("gateway_build", "gateway_metrics"))}

    def timed(self):
        """How many requests are in the histogram."""
        return sum(float(line.rpartition(" ")[2]) for line in render(self.registry)[0].decode().splitlines()
                   if line.startswith("gateway_request_seconds_count"))


def no_handler(request):
    raise AssertionError("nothing is handled here")


def request(method="GET", route=ROUTE, headers=(), trusted=False):
    made = Request(method, "/users/7", list(headers), host="shop.test", peer="10.0.0.9", deadline=Deadline(1))
    made.entry = None if route is None else RouteEntry(route, no_handler)
    made.trusted = trusted
    return made


def answering(*args, **settings):
    return lambda request: Response(*args, **settings)


def raising(error):
    def handler(request):
        raise error
    return handler


class Pieces:
    """A streamed body; an exception among its pieces is raised."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.closed = 0

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self):
        self.closed += 1


def test_answer_is_counted_and_logged_once():
    seen = Seen(answering(200, [("A", "b")], b"hello"))
    response = seen(request())
    assert (response.status, response.body, response.header("A")) == (200, b"hello", "b")
    assert response.header("X-Request-Id") == seen.line["id"]
    assert (seen.line["route"], seen.line["target"], seen.line["status"], seen.line["bytes"], seen.line["flag"]) == (
        "/users/{id}", "upstream", 200, 5, "-")
    assert seen.metrics() == {
        'gateway_requests_total{method="GET",route="/users/{id}",status="200"} 1.0',
        'gateway_response_bytes_total{route="/users/{id}"} 5.0', "gateway_requests_in_flight 0.0"}
    assert seen.timed() == 1


@pytest.mark.parametrize("error, status, flag", [
    (NoRoute("no route"), 404, "NR"), (MethodNotAllowed(["GET"]), 405, "MN"), (DeadlineExceeded("over"), 504, "DT"),
    (ConnectFailed("refused", "users", "a:1"), 502, "UF"), (UpstreamTimeout("slow"), 504, "UT"),
    (ClientDisconnected("gone"), 499, "DC"), (ZeroDivisionError("division by zero"), 500, "IE"), (KeyError("x"), 500, "IE")],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value))
@pytest.mark.parametrize("route, name", [(ROUTE, "/users/{id}"), (None, "none")])
def test_every_error_is_an_answer_counted_and_logged(error, status, flag, route, name, caplog):
    seen = Seen(raising(error))
    response = seen(request(route=route))
    assert response.status == status
    problem = json.loads(response.body)
    assert problem["status"] == status and problem["request_id"] == seen.line["id"] == response.header("X-Request-Id")
    assert (seen.line["status"], seen.line["flag"], seen.line["route"], seen.line["error"]) == (status, flag, name, problem["code"])
    assert seen.metrics() >= {
        f'gateway_requests_total{{method="GET",route="{name}",status="{status}"}} 1.0',
        f'gateway_request_flags_total{{flag="{flag}",route="{name}"}} 1.0', "gateway_requests_in_flight 0.0"}
    assert ("Traceback" in caplog.text) is (status == 500)


def test_what_a_defect_says_is_in_the_log_and_not_in_the_answer():
    seen = Seen(raising(RuntimeError("password=hunter2")))
    response = seen(request())
    assert b"hunter2" not in response.body
    assert seen.line["detail"] == "RuntimeError: password=hunter2"


@pytest.mark.parametrize("kill", [gevent.GreenletExit(), SystemExit(), KeyboardInterrupt(), gevent.Timeout(1)],
                         ids=lambda kill: type(kill).__name__)
def test_kill_is_counted_and_goes_on(kill):
    seen = Seen(raising(kill))
    with pytest.raises(type(kill)):
        seen(request())
    assert (seen.line["status"], seen.line["flag"]) == (0, "KL")
    assert seen.metrics() >= {"gateway_requests_in_flight 0.0",
                              'gateway_requests_total{method="GET",route="/users/{id}",status="0"} 1.0'}


def test_greenlet_killed_in_the_middle():
    seen = Seen(lambda request: gevent.sleep(60))
    greenlet = gevent.spawn(seen, request())
    gevent.sleep(0)
    assert "gateway_requests_in_flight 1.0" in seen.metrics()
    greenlet.kill()
    assert seen.line["flag"] == "KL"
    assert "gateway_requests_in_flight 0.0" in seen.metrics()


def test_renderer_that_fails_still_gives_an_answer(caplog):
    def broken(error, request):
        raise ValueError("no page")
    seen = Seen(raising(NoRoute("x")), problems=broken)
    response = seen(request())
    assert (response.status, response.body) == (404, b"There is nothing at this address.")
    assert response.header("X-Request-Id") == seen.line["id"]
    assert "no page" in caplog.text


# Streams: pieces, how many the server takes (None: all), then the status, flag and bytes that are logged.

STREAMS = {
    "whole": ((b"ab", b"cd"), None, "-", 4),
    "empty": ((), None, "-", 0),
    "cut by the upstream": ((b"ab", UpstreamTruncated("2 of 4 bytes")), None, "UX", 2),
    "upstream stalls": ((b"ab", b"c", UpstreamTimeout("silence")), None, "UT", 3),
    "client gone while waiting": ((b"ab", ClientDisconnected("gone")), None, "DC", 2),
    "defect": ((b"ab", ZeroDivisionError()), None, "IE", 2),
    "killed": ((b"ab", gevent.GreenletExit()), None, "KL", 2),
    "client gone after a piece": ((b"ab", b"cd", b"ef"), 2, "DC", 2),
    "never read": ((b"ab",), 0, "DC", 0),
}


@pytest.mark.parametrize("pieces, taken, flag, size", STREAMS.values(), ids=STREAMS)
def test_stream_is_measured_at_its_end(pieces, taken, flag, size):
    body = Pieces(*pieces)
    seen = Seen(answering(200, [], body))
    response = seen(request())
    assert response.header("X-Request-Id")
    assert seen.log.lines == []
    assert "gateway_requests_in_flight 1.0" in seen.metrics()
    bad = [piece for piece in pieces if isinstance(piece, BaseException)]
    got = []

    def take():
        for piece in response.body if taken != 0 else ():
            got.append(piece)
            if len(got) == taken:
                return

    if bad:
        with pytest.raises(type(bad[0])):
            take()
    else:
        take()
    response.body.close()
    response.body.close()
    assert body.closed == 2
    assert got == [piece for piece in pieces if isinstance(piece, bytes)][:taken]
    assert (seen.line["status"], seen.line["flag"], seen.line["bytes"]) == (200, flag, size)
    assert ("error" in seen.line) is (flag not in ("-", "KL"))
    assert "gateway_requests_in_flight 0.0" in seen.metrics()
    assert 'gateway_requests_total{method="GET",route="/users/{id}",status="200"} 1.0' in seen.metrics()


@pytest.mark.parametrize("method, status", [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_stream_that_nobody_has_to_read(method, status):
    seen = Seen(answering(status, [], Pieces(b"unread")))
    seen(request(method)).body.close()
    assert (seen.line["flag"], seen.line["bytes"]) == ("-", 0)


def test_stream_whose_close_fails_is_logged():
    class Stubborn(Pieces):
        def close(self):
            raise OSError("no")
    seen = Seen(answering(200, [], Stubborn()))
    with pytest.raises(OSError):
        seen(request()).body.close()
    assert seen.line["flag"] == "DC"


def test_head_sends_no_bytes():
    seen = Seen(answering(200, [], b"five!"))
    seen(request("HEAD"))
    assert seen.line["bytes"] == 0


@pytest.mark.parametrize("end, flag", [(None, "-"), (UpstreamTruncated("x"), "UX"), (OSError("x"), "IE"),
                                       (gevent.GreenletExit(), "KL")])
def test_upgrade_is_over_when_the_connection_is(end, flag):
    made = request()

    def takeover():
        made.notes["websocket"] = {"sent": 3}
        if end is not None:
            raise end

    def handler(request):
        response = Response(101, [])
        response.takeover = takeover
        return response

    seen = Seen(handler)
    response = seen(made)
    assert seen.log.lines == [] and "gateway_requests_in_flight 1.0" in seen.metrics()
    if end is None:
        response.takeover()
    else:
        with pytest.raises(type(end)):
            response.takeover()
    assert (seen.line["status"], seen.line["flag"], seen.line["notes"]) == (101, flag, {"websocket": {"sent": 3}})
    assert "gateway_requests_in_flight 0.0" in seen.metrics()
    assert seen.timed() == 0, "the length of a conversation is no response time"


@pytest.mark.parametrize("trusted, sent, kept", [
    (True, "from-nginx.0001_A", True), (True, "a" * 8, True), (True, "a" * 128, True),
    (True, "a" * 7, False), (True, "a" * 129, False), (True, "", False), (True, "spaces are bad", False),
    (True, "newline12\n", False), (True, "quote\"12345", False), (True, "latin-\xe9-12345", False),
    (False, "from-anybody", False)])
def test_request_id(trusted, sent, kept):
    made = request(headers=[("Accept", "*/*"), ("x-request-ID", sent)], trusted=trusted)
    seen = Seen(answering(200, []))
    response = seen(made)
    assert (made.id == sent) is kept
    assert kept or FRESH.fullmatch(made.id)
    assert response.headers == [("X-Request-Id", made.id)]


@pytest.mark.parametrize("headers", [[], [("X-Request-Id", "theirs")], [("x-request-id", "a"), ("A", "b"), ("X-REQUEST-ID", "c")]])
def test_answer_has_exactly_one_id(headers):
    response = Seen(answering(200, headers.copy()))(request())
    ids = response.header("X-Request-Id"), [value for name, value in response.headers if name.lower() == "x-request-id"]
    assert ids[1] == [ids[0]] and FRESH.fullmatch(ids[0])
    assert [field for field in response.headers if field[0].lower() != "x-request-id"] == [
        field for field in headers if field[0].lower() != "x-request-id"]


def test_id_is_known_to_the_steps_inside():
    seen = Seen(lambda request: Response(200, [], request.id.encode()))
    response = seen(request())
    assert response.body.decode() == response.header("X-Request-Id")


def test_ids_do_not_repeat():
    ids = {new_id() for _ in range(2000)}
    assert len(ids) == 2000 and all(map(FRESH.fullmatch, ids))


def test_forked_child_makes_ids_of_its_own():
    """The parent has ids in stock; a child that kept them would give the same ones."""
    program = ("import os; from gateway.telemetry.observe import new_id; new_id()\n"
               "pid = os.fork(); ids = [new_id() for _ in range(100)]\n"
               "if pid: os.waitpid(pid, 0)\n"
               "os.write(1, ' '.join(ids).encode() + b'\\n')")
    child, parent = subprocess.check_output([sys.executable, "-c", program]).decode().splitlines()
    assert len(set(child.split()) | set(parent.split())) == 200


def test_what_strangers_choose_does_not_grow_the_metrics():
    status = [200]
    seen = Seen(lambda request: Response(status[0], []))
    entry = RouteEntry(ROUTE, no_handler)

    def ask(method="GET"):
        made = request(method)
        made.entry = entry
        seen(made)

    for number in range(50):
        ask(f"M{number}")
    status[0] = 777
    ask()
    assert {line for line in seen.metrics() if line.startswith("gateway_requests_total")} == {
        'gateway_requests_total{method="OTHER",route="/users/{id}",status="200"} 50.0',
        'gateway_requests_total{method="GET",route="/users/{id}",status="OTHER"} 1.0'}
    assert len(entry.numbers._requests) == 1


def attempted(*outcomes):
    """A handler whose attempts have these (instance, status, flag)."""
    def handler(request):
        for instance, status, flag in outcomes:
            attempt = Attempt("users", instance)
            attempt.status, attempt.flag, attempt.seconds = status, flag, 0.5
            request.attempts.append(attempt)
        return Response(200, [])
    return handler


def test_attempts_are_counted_by_instance_and_outcome():
    seen = Seen(attempted(("a:1", 0, "UF"), ("b:1", 200, ""), ("b:1", 201, ""), ("b:1", 404, ""), ("b:1", 0, "")))
    seen(request())
    assert {line for line in seen.metrics() if "attempts" in line} == {
        f'gateway_upstream_attempts_total{{instance="{instance}",outcome="{outcome}",upstream="users"}} {count}.0'
        for instance, outcome, count in (("a:1", "UF", 1), ("b:1", "2xx", 2), ("b:1", "4xx", 1), ("b:1", "none", 1))}
    assert 'gateway_upstream_seconds_count{upstream="users"} 5.0' in render(seen.registry)[0].decode()


def test_instances_beyond_the_limit_are_counted_together():
    seen = Seen(attempted(*((f"host{number}:80", 200, "") for number in range(5))), most_instances=2)
    seen(request())
    seen(request())
    assert {line for line in seen.metrics() if "attempts" in line} == {
        'gateway_upstream_attempts_total{instance="host0:80",outcome="2xx",upstream="users"} 2.0',
        'gateway_upstream_attempts_total{instance="host1:80",outcome="2xx",upstream="users"} 2.0',
        'gateway_upstream_attempts_total{instance="OTHER",outcome="2xx",upstream="OTHER"} 6.0'}


def test_log_that_is_off_costs_no_line():
    seen = Seen(answering(200, []))
    seen.log.enabled = False
    seen(request())
    assert seen.log.lines == []
    assert seen.timed() == 1


def test_pipeline_can_look_inside():
    handler = answering(200, [])
    step = Seen(handler).step
    assert step.next is handler
    assert repr(step) == "observe: id, metrics, log to memory, errors become answers"
