"""A view as a target: its time, the client's body, what it may answer; and Flask's rules as routes."""

from __future__ import annotations

import gevent
import pytest
from flask import Flask, current_app, request
from gevent.event import Event
from werkzeug.routing import BaseConverter, Map, Rule

from gateway.config import Route
from gateway.deadline import Deadline
from gateway.errors import BodyTimeout, DeadlineExceeded, TruncatedBody
from gateway.http.fields import UnsafeField
from gateway.message import Body, Request
from gateway.tasks import current_request
from gateway.views import View, covers, pattern_of, undeclared_routes, without_view
from tests.waiting import SAFETY


@pytest.mark.parametrize("rule, pattern", [
    ("/", "/"), ("/users", "/users"), ("/users/<int:id>", "/users/{id:int}"), ("/users/<name>/", "/users/{name}/"),
    ("/f/<path:rest>", "/f/{rest:path}"), ("/f/<path:rest>/edit", "/f/{rest:path}/edit"),
    ("/f/<uuid:id>.json", "/f/{id}.json"),
    ("/v<int:n>/x", "/v{n:int}/x"), ("/<a>-<int:b>", "/{a}-{b}"), ("/<a><b>", "/{a}"),
    ("/a/<any(x, y):which>", "/a/{which}"), ("/a/<string(length=2):s>", "/a/{s}"),
    ("/a/<int(signed=True):n>", "/a/{n}"), ("/a/<int(signed=False):n>", "/a/{n:int}"),
    ("/a/<int(0, None, None, True):n>", "/a/{n}"), ("/a/<int(min=3):n>", "/a/{n:int}"),
    ("/a/<float:x>", "/a/{x}"), ("/a/v<path:rest>/b", "/a/{rest:path}"),
    ("/a/<name>.<path:rest>", "/a/{name:path}"), ("/a/<deep:where>/b", "/a/{where:path}"), ("/<path:a>/x/<path:b>", "/{a:path}"),
    ("/<path:a>/<int:b>.<ext>", "/{a:path}/{b}.{ext}"), ("/a/<word:w>", "/a/{w}")])
def test_a_flask_rule_as_a_pattern(rule, pattern):
    own = {name: type(name, (BaseConverter,), {"regex": regex}) for name, regex in (("deep", "[a-z/]+"), ("word", "[a-z]+"))}
    (bound,) = Map([Rule(rule, endpoint="x")], converters=own).iter_rules()
    assert pattern_of(bound) == pattern


@pytest.mark.parametrize("path, strict, answered", [
    ("/a", True, {"/a"}), ("/a", False, {"/a", "/a/"}), ("/a/", True, {"/a/"}), ("/a/", False, {"/a/", "/a"}),
    ("/<n>", False, {"/x", "/x/"}), ("/f/<path:p>", False, {"/f/x", "/f/x/"}), ("/", False, {"/"})])
def test_the_routes_of_a_rule_take_what_flask_answers_by_slashes(path, strict, answered):
    """Whatever Flask answers, also with a redirect, reaches it."""
    from gateway.routing.table import Table
    rule = Rule(path, endpoint="x", methods=["GET"], strict_slashes=strict)
    flask = Map([rule]).bind("a.test")
    table = Table((route, route) for route in undeclared_routes([rule], []))
    for target in answered:
        assert flask.test(target)
        assert table.match(Request("GET", target, [], host="a.test"))


@pytest.mark.parametrize("wide, narrow, answer", [
    ("/*", "/a", True), ("/*", "/", True), ("/a/*", "/a", False), ("/a/*", "/a/{x}/b", True), ("/a/{rest:path}", "/a/b/c", True),
    ("/{x}", "/a", True), ("/{x}", "/a/b", False), ("/{x:int}", "/7", True), ("/{x:int}", "/a", False), ("/{x:int}", "/{y}", False),
    ("/{x}", "/{y:int}", True), ("/{x}", "/{y:path}", False), ("/{x}", "/", False), ("/a", "/a", True), ("/a", "/b", False),
    ("/a/{x}", "/a/*", False), ("/a/b", "/a", False), ("/{x}", "/{y}.json", True), ("/{x}.json", "/{y}", False),
    ("/{x}.json", "/a.json", True), ("/{x}.json", "/{y:int}.json", True), ("/{x:int}.json", "/{y}.json", False),
    ("/{x}.json", "/{y}.xml", False), ("/{r:path}/edit", "/a/{x}/edit", True), ("/{r:path}/edit", "/edit", False),
    ("/{r:path}/edit", "/{q:path}/edit", True), ("/{r:path}/edit", "/{q:path}", False), ("/*", "/{q:path}/edit", True),
    ("/{r:path}/edit", "//a/edit", False), ("/{x}/edit", "/{r:path}/edit", False), ("/{", "/{", False)])
def test_covers(wide, narrow, answer):
    assert covers(wide, narrow) is answer


def rules(*paths, methods=("GET",)):
    return list(Map([Rule(path, endpoint=path, methods=methods) for path in paths]).iter_rules())


def test_undeclared_views_become_routes_with_their_methods():
    routes = undeclared_routes(rules("/users/<int:id>", "/list/"), [Route(path="/*", upstream="legacy")])
    assert {(route.path, route.methods, route.view) for route in routes} == {
        ("/users/{id:int}", ("GET", "HEAD"), True), ("/list/", ("GET", "HEAD"), True), ("/list", ("GET", "HEAD"), True)}


@pytest.mark.parametrize("declared, left", [
    (Route(path="/users/{x}", view=True), None), (Route(path="/*", view=True), None),
    (Route(path="/users/{x}", view=True, methods=("GET", "HEAD")), ("POST",)),
    (Route(path="/users/{x}", view=True, host="a.test"), ("GET", "HEAD", "POST")),
    (Route(path="/users/{x}", view=True, query={"a": "*"}), ("GET", "HEAD", "POST")),
    (Route(path="/users/{x}", upstream="legacy"), ("GET", "HEAD", "POST")),
    (Route(path="/other/*", view=True), ("GET", "HEAD", "POST"))])
def test_a_declared_view_route_takes_the_rules_it_covers(declared, left):
    routes = undeclared_routes(rules("/users/<id>", methods=("GET", "POST")), [declared])
    assert [route.methods for route in routes] == ([] if left is None else [left])


def test_rules_that_are_one_pattern_make_one_route():
    found = undeclared_routes(rules("/f/<name>.json", "/f/<uuid:id>", "/f/<int:n>"), [])
    assert sorted(route.path for route in found) == ["/f/{id}", "/f/{n:int}", "/f/{name}.json"]


def test_a_declared_view_without_a_flask_rule():
    declared = [Route(path="/reports/{name}", view=True), Route(path="/users/{id}", view=True), Route(path="/x", upstream="u")]
    assert [route.path for route in without_view(rules("/users/<id>"), declared)] == ["/reports/{name}"]


def test_flasks_own_map_is_understood():
    app = Flask("x", static_folder=None)
    app.add_url_rule("/a/<int:n>", view_func=lambda n: str(n), methods=["POST"])
    assert [(route.path, route.methods) for route in undeclared_routes(app.url_map.iter_rules(), [])] == [
        ("/a/{n:int}", ("OPTIONS", "POST"))]


# -- the view as a target

def asked(body: Body | None = None, seconds: float = SAFETY, clock=None) -> Request:
    made = Request("POST", "/x", [], body, host="a.test", deadline=Deadline(seconds, clock) if clock else Deadline(seconds))
    made.id = "id-of-the-request"
    made.environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/x", "SERVER_NAME": "a.test", "SERVER_PORT": "80",
                    "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.errors": None}
    return made


def view_of(function) -> View:
    app = Flask("x", static_folder=None)
    app.add_url_rule("/x", view_func=function, methods=["POST"], endpoint="x")
    app.testing = True                                   # errors come out as they are
    return View(app.wsgi_app)


def test_a_view_answers_with_what_flask_says():
    answer = view_of(lambda: ("text", 201, {"X-A": "\xe9"}))(asked())
    assert (answer.status, answer.reason, answer.body) == (201, "CREATED", b"text")
    assert answer.header("X-A") == "\xe9" and current_request.get() is None


@pytest.mark.parametrize("answer, error, text", [
    (("", 200, {"Content-Disposition": "attachment; filename=\u0142.txt"}), UnsafeField, "beyond latin-1.*Content-Disposition"),
    (("", 200, {"X-A": "a\x01b"}), UnsafeField, "control character.*X-A"),
    (("", 200, {"a b": "c"}), UnsafeField, "not a field name"),
    (("", "200 \u0142"), ValueError, "no HTTP status"), (("", 42), ValueError, "no HTTP status"),
    (("", "200 O\nK"), ValueError, "no HTTP status")])
def test_what_cannot_be_sent_is_the_views_error_and_its_body_is_closed(answer, error, text):
    closed = []

    def view():
        made = current_app.make_response(answer)
        made.call_on_close(lambda: closed.append(True))
        return made

    with pytest.raises(error, match=text):
        view_of(view)(asked())
    assert closed == [True] and current_request.get() is None


@pytest.mark.parametrize("swallow", [None, Exception])
def test_a_view_does_not_outlive_its_time_whatever_it_catches(swallow):
    caught = []

    def view():
        while True:
            try:
                Event().wait(SAFETY)
            except swallow or () as error:
                caught.append(type(error))

    with pytest.raises(DeadlineExceeded):
        view_of(view)(asked(seconds=0.02))
    assert caught == ([DeadlineExceeded] if swallow else []) and current_request.get() is None


def test_a_deadline_that_is_over_starts_no_view():
    ran = []
    made = asked()
    made.deadline.at = 0.0
    with pytest.raises(DeadlineExceeded):
        view_of(lambda: ran.append(1))(made)
    assert not ran and current_request.get() is None


def pieces(*made):
    """A body's reader: each of them in turn, called."""
    left = list(made)
    return Body(lambda size: left.pop(0)() if left else b"", None)


def test_waiting_for_the_clients_body_does_not_take_the_views_time():
    now = [0.0]

    def slow():
        now[0] += 60                                     # seconds, of a deadline of two
        gevent.sleep(0)
        return b"piece"

    made = asked(pieces(slow, slow, slow), seconds=2, clock=lambda: now[0])
    assert view_of(lambda: request.get_data())(made).body == b"piece" * 3
    assert made.deadline.left() == 2


def test_the_time_outside_of_reading_does():
    def late():
        Event().wait(0.05)
        return b"piece"

    def view():
        request.get_data()
        Event().wait(SAFETY)

    with pytest.raises(DeadlineExceeded):
        view_of(view)(asked(pieces(late), seconds=0.02))


def test_a_body_that_stands_still_ends_the_view():
    never = Event()
    view = view_of(lambda: request.get_data())
    view.silence = 0.02
    with pytest.raises(BodyTimeout):
        view(asked(pieces(lambda: b"piece", lambda: never.wait(SAFETY)), seconds=0.01))


def test_the_errors_of_a_body_reach_the_view():
    def broken():
        raise TruncatedBody("ended early")

    with pytest.raises(TruncatedBody):
        view_of(lambda: request.get_data())(asked(pieces(broken)))


def test_a_streamed_answer_may_read_the_body_and_take_its_time():
    def view():
        source = request.stream

        def stream():
            while piece := source.read(5):
                yield piece
        return stream()

    answer = view_of(view)(asked(pieces(lambda: b"piece", lambda: b"piece"), seconds=SAFETY))
    assert list(answer.body) == [b"piece", b"piece"]
    answer.body.close()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_strangers_word_for_a_proxys_does_not_reach_a_view(trusted):
    seen = {}

    def wsgi(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    request = Request("GET", "/", [("X-Forwarded-Host", "evil.test"), ("X-Original-URL", "/admin"), ("Forwarded", "for=1"),
                                   ("X-Mine", "1")], host="shop.test", deadline=Deadline(5))
    request.trusted = trusted
    request.environ = {}
    assert View(wsgi)(request).status == 200
    assert ("HTTP_X_FORWARDED_HOST" in seen, "HTTP_X_ORIGINAL_URL" in seen, "HTTP_FORWARDED" in seen) == (trusted,) * 3
    assert seen["HTTP_X_MINE"] == "1"
