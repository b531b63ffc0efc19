"""Copies of a request: what they share with it, and what they do not."""

from __future__ import annotations

from types import SimpleNamespace

from gateway import request_copies
from gateway.deadline import Deadline
from gateway.message import Attempt, Request


def original(method: str = "GET", **attributes: object) -> Request:
    request = Request(method, "/a?b", [("Range", "bytes=0-1"), ("Accept", "x")], host="shop.test", deadline=Deadline(5))
    request.attempts.append(Attempt("shop", "10.0.0.1:80"))
    request.notes["cache"] = "hit"
    for name, value in attributes.items():
        setattr(request, name, value)
    return request


def test_other_fields_and_nothing_else():
    request = original()
    copy = request_copies.edit(request, {"range"}, [("If-None-Match", '"v"')])
    assert copy.headers == [("Accept", "x"), ("If-None-Match", '"v"')]
    assert request.headers == [("Range", "bytes=0-1"), ("Accept", "x")]
    assert copy.attempts is request.attempts and copy.notes is request.notes and copy.deadline is request.deadline
    assert (copy.method, copy.target, copy.host) == (request.method, request.target, request.host)


def test_a_detached_request_has_a_time_and_a_log_of_its_own():
    request = original(connection=SimpleNamespace(environ=lambda request: {}))
    request.deadline.at -= 4.0
    copy = request_copies.detach(request)
    assert copy.deadline.left() > 4.0 > request.deadline.left()
    assert (copy.attempts, copy.notes, copy.connection) == ([], {}, None)
    assert request.attempts and request.notes and request.connection is not None


def test_a_detached_head_is_a_get():
    request = original("HEAD")
    assert (request_copies.detach(request).method, request.method) == ("GET", "HEAD")


def test_a_detached_request_has_what_the_server_said_but_for_the_client():
    environ = {"gateway.connection": object(), "PATH_INFO": "/a"}
    assert request_copies.detach(original(environ=environ)).environ == {"PATH_INFO": "/a"}
    assert "gateway.connection" in environ


def test_what_the_server_says_comes_from_the_connection_before_that_is_gone():
    connection = SimpleNamespace(environ=lambda request: {"PATH_INFO": request.path, "gateway.connection": connection})
    assert request_copies.detach(original(connection=connection)).environ == {"PATH_INFO": "/a"}
