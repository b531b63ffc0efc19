import pytest

from gateway.message import Request
from gateway.reverse import Publish

REQUEST = Request("GET", "/api/x", [], host="www.test", scheme="https")
PUBLISH = Publish(["old.test:8000", "10.0.0.5:8000"], "/api/", True, True)


@pytest.mark.parametrize("value, public", [
    ("http://old.test:8000/a?b#c", "https://www.test/api/a?b#c"), ("HTTP://OLD.test:8000/a", "https://www.test/api/a"),
    ("http://10.0.0.5:8000", "https://www.test/api/"), ("//old.test:8000/a", "https://www.test/api/a"), ("/a", "/api/a"),
    ("http://old.test:8000?x", "https://www.test/api/?x"), ("http://www.test/a", "http://www.test/api/a"),
    ("https://WWW.test/a", "https://www.test/api/a"), ("//www.test", "//www.test/api/"),
    ("a/b", "a/b"), ("?x", "?x"), ("http://other.test/a", "http://other.test/a"), ("http://old.test/a", "http://old.test/a"),
    ("mailto:x@old.test", "mailto:x@old.test"), ("", "")])
def test_location(value, public):
    assert PUBLISH([("location", value)], REQUEST) == [("location", public)]
    assert PUBLISH([("Content-Location", value)], REQUEST) == [("Content-Location", public)]


@pytest.mark.parametrize("scheme, tls, value, public", [
    ("http", False, "https://old.test:8000/a", "https://www.test/api/a"),
    ("http", False, "https://www.test/a", "https://www.test/api/a"),
    ("http", False, "http://old.test:8000/a", "http://www.test/api/a"),
    ("http", True, "https://old.test:8000/a", "http://www.test/api/a"),
    ("http", True, "https://www.test/a", "https://www.test/api/a"),
    ("https", True, "http://old.test:8000/a", "https://www.test/api/a")])
def test_who_is_sent_to_https_gets_there(scheme, tls, value, public):
    request = Request("GET", "/api/x", [], host="www.test", scheme=scheme)
    assert Publish(["old.test:8000"], "/api", True, True, tls)([("Location", value)], request) == [("Location", public)]


@pytest.mark.parametrize("value, public", [
    ("a=1", "a=1"), ("a=1; Domain=old.test; Path=/; Secure", "a=1; Path=/api/; Secure"),
    ("a=1; domain=.OLD.test; path=/x", "a=1; Path=/api/x"), ("a=1; Domain=other.test", "a=1; Domain=other.test"),
    ("a=x=y;Domain=old.test", "a=x=y"), ("a=1; Path=x", "a=1; Path=x")])
def test_cookie(value, public):
    assert PUBLISH([("Set-Cookie", value), ("X", "y")], REQUEST) == [("Set-Cookie", public), ("X", "y")]


def test_only_what_was_asked_for():
    fields = [("Location", "http://old.test/a"), ("Set-Cookie", "a=1; Domain=old.test")]
    assert Publish(["old.test"], "", True, False)(fields, REQUEST) == [("Location", "https://www.test/a"), fields[1]]
    assert Publish(["old.test"], "", False, True)(fields, REQUEST) == [fields[0], ("Set-Cookie", "a=1")]
