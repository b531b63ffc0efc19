"""The environ at both ends: read once from the server, built once for the application, and what steps edit in between is seen."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.deadline import Deadline
from gateway.incoming.accept import Accept
from gateway.incoming.request import RequestFactory
from gateway.message import Body, Handler, Request, Response
from gateway.tasks import Guard
from gateway.wsgi import environ_of, without_client
from tests.waiting import SAFETY


def server(**changes: Any) -> Any:
    """What a server gives."""
    return {
        "REQUEST_METHOD": "GET", "RAW_URI": "/a%2Fb?c", "PATH_INFO": "/a/b", "QUERY_STRING": "c", "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "HTTP_HOST": "a.test", "REMOTE_ADDR": "10.0.0.9",
        "wsgi.input": None, "gunicorn.socket": object(), **changes}


def application(environ: Any, step: Handler | None = None) -> dict[str, Any]:
    """The environ that an application sees of a request. Nobody edits that of the server."""
    given = dict(environ)
    found: list[dict[str, Any]] = []

    def target(request: Request) -> Response:
        if step is not None:
            step(request)
        with Guard(request.deadline) as guard:
            found.append(environ_of(request, guard, SAFETY))
        return Response(200, [])

    Accept(target)(RequestFactory(("10.0.0.9",), SAFETY)(environ))
    assert environ == given
    return found[0]


def edit(**attributes: Any) -> Any:
    def step(request: Request) -> None:
        for name, value in attributes.items():
            setattr(request, name, value)
    return step


@pytest.mark.parametrize("step, seen", [
    (None, {"REQUEST_METHOD": "GET", "PATH_INFO": "/a/b", "QUERY_STRING": "c", "RAW_URI": "/a%2Fb?c", "HTTP_HOST": "a.test"}),
    (edit(method="PUT"), {"REQUEST_METHOD": "PUT"}),
    (edit(headers=[("X-A", "1"), ("x-a", "2"), ("Content-Type", "text/x")]), {"HTTP_X_A": "1,2", "CONTENT_TYPE": "text/x"}),
    (edit(target="/%C3%A9?d", path="/%C3%A9", query="d"), {"PATH_INFO": "/\xc3\xa9", "QUERY_STRING": "d", "RAW_URI": "/%C3%A9?d"}),
    (edit(target="/x", path="/x", query=None), {"PATH_INFO": "/x", "QUERY_STRING": ""}),
    (edit(host="b.test", scheme="https", client="1.1.1.1"),
     {"HTTP_HOST": "b.test", "wsgi.url_scheme": "https", "REMOTE_ADDR": "1.1.1.1"}),
])
def test_what_steps_have_edited_is_what_an_application_sees(step, seen):
    environ = application(server(), step)
    assert {name: environ.get(name) for name in seen} == seen


@pytest.mark.parametrize("received, seen", [
    ({"RAW_URI": "http://b.test:/x?y", "PATH_INFO": "/x"}, {"RAW_URI": "/x?y", "PATH_INFO": "/x", "HTTP_HOST": "b.test"}),
    ({"RAW_URI": "http://b.test", "PATH_INFO": ""}, {"RAW_URI": "/", "PATH_INFO": "/", "HTTP_HOST": "b.test"}),
    ({"HTTP_HOST": "b.test:"}, {"HTTP_HOST": "b.test"}),
    ({"REQUEST_METHOD": "OPTIONS", "HTTP_MAX_FORWARDS": "7"}, {"HTTP_MAX_FORWARDS": "6"}),
    ({"HTTP_CONNECTION": "x-a", "HTTP_X_A": "1"}, {"HTTP_X_A": None}),
    ({"HTTP_X_FORWARDED_PREFIX": "/shop"}, {"SCRIPT_NAME": "/shop", "PATH_INFO": "/a/b"}),
])
def test_what_the_gateway_has_decided_is_what_an_application_sees(received, seen):
    environ = application(server(**received))
    assert {name: environ.get(name) for name in seen} == seen


@pytest.mark.parametrize("script, target, path", [
    ("/shop", "/shop/x", "/x"), ("/shop", "/shop", ""), ("/shop", "/shopping", "/shopping"), ("", "/shop/x", "/shop/x")])
def test_a_target_below_the_prefix_of_a_middleware_stays_below_it(script, target, path):
    environ = application(server(SCRIPT_NAME=script), edit(target=target, path=target, query=None))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script, path)


@pytest.mark.parametrize("body, content", [(None, b""), (Body.of(b"abc"), b"abc")])
def test_the_body_is_that_of_the_request(body, content):
    assert application(server(**{"wsgi.input": "the server's"}), edit(body=body))["wsgi.input"].read() == content


class Connection:
    """As that of the worker's fast lane, which makes an environ when it is needed."""

    def environ(self, request: Request) -> dict[str, Any]:
        return {"SERVER_NAME": "a.test", "PATH_INFO": request.path, "gateway.connection": self, "gunicorn.socket": object(),
                "wsgi.early_hints": print}


@pytest.mark.parametrize("environ, connection, left", [
    (None, None, None), (None, Connection(), {"SERVER_NAME": "a.test", "PATH_INFO": "/x"}),
    ({"SERVER_NAME": "b.test", "gateway.connection": object()}, Connection(), {"SERVER_NAME": "b.test"})])
def test_a_copy_beside_a_request_has_nothing_of_its_client(environ, connection, left):
    request = Request("GET", "/x", [], deadline=Deadline(SAFETY))
    request.environ, request.connection = environ, connection
    assert without_client(request) == left
