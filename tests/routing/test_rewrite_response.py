import pytest

from gateway.message import Request
from gateway.routing.rewrite_response import PublicAddresses

REQUEST = Request("GET", "/api/x", [], host="www.test", scheme="https")
PUBLISH = PublicAddresses(["old.test:8000", "10.0.0.5:8000"], "/api/", True, True)


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
    assert PublicAddresses(["old.test:8000"], "/api", True, True, tls)([("Location", value)], request) == [("Location", public)]


@pytest.mark.parametrize("value, public", [
    ("a=1", "a=1"), ("a=1; Domain=old.test; Path=/; Secure", "a=1; Path=/api/; Secure"),
    ("a=1; domain=.OLD.test; path=/x", "a=1; Path=/api/x"), ("a=1; Domain=other.test", "a=1; Domain=other.test"),
    ("a=x=y;Domain=old.test", "a=x=y"), ("a=1; Path=x", "a=1; Path=x")])
def test_cookie(value, public):
    assert PUBLISH([("Set-Cookie", value), ("X", "y")], REQUEST) == [("Set-Cookie", public), ("X", "y")]


def test_only_what_was_asked_for():
    fields = [("Location", "http://old.test/a"), ("Set-Cookie", "a=1; Domain=old.test")]
    assert PublicAddresses(["old.test"], "", True, False)(fields, REQUEST) == [("Location", "https://www.test/a"), fields[1]]
    assert PublicAddresses(["old.test"], "", False, True)(fields, REQUEST) == [fields[0], ("Set-Cookie", "a=1")]


SPELLED = PublicAddresses(["old.test", "[2001:db8::1]:8000", "127.0.0.1:80"], "/shop", True, True)


@pytest.mark.parametrize("value, public", [
    # the authority: case, encoding, the root's dot, ports that the scheme implies, IPv6, users
    ("http://old.test:80/a", "https://www.test/shop/a"), ("http://old.test:/a", "https://www.test/shop/a"),
    ("http://old.test:0080/a", "https://www.test/shop/a"), ("http://OLD.TEST./a", "https://www.test/shop/a"),
    ("http://%6fld.test/a", "https://www.test/shop/a"), ("//old.test:80/a", "https://www.test/shop/a"),
    ("http://old.test:8080/a", "http://old.test:8080/a"), ("http://old.test:443/a", "http://old.test:443/a"),
    ("https://old.test:443/a", "https://www.test/shop/a"), ("http://[2001:DB8:0::1]:8000/a", "https://www.test/shop/a"),
    ("http://[2001:db8::2]:8000/a", "http://[2001:db8::2]:8000/a"), ("http://127.0.0.1/a", "https://www.test/shop/a"),
    ("http://user@old.test/a", "http://user@old.test/a"), ("http://old.test@evil.test/a", "http://old.test@evil.test/a"),
    ("http://old.test.evil.test/a", "http://old.test.evil.test/a"), ("http:///a", "http:///a"),
    ("https://www.test:443/a", "https://www.test/shop/a"), ("https://WWW.test./a", "https://www.test/shop/a"),
    ("https://www.test:8443/a", "https://www.test:8443/a"), ("http://old.test:x/a", "http://old.test:x/a"),
    # the path: a prefix that is there does not come twice
    ("/shop", "/shop"), ("/shop/", "/shop/"), ("/shop/a?b#c", "/shop/a?b#c"), ("/shop?x", "/shop?x"), ("/%73hop/a", "/%73hop/a"),
    ("/shopping", "/shop/shopping"), ("/Shop/a", "/shop/Shop/a"), ("/shop%2Fa", "/shop/shop%2Fa"), ("/a?/shop/", "/shop/a?/shop/"),
    ("/../a?b", "/shop/a?b"), ("/a/../../b#c", "/shop/b#c"), ("/%2E%2e/a", "/shop/a"), ("/..", "/shop/"), ("/a/..", "/shop/a/.."),
    ("http://old.test/../a", "https://www.test/shop/a"), ("/../shop/a", "/../shop/a"), ("/...", "/shop/..."),
    ("/shop/../a", "/shop/shop/../a"), ("/./shop/a", "/./shop/a"), ("http://old.test/shop/a", "https://www.test/shop/a"),
    ("https://www.test/shop/a", "https://www.test/shop/a")])
def test_addresses_are_compared_as_uris_are(value, public):
    assert SPELLED([("Location", value)], REQUEST) == [("Location", public)]


@pytest.mark.parametrize("value, public", [
    ("a=1; Path=/shop", "a=1; Path=/shop"), ("a=1; Path=/shop/", "a=1; Path=/shop/"), ("a=1; Path=/shop/x", "a=1; Path=/shop/x"),
    ("a=1; Path=/shopping", "a=1; Path=/shop/shopping"), ("a=1; Path=/", "a=1; Path=/shop/"),
    ("__Host-a=1; Secure; Path=/", "__Host-a=1; Secure; Path=/"), ("__host-a=1; path=/", "__host-a=1; path=/"),
    (" __Host-a=1; Path=/", " __Host-a=1; Path=/"), ("__Secure-a=1; Secure; Path=/", "__Secure-a=1; Secure; Path=/shop/"),
    ("__Hosta=1; Path=/", "__Hosta=1; Path=/shop/"), ("a=1; Domain=OLD.test.", "a=1"), ("a=1; Domain=.old.test", "a=1"),
    ("a=1; Domain=test", "a=1; Domain=test")])
def test_cookies_that_browsers_would_not_take_otherwise(value, public):
    assert SPELLED([("Set-Cookie", value)], REQUEST) == [("Set-Cookie", public)]


@pytest.mark.parametrize("value, public", [
    ("5; url=http://old.test/a", "5; url=https://www.test/shop/a"), ("0;URL='/a'", "0;URL='/shop/a'"), ("5", "5"),
    ("5, url=http://other.test/", "5, url=http://other.test/"), ("5; url=a", "5; url=a")])
def test_the_address_in_a_refresh_is_one_too(value, public):
    assert SPELLED([("Refresh", value), ("Link", "<http://old.test/a>")], REQUEST) == [
        ("Refresh", public), ("Link", "<http://old.test/a>")]
