"""What code of users and tests can do with objects and functions of compiled modules (docs/compiled.md)."""

from __future__ import annotations

import copy
import inspect
import pickle
import weakref
from types import SimpleNamespace

import pytest

from gateway import message
from gateway.deadline import Deadline
from gateway.extension import run_as_current
from gateway.message import Attempt, Body, Call, Request, Response, RouteEntry
from tests.aggregate.composing import built
from tests.compiled import COMPILED

COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


class Teapot(Response):
    """One of users: with an attribute of its own, a method and one that it overrides."""

    def __init__(self, tea: str) -> None:
        super().__init__(418, [("Content-Type", "text/plain")], tea.encode(), "I'm a teapot")
        self.tea = tea

    def header(self, name: str, default: str = "") -> str:
        return self.tea if name == "Tea" else super().header(name, default)


class Tagged(Request):
    """One with ``__slots__``, and the constructor of its base."""

    __slots__ = ("tag",)

    def shout(self) -> str:
        return f"{self.method}!"


def test_users_derive_from_response():
    response = run_as_current(Request("GET", "/", []), lambda request: Teapot("oolong"), "teapot")
    assert isinstance(response, Teapot) and response.tea == "oolong"
    assert (response.status, response.reason, response.read(6)) == (418, "I'm a teapot", b"oolong")
    assert (response.header("content-type"), response.header("Tea")) == ("text/plain", "oolong")
    response.headers = []
    response.append(b"A: b\r\n")
    assert response.headers == response.fields == [("A", "b")]


def test_users_derive_from_request():
    request = Tagged("GET", "/a?b", [("A", "b")], deadline=Deadline(5))
    request.tag = "x"
    assert (request.path, request.query, request.header("a"), request.shout(), request.tag) == ("/a", "b", "b", "GET!", "x")
    assert type(request.copy()) is Request and request.copy().target == "/a?b"


@pytest.mark.parametrize("kind", COPIES)
def test_a_response_can_be_copied(kind):
    response = Response(200, [("A", "b")], b"body", "Fine")
    response.version, response.whole, response.hop = "1.0", {"of": 1}, [("Connection", "close")]
    found = COPIES[kind](response)
    assert type(found) is Response and found is not response
    assert (found.status, found.reason, found.headers, found.body) == (200, "Fine", [("A", "b")], b"body")
    assert (found.version, found.whole, found.hop) == ("1.0", {"of": 1}, [("Connection", "close")])
    assert (found.headers is response.headers) is (kind == "copy")


def test_a_request_can_be_copied():
    request = Request("GET", "/a?b", [("A", "b")], host="shop.test", deadline=Deadline(5))
    request.params["id"], request.trusted = "7", True
    found = copy.copy(request)
    assert type(found) is Request and found is not request
    assert (found.path, found.query, found.host, found.trusted) == ("/a", "b", "shop.test", True)
    assert found.headers is request.headers and found.params is request.params and found.deadline is request.deadline


@pytest.mark.parametrize("kind, make", [
    ("deepcopy", lambda: Request("GET", "/", [], deadline=Deadline(5))),
    ("pickle", lambda: Request("GET", "/", [], deadline=Deadline(5))),
    ("copy", lambda: Attempt("shop", "10.0.0.1:80")),
    ("copy", lambda: Call("GET", "/", [], deadline=Deadline(5))),
])
def test_what_else_can_be_copied_on_the_pure_build_alone(kind, make):
    if COMPILED:
        with pytest.raises(TypeError, match="missing required argument"):
            COPIES[kind](make())
    else:
        assert type(COPIES[kind](make())) is type(make())


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_a_derived_one_lacks_what_is_its_own_where_compiled(kind):
    found = COPIES[kind](Teapot("oolong"))
    assert type(found) is Teapot and found.body == b"oolong"
    assert hasattr(found, "tea") is not COMPILED


@pytest.mark.parametrize("base, arguments", [
    (Attempt, ("shop", "10.0.0.1:80")), (Body, (bytes, 0)), (RouteEntry, (SimpleNamespace(timeout=None), None))])
def test_from_other_classes_users_derive_on_the_pure_build_alone(base, arguments):
    derived = type("Derived", (base,), {})
    if COMPILED:                                         # it can be made, and has no instances
        with pytest.raises(TypeError, match="interpreted classes cannot inherit from compiled"):
            derived(*arguments)
    else:
        assert isinstance(derived(*arguments), base)


def test_weak_references_need_a_class_that_says_so():
    composition = built({}, None)
    if COMPILED:
        with pytest.raises(TypeError, match="cannot create weak reference"):
            weakref.ref(composition)
    else:
        assert weakref.ref(composition)() is composition


def test_a_signature_has_names_and_defaults_and_no_types_where_compiled():
    found = inspect.signature(Response).parameters
    assert {name: each.default for name, each in found.items()} == {
        "status": inspect.Parameter.empty, "headers": inspect.Parameter.empty, "body": b"", "reason": None}
    assert (found["status"].annotation is inspect.Parameter.empty) is COMPILED


def test_compiled_code_does_not_see_a_function_that_is_replaced(monkeypatch):
    monkeypatch.setattr(message, "first_value", lambda headers, name, default: "replaced")
    assert Response(200, []).header("A", "default") == ("default" if COMPILED else "replaced")


def test_compiled_code_does_not_see_a_method_that_is_replaced(monkeypatch):
    monkeypatch.setattr(Body, "_receive", lambda self, size: b"")
    assert Body(lambda size: b"a", 1).read() == (b"a" if COMPILED else b"")
