"""What a part that failed makes of the answer, and what ends with it."""

from __future__ import annotations

import gevent
import pytest
from gevent.queue import SimpleQueue

from gateway.aggregate.part_answer import MAX_ANSWER
from gateway.errors import (BadRequest, ClientDisconnected, ConnectFailed, DeadlineExceeded, PartFailed, PoolExhausted,
                            UpstreamTimeout)
from gateway.loop.disconnect import SWEEPER
from gateway.message import Response
from tests.aggregate.composing import ANN, Stage, Stream, answer_of, built, compose, parts, request
from tests.waiting import SAFETY

HTML = Response(200, [("Content-Type", "text/html")], b"<p>{}")
WRONG = [
    (ConnectFailed("10.0.0.5:8000 refused", "users"), 502, "A service behind the gateway cannot be reached.", "UF"),
    (UpstreamTimeout("10.0.0.5:8000", "users"), 504, "no answer in time", "UT"),
    (DeadlineExceeded("over"), 504, "no answer in time", "DT"),
    (PoolExhausted("10.0.0.5:8000"), 502, "A service behind the gateway is busy.", "UO"),
    (Response(404, [("Content-Type", "application/json")], b"{}"), 502, "answered 404", "PF"),
    (Response(500, []), 502, "answered 500", "PF"),
    (Response(302, [("Location", "/login")]), 502, "answered 302", "PF"),
    (HTML, 502, "answered text/html where JSON is expected", "PF"),
    (Response(200, [], b"{}"), 502, "answered without Content-Type where JSON is expected", "PF"),
    (Response(200, [("Content-Type", "application/jsonp")], b"{}"), 502, "answered application/jsonp where JSON is expected", "PF"),
    (Response(200, [("Content-Type", "application/json"), ("Content-Encoding", "br")], b"{}"), 502,
     "answered in the coding 'br', which was not asked for", "PF"),
    (b"", 502, "answered JSON that cannot be parsed", "PF"),
    (b"{", 502, "answered JSON that cannot be parsed", "PF"),
    (b'"\xff"', 502, "answered JSON that cannot be parsed", "PF"),
    (b"[" * 5000 + b"]" * 5000, 502, "answered JSON that cannot be parsed", "PF"),
    (b"[" * 500 + b"]" * 500, 502, "the answer is nested too deeply", "PF"),
    (b'"' + b"x" * MAX_ANSWER + b'"', 502, "answered more than 8 MB", "PF"),
]


@pytest.mark.parametrize("wrong, status, why, flag", WRONG)
def test_a_required_part_that_failed_is_the_answers_failure(wrong, status, why, flag):
    for others in ({}, {"other": "others:/", "another": "others:/"}):
        asked = request()
        with pytest.raises(PartFailed) as caught:
            compose({"user": "users:/"} | others, {"users:/": wrong, "others:/": 1}, asked)
        assert (caught.value.status, caught.value.part, caught.value.detail) == (status, "user", f"part 'user': {why}")
        assert caught.value.__cause__ is (wrong if isinstance(wrong, Exception) else None)
        assert asked.notes["parts"]["user"] == flag


@pytest.mark.parametrize("wrong, status, why, flag", WRONG)
def test_an_optional_part_that_failed_is_its_default(wrong, status, why, flag):
    asked = request()
    declared = {"list": {"from": "a:/", "optional": True}, "other": "others:/",
                "user": {"from": "a:/", "optional": True, "default": {"id": 0}}}
    body, response = compose(declared, {"a:/": wrong, "others:/": 1}, asked)
    assert body == {"list": None, "other": 1, "user": {"id": 0}}
    assert response.header("X-Partial") == "list, user"
    assert asked.notes["parts"]["list"] == asked.notes["parts"]["user"] == flag


@pytest.mark.parametrize("status, headers", [(404, []), (200, [("Content-Type", "text/html")])])
def test_an_answer_that_is_not_read_is_closed(status, headers):
    stream = Stream(b"{}")
    with pytest.raises(PartFailed):
        compose({"user": "users:/"}, {"users:/": Response(status, headers, stream)})
    assert stream.closed


def test_a_streamed_answer_is_read_to_its_limit_and_closed():
    stream = Stream(b'{"a"', b":1}")
    body = compose({"user": "users:/"}, {"users:/": Response(200, [("content-type", "text/json")], stream)})[0]
    assert body == {"user": {"a": 1}}
    assert stream.closed
    stream = Stream(*[b" " * 1024 ** 2] * 9)
    with pytest.raises(PartFailed, match="more than 8 MB"):
        compose({"user": "users:/"}, {"users:/": Response(200, [("Content-Type", "text/json")], stream)})
    assert stream.closed


def test_only_the_part_that_is_nested_too_deeply_has_failed():
    optional = {"from": "a:/", "optional": True}
    body, response = compose({"user": "b:/", "deep": optional, "also": {**optional, "pick": []}},
                             {"a:/": b'{"x":' + b"[" * 500 + b"]" * 500 + b"}", "b:/": ANN})
    assert (body, response.header("X-Partial")) == ({"user": ANN, "deep": None, "also": {}}, "deep")


@pytest.mark.parametrize("answer", [ConnectFailed("refused"), b"[" * 500 + b"]" * 500])
def test_a_default_that_is_no_json_is_an_error_and_ends(answer):
    with pytest.raises(TypeError, match="64-bit"):
        compose({"a": {"from": "a:/", "optional": True, "default": 10 ** 30}}, {"a:/": answer})


def test_a_failure_ends_the_other_parts_at_once():
    stage = Stage(slow=1, slower=2, bad=ConnectFailed("refused"), fast={"x": 3}, never=4)
    declared = parts(slow="slow:/", slower={"from": "slower:/", "optional": True}, bad="bad:/", fast="fast:/",
                     never="never:/{fast.x}{slow.x}")
    running = gevent.spawn(built(declared, stage), request())
    assert stage.begun(4) == {"slow", "slower", "bad", "fast"}
    stage.let("fast")
    stage.let("bad")
    with pytest.raises(PartFailed, match="part 'bad'"):
        running.get(timeout=SAFETY)
    assert sorted(stage.cancelled) == ["slow", "slower"]
    assert stage.begun(0) == set()


def test_nothing_starts_after_a_failure():
    stage = Stage(bad=ConnectFailed("refused"), good={"x": 1}, next=2)
    running = gevent.spawn(built(parts(bad="bad:/", good="good:/", next="next:/{good.x}"), stage), request())
    stage.begun(2)
    stage.let("bad", "good")                             # both go on in one turn of the loop, bad first
    with pytest.raises(PartFailed, match="part 'bad'"):
        running.get(timeout=SAFETY)
    assert stage.begun(0) == set()


@pytest.mark.parametrize("declared, flying", [({"a": "a:/"}, 1), ({"a": "a:/", "b": "b:/"}, 2)])
def test_when_the_request_ends_its_parts_end(declared, flying):
    stage = Stage(**dict.fromkeys(declared, 1))
    running = gevent.spawn(built(parts(**declared), stage), request())
    stage.begun(flying)
    running.kill(timeout=SAFETY)
    assert sorted(stage.cancelled) == sorted(declared)
    assert not stage.flying


class Connected:
    """The worker's handle on the client's connection."""

    def __init__(self, socket):
        self.socket = socket


@pytest.mark.parametrize("declared, flying", [({"a": "a:/"}, 1), ({"a": "a:/", "b": {"from": "b:/", "optional": True}}, 2)])
def test_when_the_client_goes_its_parts_end(declared, flying, serve):
    stage, ended = Stage(**dict.fromkeys(declared, 1)), SimpleQueue()

    def handle(sock, address):
        asked = request()
        asked.connection = Connected(sock)
        try:
            built(parts(**declared), stage)(asked)
        except Exception as error:
            ended.put(error)

    with gevent.socket.create_connection(("127.0.0.1", serve(handle))):
        stage.begun(flying)
    assert isinstance(ended.get(timeout=SAFETY), ClientDisconnected)
    assert not stage.flying


@pytest.mark.parametrize("answer", [1, ConnectFailed("refused")])
def test_the_client_is_watched_only_while_parts_are_under_way(answer):
    seen = []

    def send(upstream, call):
        seen.append(repr(SWEEPER))
        return answer_of(answer)

    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        asked = request()
        asked.connection = Connected(ours)
        built(parts(a={"from": "a:/", "optional": True}), send)(asked)
        with pytest.raises(PartFailed):
            built(parts(a="a:/{user.x}", user="a:/"), send)(asked)
    assert all("1 watched" in line for line in seen)
    assert "0 watched" in repr(SWEEPER)


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("others", [{}, {"other": "other:/"}])
def test_a_defect_is_no_failure_of_a_part(optional, others):
    with pytest.raises(ZeroDivisionError):
        compose({"user": {"from": "users:/", "optional": optional}} | others, {"users:/": ZeroDivisionError(), "other:/": 1})


@pytest.mark.parametrize("team, status, body", [
    ("teams:/{user.team_id}", "required", None),
    ({"from": "teams:/{user.team_id}", "optional": True}, "user, team", {"user": None, "team": None}),
    ({"from": "teams:/{user.team_id}", "optional": True, "default": 0}, "user, team", {"user": None, "team": 0}),
    ("teams:/{user.team_id:-7}", "user", {"user": None, "team": "seven"}),
])
def test_a_part_that_needs_an_optional_part_that_failed(team, status, body):
    declared = {"user": {"from": "users:/", "optional": True}, "team": team}
    answers = {"users:/": Response(500, []), "teams:/7": "seven"}
    if status == "required":
        with pytest.raises(PartFailed, match=r"part 'team': {user.team_id} is missing"):
            compose(declared, answers)
    else:
        composed, response = compose(declared, answers)
        assert (response.header("X-Partial"), composed) == (status, body)


def test_a_default_answers_the_parts_that_need_it():
    user = {"from": "users:/", "optional": True, "default": {"team_id": 7}}
    body, response = compose({"team": "teams:/{user.team_id}", "user": user}, {"users:/": Response(500, []), "teams:/7": "seven"})
    assert body == {"team": "seven", "user": {"team_id": 7}}
    assert response.header("X-Partial") == "user"


@pytest.mark.parametrize("declared, target, detail", [
    ({"list": "a:/?page={query.page}"}, "/", "query parameter 'page' is missing"),
    ({"other": "a:/", "list": "a:/?page={query.page}"}, "/", "query parameter 'page' is missing"),
    ({"other": "a:/", "list": "a:/{other.x}?page={query.page}"}, "/?pag=1", "query parameter 'page' is missing"),
    ({"other": "a:/", "list": {"from": "a:/", "headers": {"X-T": "{header.X-Tenant}"}}}, "/", "header field 'X-Tenant' is missing"),
    ({"other": "a:/", "list": {"from": "a:/", "headers": {"X-P": "{query.p}"}}}, "/?p=%0d%0aX:%20y",
     "query parameter 'p' has control characters"),
    ({"other": "a:/", "list": "a:/{query.p}"}, "/?p=..", "query parameter 'p' is '..', which is no path segment"),
    ({"other": "a:/", "list": {"from": "a:/{other.x}", "json": {"a": "{body.a}"}}}, "/", "field of the body 'a' is missing"),
])
def test_what_the_client_left_out_is_found_before_anything_is_sent(declared, target, detail):
    calls = []
    with pytest.raises(BadRequest) as caught:
        compose(declared, {}, request(target), calls)
    assert (caught.value.status, caught.value.detail, calls) == (400, detail, [])


def test_what_the_client_left_out_of_an_optional_part_is_that_parts_failure():
    body, response = compose({"list": {"from": "a:/?page={query.page}", "optional": True}, "user": "a:/"}, {"a:/": 1})
    assert (body, response.header("X-Partial")) == ({"list": None, "user": 1}, "list")
