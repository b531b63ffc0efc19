"""The tree of segments: which pattern matches a path, in which order, with which parameters, and at what cost."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Route
from gateway.errors import NoRoute
from gateway.routing.conditions import Facts
from gateway.routing.segment_tree import HostTable, RouteCandidate, find, segments_of
from tests.routing.route_tables import ask, routed, winner

ROUTES = {"get": Route(path="/a", methods=["GET"]), "put": Route(path="/a", methods=["PUT"]),
          "head": Route(path="/a", methods=["HEAD"]), "if": Route(path="/a", header={"X": "1"}), "any": Route(path="/a")}


def tree(*names):
    """The tree of these paths, and of routes by their names in ROUTES. The targets are the names."""
    table = HostTable(None)
    for name in names:
        table.add(RouteCandidate(ROUTES.get(name) or Route(path=name), name))
    table.seal()
    return table


def match(table, path, method="GET", headers=()):
    """The name of the route that the tree finds."""
    found = find(table.root, segments_of(path), 0, Facts(ask(method, path, headers=headers)))
    return found.target if found is not None else None


def leaves(table, path):
    """The patterns that match, in their order."""
    return [leaf.entries[0].route.path for leaf in table.leaves_for(segments_of(path))]


@pytest.mark.parametrize("path, segments", [
    ("/", [""]), ("//", ["", ""]), ("/a", ["a"]), ("/a/", ["a", ""]), ("/a/b", ["a", "b"]), ("/a%2Fb", ["a/b"]),
    ("/%C3%A9", ["\xc3\xa9"]), ("/%2", ["%2"]), ("*", []), ("", []), ("a/b", []), ("a%20/b", [])])
def test_the_segments_of_a_path(path, segments):
    assert segments_of(path) == segments


# -- which pattern goes first

KINDS = ("/12/x", "/1{n}/x", "/{id:int}/x", "/{name}/x", "/{more:path}/x", "/*")


@pytest.mark.parametrize("number", range(len(KINDS) + 1))
def test_each_kind_of_segment_goes_before_the_next(number):
    table = tree(*reversed(KINDS[number:]))
    assert leaves(table, "/12/x") == list(KINDS[number:])
    assert match(table, "/12/x") == (KINDS[number] if number < len(KINDS) else None)


@pytest.mark.parametrize("path, expected", [
    ("/a/x/y/z", ["/a/{p:path}/y/z", "/a/{p:path}/{q}/z", "/a/{p:path}/z", "/a/*"]),
    ("/a/x/z", ["/a/{p:path}/z", "/a/*"]), ("/a/z", ["/a/*"]), ("/a//z", ["/a/*"]), ("/a/", ["/a/*"]), ("/a", [])])
def test_of_several_segments_those_with_more_behind_go_first(path, expected):
    assert leaves(tree("/a/*", "/a/{p:path}/z", "/a/{p:path}/{q}/z", "/a/{p:path}/y/z"), path) == expected


@pytest.mark.parametrize("path", ["/a/{x}", "/a/{x:int}", "/a/b{x}", "/a/{x:path}/b"])
def test_a_parameter_is_never_empty(path):
    assert leaves(tree(path), "/a/") == leaves(tree(path), "/a//b") == leaves(tree(path), "/a") == []


PIECES = ["a", "b", "1", "22", "a1", ""]
PATTERNS = ["/a", "/a/b", "/a/{x}", "/a/{x:int}", "/a/a{x}", "/a/{x}1", "/{x}/b", "/{x:int}/b", "/{x:path}/b", "/a/{x:path}/b",
            "/{x:path}/b/{y}", "/a/*", "/{x}/*", "/*", "/", "/a//b"]


@given(st.lists(st.sampled_from(PATTERNS), unique=True, max_size=8), st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
def test_the_pattern_that_is_found_is_the_first_that_matches(patterns, pieces):
    table, path = tree(*patterns), "".join(f"/{piece}" for piece in pieces)
    assert match(table, path) == next(iter(leaves(table, path)), None)
    assert leaves(table, path) == leaves(tree(*reversed(patterns)), path)


@pytest.mark.parametrize("pattern, is_whole", [
    ("/", True), ("/a", True), ("/a/b", True), ("/{x}", False), ("/a{x}", False), ("/*", False), ("/a%2Fb", False),
    ("/a%20b", True), ("/a%25b", False), ("/..", False), ("/a//b", False)])
def test_only_a_path_without_parameters_that_can_be_written_one_way_is_compared_as_a_whole(pattern, is_whole):
    assert bool(tree(pattern).static) is is_whole


@pytest.mark.parametrize("path, expected", [
    ("/users/me", "/users/me"),
    ("/users/%6De", "/users/me"),
    ("/users/7", "/users/{id:int}"),
    ("/users/ann", "/users/{name}"),
    ("/users/7/orders", "/users/{id:int}/orders"),
    ("/users/ann/orders", "/users/{name}/{what}"),
    ("/users/", "/users/*"),
    ("/users/a/b/c", "/users/*"),
    ("/users", "/*"),
    ("/users/me/orders", "/users/{name}/{what}"),
    ("/", "/*"),
])
def test_the_most_specific_path_wins(path, expected):
    table = routed("/*", "/users/*", "/users/{name}", "/users/{id:int}", "/users/me", "/users/{name}/{what}",
                   "/users/{id:int}/orders")
    assert winner(table, ask(target=path)) == expected


@pytest.mark.parametrize("path, expected", [
    ("/7", "/{id:int}"), ("/x", "/{name}"), ("/x.json", "/{name}.json"), ("/7.json", "/{id:int}.json"), ("/me.json", "/me.json"),
    ("/x.geo.json", "/{name}.geo.json"), ("/map-x.json", "/map-{x}.json"), ("/map-x", "/map-{x}"), ("/7.", "/7{x}"),
    ("/77", "/7{x}"),
    ("/map-x.geo.json", "/map-{x}.json"), ("/a/edit", "/{name}/edit"), ("/a/b/edit", "/{name}/{rest:path}/edit"),
    ("/a.json/b/edit", "/{name}/{rest:path}/edit"), ("/a.json/edit", "/{name}/edit"), ("/a/x/y/edit", "/{name}/{rest:path}/edit"),
    ("/a/x", "/*"), ("/a/b/x/edit", "/{name}/{rest:path}/x/edit"), ("/", "/*"), ("/a/b/c", "/*")])
def test_the_most_specific_of_patterns_that_mix_text_and_parameters(path, expected):
    table = routed("/*", "/{name}", "/{id:int}", "/{name}.json", "/{id:int}.json", "/me.json", "/{name}.geo.json", "/map-{x}.json",
                   "/map-{x}", "/7{x}", "/{name}/edit", "/{rest:path}/edit", "/{name}/{rest:path}/edit", "/{rest:path}/x/edit",
                   "/{name}/{rest:path}/x/edit")
    assert winner(table, ask(target=path)) == expected
    assert path != "/a/b/x/edit" or [verdict.route.path for verdict in table.explain(ask(target=path)).verdicts] == [
        "/{name}/{rest:path}/x/edit", "/{name}/{rest:path}/edit", "/{rest:path}/x/edit", "/{rest:path}/edit", "/*"]


@pytest.mark.parametrize("path, expected", [
    ("/a/b/d", "/a/b/*"),
    ("/a/b/c", "/a/b/*"),
    ("/a/x/c", "/a/{x}/c"),
    ("/a/x/d", "/*"),
    ("/1/x", "/{n:int}/{y}"),
    ("/1/z/q", "/{x}/z/q"),
])
def test_a_better_beginning_that_leads_nowhere_hides_nothing(path, expected):
    assert winner(routed("/a/{x}/c", "/a/b/*", "/*", "/{n:int}/{y}", "/{x}/z/q"), ask(target=path)) == expected


# -- the routes of one pattern

@pytest.mark.parametrize("names, method, expected", [
    ("get put", "GET", "get put"), ("get put", "PUT", "put get"), ("get put", "HEAD", "get put"),
    ("get head", "HEAD", "head get"), ("get head", "GET", "get head"), ("get any", "HEAD", "get any"),
    ("get any", "PUT", "any get"),
    ("any if get", "GET", "get if any"), ("any if get", "PUT", "if any get")])
def test_the_routes_of_a_pattern_by_method(names, method, expected):
    [leaf] = tree(*names.split()).leaves
    assert [entry.target for entry in leaf.candidates(method)] == expected.split()


@pytest.mark.parametrize("method, headers, expected", [
    ("PUT", [], "any"), ("PUT", [("X", "1")], "if"), ("PUT", [("X", "2")], "any"), ("GET", [("X", "1")], "get"),
    ("HEAD", [], "get")])
def test_the_first_whose_conditions_hold(method, headers, expected):
    assert match(tree("any", "if", "get"), "/a", method, headers) == expected


def test_no_route_of_the_pattern_takes_the_method():
    assert match(tree("get"), "/a", "PUT") is None and leaves(tree("get"), "/a") == ["/a"]


def test_another_pattern_answers_where_the_methods_of_the_first_do_not():
    table = tree("get", "/{name}")
    assert (match(table, "/a"), match(table, "/a", "PUT")) == ("get", "/{name}")


# -- paths

@pytest.mark.parametrize("pattern, path, params", [
    ("/", "/", {}),
    ("/", "//", None),
    ("/users", "/users", {}),
    ("/users", "/users/", None),
    ("/users/", "/users", None),
    ("/users/", "/users/", {}),
    ("/users", "/Users", None),
    ("/users", "/users?x=1", {}),
    ("/a//b", "/a//b", {}),
    ("/a/b", "/a//b", None),
    ("/a/./b", "/a/./b", {}),
    ("/a/b", "/a/./b", None),
    ("/b", "/a/../b", None),
    ("/{name}", "/ann", {"name": "ann"}),
    ("/{name}", "/", None),
    ("/{name}", "/a/b", None),
    ("/{name}", "/..", {"name": ".."}),
    ("/{name}", "/a%20b", {"name": "a b"}),
    ("/{name}", "/a+b", {"name": "a+b"}),
    ("/{name}", "/caf%C3%A9", {"name": "café"}),
    ("/{name}", "/%FF", {"name": "\udcff"}),
    ("/{name}", "/100%", {"name": "100%"}),
    ("/{a}/{b}", "/x/y", {"a": "x", "b": "y"}),
    ("/users/{id}/orders", "/users/7/orders", {"id": "7"}),
    ("/{id:int}", "/007", {"id": "007"}),
    ("/{id:int}", "/%37", {"id": "7"}),
    ("/{id:int}", "/7a", None),
    ("/{id:int}", "/-7", None),
    ("/{id:int}", "/%D9%A7", None),                      # ARABIC-INDIC DIGIT SEVEN
    ("/{id:int}", "/%B2", None),                         # SUPERSCRIPT TWO in latin-1
    ("/api/*", "/api", None),
    ("/api/*", "/api/", {}),
    ("/api/*", "/api/x/y", {}),
    ("/api/*", "/apix", None),
    ("/api/{rest:path}", "/api/", {"rest": ""}),
    ("/api/{rest:path}", "/api", None),
    ("/api/{rest:path}", "/api/x//y/", {"rest": "x//y/"}),
    ("/{v}/{rest:path}", "/1/a%2Fb/c", {"v": "1", "rest": "a/b/c"}),
    ("/{Sid}.json", "/AC7.json", {"Sid": "AC7"}),
    ("/{Sid}.json", "/a.b.json", {"Sid": "a.b"}),
    ("/{Sid}.json", "/.json", None),
    ("/{Sid}.json", "/a.jsonx", None),
    ("/{Sid}.json", "/a%2Ejson", {"Sid": "a"}),
    ("/{Sid}.json", "/a%2Fb.json", {"Sid": "a/b"}),
    ("/{id}:cancel", "/7:cancel", {"id": "7"}),
    ("/{id}:cancel", "/7%3Acancel", {"id": "7"}),
    ("/{id}%3Acancel", "/7:cancel", {"id": "7"}),
    ("/{id:int}:cancel", "/7:cancel", {"id": "7"}),
    ("/{id:int}:cancel", "/x:cancel", None),
    ("/thumbnail.{ext}", "/thumbnail.png", {"ext": "png"}),
    ("/thumbnail.{ext}", "/thumbnail.", None),
    ("/v{n:int}/x", "/v2/x", {"n": "2"}),
    ("/{slug}-{id:int}", "/a-b-7", None),                # a parameter ends where the text after it begins for the first time
    ("/{slug}-{id}", "/a-b-7", {"slug": "a", "id": "b-7"}),
    ("/{slug}-{id}", "/--7", {"slug": "-", "id": "7"}),
    ("/{slug}-{id}", "/a-", None),
    ("/{a}..{b}", "/x..y", {"a": "x", "b": "y"}),
    ("/{lat},{lng}.{ext}", "/1.5,2.5.png", {"lat": "1.5", "lng": "2", "ext": "5.png"}),
    ("/ab{x}ba", "/aba", None),
    ("/ab{x}ba", "/abxba", {"x": "x"}),
    ("/caf\xe9-{x}", "/caf%C3%A9-%C3%A9", {"x": "\xe9"}),
    ("/{rest:path}/edit", "/a/b/edit", {"rest": "a/b"}),
    ("/{rest:path}/edit", "/a/edit", {"rest": "a"}),
    ("/{rest:path}/edit", "/edit/edit/edit", {"rest": "edit/edit"}),
    ("/{rest:path}/edit", "/edit", None),
    ("/{rest:path}/edit", "//edit", None),
    ("/{rest:path}/edit", "/a//edit", {"rest": "a/"}),
    ("/{v}/{rest:path}/-/{name}.json", "/1/a/b%2F/-/x.json", {"v": "1", "rest": "a/b/", "name": "x"}),
    ("/repos/{repo:path}/", "/repos/a/b/", {"repo": "a/b"}),
    ("/*", "/", {}),
    ("/*", "/a/b?c", {}),
    ("/*", "*", None),
    ("/{name}", "*", None),
], ids=lambda value: str(value))
def test_a_path_matches(pattern, path, params):
    table = routed(pattern)
    if params is None:
        with pytest.raises(NoRoute):
            table.match(ask(target=path))
    else:
        assert table.match(ask(target=path))[1] == params


@pytest.mark.parametrize("pattern, path, matches", [
    ("/admin", "/%61dmin", True),
    ("/admin", "/%61%64%6d%69%6E", True),
    ("/admin", "/%2561dmin", False),
    ("/%61dmin", "/admin", True),
    ("/a/b", "/a%2Fb", False),
    ("/a%2Fb", "/a%2fb", True),
    ("/a%2Fb", "/a/b", False),
    ("/{x}", "/a%2Fb", True),
    ("/{x}/b", "/a%2Fb", False),
    ("/café", "/caf%c3%a9", True),
    ("/café", "/caf\xc3\xa9", True),
    ("/a%20b", "/a%20b", True),
    ("/a+b", "/a%20b", False),
    ("/%7Bx%7D", "/%7bx%7d", True),
    ("/a%2Ab", "/a*b", True),
    ("/..", "/%2e%2E", True),
])
def test_segments_are_compared_decoded_and_never_split_by_it(pattern, path, matches):
    assert winner(routed(pattern), ask(target=path)) == (pattern if matches else 404)


# -- cost

@pytest.mark.parametrize("pattern, path", [
    ("/service-{n}/orders", "/service-{last}/orders"),
    ("/service-{n}/{{id:int}}/lines", "/service-{last}/12345/lines"),
    ("/{{kind}}/service-{n}/*", "/x/service-{last}/a/b"),
    ("/service-{n}/orders", "/service-{last}/%6frders"),
    ("/service-{n}/{{id}}", "/nothing/{last}"),
])
def test_the_work_for_a_request_does_not_grow_with_the_routes(pattern, path):
    def work(size):
        table = routed(*(pattern.format(n=n) for n in range(size)), host="a.test")
        request = ask(target=path.format(last=size - 1), host="a.test")
        winner(table, request)                           # imports and caches of the first call
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            winner(table, request)
        finally:
            sys.setprofile(None)
        return calls

    assert work(10) == work(2000)
