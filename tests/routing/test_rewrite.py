import posixpath
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config import Route
from gateway.errors import InvalidTarget, NoRoute
from gateway.message import Request
from gateway.routing.rewrite import Rewrite, climbs
from gateway.routing.table import Table


def sent(route, path):
    """The path an upstream is asked for when a client asks for ``path``."""
    rewrite, params = Table([(route, Rewrite(route))]).match(Request("GET", path, []))
    return rewrite(path, params)


@pytest.mark.parametrize("pattern, prefix, path, expected", [
    ("/api/*", "/api", "/api/users", "/users"),
    ("/api/*", "/api", "/api/", "/"),
    ("/api", "/api", "/api", "/"),
    ("/api/*", "/api/", "/api/users", "/users"),
    ("/api/v1/*", "/api", "/api/v1/x", "/v1/x"),
    ("/api/v1/*", "/api/v1", "/api/v1/x/", "/x/"),
    ("/api/{id}/x", "/api", "/api/7/x", "/7/x"),
    ("/api/*", "/api", "/%61pi/users", "/users"),
    ("/api/*", "/api", "/api/a%2Fb/%C3%A9+%20", "/a%2Fb/%C3%A9+%20"),
    ("/api/*", "/api", "/api//x//", "//x//"),
    ("/api/*", "/api", "/api/./x", "/./x"),
    ("/api/*", "/api", "/api/a/../b", "/a/../b"),
    ("/api/*", "/api", "/api/a/..", "/a/.."),
    ("/api/*", "/api", "/api/...", "/..."),
    ("/api/*", "/api", "/api/a..b/..c", "/a..b/..c"),
    ("/api/*", "/api", "/api/%252e%252e", "/%252e%252e"),
    ("/café/*", "/café", "/caf%C3%A9/x", "/x"),
])
def test_strip_prefix_takes_segments_off_byte_for_byte(pattern, prefix, path, expected):
    assert sent(Route(path=pattern, strip_prefix=prefix), path) == expected


@pytest.mark.parametrize("rest", [
    "..", "../", "../x", "a/../..", "a/../../b", "%2e%2e", "%2E./x", ".%2e", "..%2fx", "%2e%2e%2fx", "a/..%2F..%2fb", "./..",
    "a/.//../..", "/..", "..;x", "..;/x", "..%3Bx/y", "..\\x", "..%5cx", "a%5C..%5c..%5Cb",
])
def test_what_would_climb_above_the_prefix_is_refused(rest):
    for route in (Route(path="/api/*", strip_prefix="/api"), Route(path="/api/{rest:path}", rewrite="/new/{rest}")):
        with pytest.raises(InvalidTarget):
            sent(route, f"/api/{rest}")


@pytest.mark.parametrize("pattern, template, path, expected", [
    ("/users/{id}", "/v2/users/{id}", "/users/7", "/v2/users/7"),
    ("/{Sid}.json", "/v2/{Sid}", "/a%2Fb%20.json", "/v2/a%2Fb%20"),
    ("/{a}-{b}", "/{b}/{a}", "/x-y-z", "/y-z/x"),
    ("/{repo:path}/edit", "/e/{repo}", "/a/b%2fc%7E/edit", "/e/a/b%2fc%7E"),
    ("/r/{repo:path}/-/{file}", "/{file}/{repo}", "/r/a//b/-/x", "/x/a//b"),
    ("/users/{id:int}", "/u/{id}.json", "/users/7", "/u/7.json"),
    ("/{a}/{b}", "/{b}/{a}/{b}", "/x/y", "/y/x/y"),
    ("/old", "/new/place", "/old", "/new/place"),
    ("/users/{id}", "/v2/users/{id}", "/users/a%2Fb", "/v2/users/a%2Fb"),
    ("/users/{id}", "/v2/users/{id}", "/users/a%2fb%3fc%23", "/v2/users/a%2Fb%3Fc%23"),
    ("/users/{id}", "/v2/users/{id}", "/users/%61+b%20c", "/v2/users/a+b%20c"),
    ("/users/{id}", "/v2/users/{id}", "/users/caf%c3%a9", "/v2/users/caf%C3%A9"),
    ("/users/{id}", "/v2/users/{id}", "/users/%ff%25", "/v2/users/%FF%25"),
    ("/users/{id}", "/v2/users/{id}", "/users/a;v=1,@:$&'()*!~", "/v2/users/a;v=1,@:$&'()*!~"),
    ("/users/{id}", "/v2/users/{id}", "/users/...", "/v2/users/..."),
    ("/old/{rest:path}", "/new/{rest}", "/old/a%2Fb//c%20+/", "/new/a%2Fb//c%20+/"),
    ("/old/{rest:path}", "/new/{rest}", "/old/", "/new/"),
    ("/old/{rest:path}", "/new/{rest}", "/old/a/../b", "/new/a/../b"),
    ("/{lang}/old/{rest:path}", "/{rest}/{lang}", "/de/old/x/%79", "/x/%79/de"),
    ("/x", "/café/a%20b", "/x", "/caf%C3%A9/a%20b"),
])
def test_rewrite_puts_parameters_back(pattern, template, path, expected):
    assert sent(Route(path=pattern, rewrite=template), path) == expected


@pytest.mark.parametrize("template, path", [
    ("/v2/{id}", "/users/.."), ("/v2/{id}", "/users/%2e%2e"), ("/v2/{id}", "/users/."), ("/v2/{id}", "/users/%2e"),
    ("/v2/{id}", "/users/..%2fx"), ("/v2/{id}", "/users/a%2F..%2F..%2Fb"), ("/v2/{id}", "/users/..%5Cx"), ("/v2/.{id}", "/users/."),
    ("/v2/.{id}", "/users/.%2Fx"), ("/v2/.{id}/x", "/users/.;y"), ("/v2/{id}/x", "/users/..;y"),
])
def test_a_parameter_that_would_not_stay_in_its_place_is_refused(template, path):
    with pytest.raises(InvalidTarget):
        sent(Route(path="/users/{id}", rewrite=template), path)


@pytest.mark.parametrize("path", ["/7/..", "/7/%2e%2e", "/7/.", "/7/..%2fx"])
def test_nor_may_it_take_the_place_of_another(path):
    with pytest.raises(InvalidTarget):
        sent(Route(path="/{id}/{name}", rewrite="/v2/{id}/{name}"), path)


def test_a_rewrite_says_what_it_is():
    assert repr(Rewrite(Route(path="/api/*", strip_prefix="/api"))) == "path: strip /api"
    assert repr(Rewrite(Route(path="/a/{b}", rewrite="/c/{b}"))) == "path: to /c/{b}"


# -- whatever a client sends

pieces = st.lists(st.sampled_from(["/", "..", ".", "%2e", "%2E", "%2f", "%5C", "\\", ";", "%3b", "a", "b%20c", "..."]), max_size=12)
GUARD = "/top/guard"


def resolved(path):
    """Where servers of different opinions arrive: each resolves dot segments after another kind of decoding."""
    once = unquote_to_bytes(path).decode("latin-1")
    yield posixpath.normpath(path)
    yield posixpath.normpath(once)
    yield posixpath.normpath(once.replace("\\", "/"))
    yield posixpath.normpath(re.sub(r";[^/\\]*", "", once).replace("\\", "/"))
    yield posixpath.normpath(re.sub("/+", "/", once))


def stays(path):
    return all(place == GUARD or place.startswith(GUARD + "/") for place in resolved(GUARD + path))


@given(pieces)
@example(["a", "/", "..", "/", "..", "/", "b"])
@settings(max_examples=500, deadline=None)
def test_no_path_leaves_its_prefix(given_pieces):
    path = "/api/v1/" + "".join(given_pieces)
    for route in (Route(path="/api/v1/*", strip_prefix="/api/v1"), Route(path="/api/v1/{rest:path}", rewrite="/{rest}")):
        try:
            result = sent(route, path)
        except InvalidTarget:
            assert climbs(path[len("/api/v1"):])
        else:
            assert result == path[len("/api/v1"):]
            assert stays(result)


@given(pieces)
@settings(max_examples=500, deadline=None)
def test_what_stays_below_for_every_server_is_not_refused(given_pieces):
    path = "/" + "".join(given_pieces)
    plain = ".." not in unquote_to_bytes(path).decode("latin-1")
    assert not (plain and climbs(path))
    if climbs(path):
        assert ".." in unquote_to_bytes(path).decode("latin-1")


@given(pieces, st.binary(max_size=8))
@settings(max_examples=500, deadline=None)
def test_one_segment_stays_one_segment_with_the_same_bytes(given_pieces, raw):
    segment = "".join(given_pieces).replace("/", "") + "".join(f"%{byte:02x}" for byte in raw)
    route = Route(path="/u/{id}", rewrite="/v2/u/{id}/x")
    try:
        result = sent(route, f"/u/{segment}")
    except (InvalidTarget, NoRoute):
        return
    assert result.isascii()
    empty, version, kind, value, last = result.split("/")
    assert (empty, version, kind, last) == ("", "v2", "u", "x")
    assert unquote_to_bytes(value) == unquote_to_bytes(segment)
    assert stays(result[len("/v2/u"):])
