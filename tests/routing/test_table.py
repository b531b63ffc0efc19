"""The table: which route answers, by host, path, method and conditions, and what explain says of it."""

from __future__ import annotations

import random
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Route
from gateway.errors import ConfigError, MethodNotAllowed, NoRoute
from gateway.message import Request
from gateway.routing.conditions import READERS
from gateway.routing.pattern import problems, specificity
from gateway.routing.table import Table
from tests.routing.route_tables import ask, routed, winner


def test_what_takes_the_same_with_text_beside_it_is_a_clash():
    for one, other in [("/{a}.json", "/{b}.json"), ("/{a:path}/x", "/{b:path}/x"), ("/{a}-{b}", "/{c}-{d}"),
                       ("/{a}%2Ejson", "/{b}.json")]:
        assert "two routes match the same requests" in problems([Route(path=one), Route(path=other)])[0]
    for one, other in [("/{a}.json", "/{b}.xml"), ("/{a}.json", "/{b:int}.json"), ("/a{x}", "/{x}b"),
                       ("/{a:path}/x", "/{b:path}/{x}"), ("/{a:path}/x", "/{b}/{a:path}/x"), ("/{a}-{b}", "/{a}-{b:int}")]:
        assert problems([Route(path=one), Route(path=other)]) == []


@pytest.mark.parametrize("host, path, expected", [
    ("shop.example.org", "/a", "shop.example.org/a"),
    ("SHOP.Example.Org.", "/a", "shop.example.org/a"),
    ("shop.example.org:8443", "/a", "shop.example.org/a"),
    ("shop.example.org.:80", "/a", "shop.example.org/a"),
    ("shop.example.org", "/b", "*.example.org/b"),       # the better host has no such route
    ("shop.example.org", "/c", "/c"),
    ("x.shop.example.org", "/a", "*.shop.example.org/a"),
    ("y.x.shop.example.org", "/a", "*.shop.example.org/a"),
    ("x.shop.example.org", "/b", "*.example.org/b"),
    ("other.example.org", "/a", "*.example.org/a"),
    ("example.org", "/a", "/a"),
    ("notexample.org", "/a", "/a"),
    (".example.org", "/a", "/a"),
    ("[::1]:80", "/a", "[::1]/a"),
    ("[::1]", "/a", "[::1]/a"),
    ("", "/a", "/a"),
    ("x." * 200 + "example.org", "/a", "/a"),            # no host name is that long
    ("shop.example.org", "/nothing", 404),
])
def test_the_most_specific_host_that_has_a_route_wins(host, path, expected):
    table = routed(*(Route(path=path, host=host) for host, path in [
        (None, "/a"), (None, "/c"), ("*.example.org", "/a"), ("*.example.org", "/b"), ("*.shop.example.org", "/a"),
        ("Shop.Example.org", "/a"), ("[::1]", "/a")]))
    found = winner(table, ask(target=path, host=host))
    assert found == expected or str(found).lower() == expected


@pytest.mark.parametrize("method, path, expected", [
    ("GET", "/users", "GET /users"),
    ("POST", "/users", "/users"),
    ("HEAD", "/users", "GET /users"),
    ("GET", "/both", "GET /both"),
    ("HEAD", "/both", "HEAD /both"),
    ("DELETE", "/both", "/*"),
    ("HEAD", "/get", "GET /get"),
    ("POST", "/get", "/*"),
    ("get", "/get", "/*"),
    ("PURGE", "/anything", "/*"),
])
def test_a_named_method_goes_first(method, path, expected):
    table = routed("/*", "/users", Route(path="/users", methods=["GET"]), Route(path="/both", methods=["GET"]),
                   Route(path="/both", methods=["HEAD"]), Route(path="/get", methods=["GET"]))
    assert winner(table, ask(method, path)) == expected


def test_a_named_method_goes_before_conditions():
    table = routed(Route(path="/", methods=["GET"]), Route(path="/", header={"A": "1", "B": "1"}),
                   Route(path="/", methods=["HEAD"]), Route(path="/", methods=["GET", "PUT"], query={"x": "1"}))
    assert winner(table, ask("GET", "/", headers=[("a", "1"), ("b", "1")])) == "GET /"
    assert winner(table, ask("GET", "/?x=1")) == "GET,PUT / [query x=1]"
    assert winner(table, ask("HEAD", "/?x=1")) == "HEAD /"
    assert winner(table, ask("POST", "/", headers=[("a", "1"), ("b", "1")])) == "/ [header A=1] [header B=1]"


@pytest.mark.parametrize("target, headers, expected", [
    ("/", [], "/"),
    ("/", [("X-Beta", "1")], "/ [header X-Beta=1]"),
    ("/", [("x-beta", "2")], "/ [header X-Beta=*]"),
    ("/", [("x-beta", "")], "/ [header X-Beta=*]"),
    ("/", [("X-Beta", "2"), ("X-Beta", "1")], "/ [header X-Beta=*]"),       # the first counts
    ("/?v=1", [("X-Beta", "1")], "/ [header X-Beta=1] [query v=1]"),
    ("/?v=1", [], "/ [query v=1]"),
    ("/?v=2&v=1", [], "/"),
    ("/?%76=%31", [], "/ [query v=1]"),
    ("/?q=a+b", [], "/ [query q=a b]"),
    ("/?q=a%20b", [], "/ [query q=a b]"),
    ("/?q=a%2Bb", [], "/"),
    ("/?q=caf%C3%A9", [], "/ [query q=café]"),
    ("/?flag", [], "/ [query flag=*]"),
    ("/?flag=", [], "/ [query flag=*]"),
    ("/?nothing&v=1", [], "/ [query v=1]"),
    ("/", [("Cookie", "a=1; side=new; b=2")], "/ [cookie side=new]"),
    ("/", [("Cookie", "a=1"), ("cookie", 'side="new"')], "/ [cookie side=new]"),
    ("/", [("Cookie", "side=old; side=new")], "/"),
    ("/", [("Cookie", "xside=new")], "/"),
    ("/?v=1", [("Cookie", "side=new")], "/ [query v=1]"),                    # query before cookie
    ("/", [("X-Beta", "3"), ("Cookie", "side=new")], "/ [header X-Beta=*]"),  # header before cookie
])
def test_conditions(target, headers, expected):
    conditions = [{}, {"header": {"X-Beta": "1"}}, {"header": {"X-Beta": "*"}}, {"header": {"X-Beta": "1"}, "query": {"v": "1"}},
                  {"query": {"v": "1"}}, {"query": {"q": "a b"}}, {"query": {"q": "café"}}, {"query": {"flag": "*"}},
                  {"cookie": {"side": "new"}}]
    table = routed(*(Route(path="/", **each) for each in conditions))
    assert winner(table, ask(target=target, headers=headers)) == expected


def test_conditions_that_fail_leave_the_request_to_a_less_specific_path():
    table = routed("/*", Route(path="/users/{id}", cookie={"side": "new"}))
    assert winner(table, ask(target="/users/7")) == "/*"


def test_the_cookies_are_read_only_for_a_route_that_asks(monkeypatch):
    asked, read = [], READERS["cookie"]
    monkeypatch.setitem(READERS, "cookie", lambda request: (asked.append(request), read(request))[1])
    table = routed("/plain", "/*", Route(path="/a", header={"X-A": "1"}, cookie={"side": "new"}),
                   Route(path="/b", cookie={"a": "1"}), Route(path="/b", cookie={"b": "1", "c": "1"}))
    for path, headers, expected in [("/plain", [], 0), ("/else", [], 0), ("/a", [], 0), ("/a", [("X-A", "1")], 1), ("/b", [], 1)]:
        asked.clear()
        table.match(Request("GET", path, headers))
        assert len(asked) == expected, path


# -- nothing matches

def test_405_names_what_is_allowed_there():
    table = routed(Route(path="/a", methods=["PUT", "GET"]), Route(path="/{x}", methods=["DELETE"]),
                   Route(path="/a", methods=["LINK"], header={"X": "1"}), Route(path="/a", methods=["LOCK"], host="a.test"))
    with pytest.raises(MethodNotAllowed) as caught:
        table.match(ask("POST", "/a"))
    assert caught.value.allow == ["DELETE", "GET", "HEAD", "PUT"]
    with pytest.raises(MethodNotAllowed) as caught:
        table.match(ask("POST", "/%61", host="a.test", headers=[("x", "1")]))
    assert caught.value.allow == ["DELETE", "GET", "HEAD", "LINK", "LOCK", "PUT"]


def test_404_when_more_than_the_method_is_wrong():
    table = routed(Route(path="/a", methods=["GET"], header={"X": "1"}), Route(path="/b", methods=["GET"], host="b.test"))
    for request in (ask("POST", "/a"), ask("GET", "/a"), ask("POST", "/b", host="a.test"), ask("POST", "/c"), ask("OPTIONS", "*")):
        with pytest.raises(NoRoute):
            table.match(request)


def test_an_empty_table_has_no_route():
    with pytest.raises(NoRoute):
        Table([]).match(ask())


def test_a_table_says_what_it_is():
    assert repr(routed("/a", "/b")) == "2 routes"
    assert repr(routed("/a", Route(path="/b", host="b.test"))) == "2 routes, 1 hosts"


def test_a_pattern_that_cannot_be_read_is_a_configuration_error():
    with pytest.raises(ConfigError) as caught:
        routed("/a/{x")
    assert caught.value.problems == ['route "/a/{x": a brace of "{x" has no partner; a brace itself is written %7B or %7D']


# -- explain

def explained(table, *arguments, **more):
    return str(table.explain(ask(*arguments, **more))).splitlines()


def test_explain_says_who_answers_and_why_the_others_do_not():
    table = routed("/*", "/users/{name}", Route(path="/users/{id:int}", methods=["GET"]),
                   Route(path="/users/{id:int}", methods=["PUT"]), Route(path="/users/7", header={"X-Beta": "1"}, query={"v": "*"}),
                   Route(path="/users/7", host="admin.test"), "/orders")
    assert explained(table, "GET", "/users/7", host="shop.test", headers=[("X-Beta", "2")]) == [
        'route "GET /users/{id:int}", id = "7"',
        '  /users/7 [header X-Beta=1] [query v=*]: header x-beta is "2", not "1"; query v is missing',
        "  GET /users/{id:int}: answers",
        "  PUT /users/{id:int}: the method is GET, not PUT",
        "  /users/{name}: matches too, but its path is less specific",
        "  /*: matches too, but its path is less specific",
        "  admin.test/users/7: the host is shop.test, not admin.test",
    ]


def test_explain_names_each_kind_of_advantage():
    table = routed("/", Route(path="/", host="a.test"), Route(path="/", methods=["GET"], host="a.test"),
                   Route(path="/", methods=["GET"], header={"X": "1"}, host="a.test"))
    assert explained(table, "GET", "/", host="a.test", headers=[("X", "1")]) == [
        'route "GET a.test/ [header X=1]"',
        "  GET a.test/ [header X=1]: answers",
        "  GET a.test/: matches too, but its conditions are less specific",
        "  a.test/: matches too, but it does not name GET",
        "  /: matches too, but its host is less specific",
    ]


def test_explain_says_what_is_missing():
    table = routed(Route(path="/a", methods=["GET", "PUT"]), "/api/*")
    assert explained(table, "POST", "/a") == ["no route: 405 allowed: GET, HEAD, PUT",
                                              "  GET,PUT /a: the method is POST, not GET or PUT"]
    assert explained(table, "GET", "/b", host="x.test") == ["no route: 404 no route for GET x.test/b"]
    assert explained(table, "GET", "/api") == ["no route: 404 no route for GET /api", '  /api/*: would take "/api/"']
    assert explained(table, "GET", "/a/") == ["no route: 404 no route for GET /a/", '  GET,PUT /a: would take "/a"']


@pytest.mark.parametrize("others, more", [(19, []), (20, ["  and 1 more"]), (21, ["  and 2 more"])])
def test_explain_shows_no_more_than_a_person_reads(others, more):
    table = routed("/*", *(Route(path="/*", host=f"{number}.test") for number in range(others)))
    lines = explained(table, "GET", "/")
    assert lines[:2] == ['route "/*"', "  /*: answers"]
    assert lines[21:] == more


# -- the rule, whatever the routes

LITERALS = ["a", "b", "1", "", ".."]
path_segments = st.sampled_from([*LITERALS, "%61", "%2e.", "22", "x%2Fy"])
pattern_segments = st.sampled_from([*LITERALS, "{p}", "{p:int}"])
conditions = st.fixed_dictionaries({}, optional={
    "header": st.dictionaries(st.sampled_from(["X", "Y"]), st.sampled_from(["1", "2", "*"]), max_size=2),
    "query": st.dictionaries(st.sampled_from(["q", "r"]), st.sampled_from(["1", "*"]), max_size=1),
    "cookie": st.dictionaries(st.just("c"), st.sampled_from(["1", "*"]), max_size=1)})


@st.composite
def a_route(draw):
    segments = draw(st.lists(pattern_segments, min_size=1, max_size=3)) + draw(st.sampled_from([[], [], ["*"], ["{rest:path}"]]))
    names = iter("uvwxyz")
    path = "".join("/" + re.sub("p", next(names), segment, count=1) if segment.startswith("{p") else "/" + segment
                   for segment in segments)
    host = draw(st.sampled_from([None, None, "a.t", "*.t", "*.a.t"]))
    methods = draw(st.sampled_from([None, None, ["GET"], ["HEAD"], ["GET", "PUT"], ["PUT"]]))
    return Route(path=path, host=host, methods=methods, **draw(conditions))


@st.composite
def sound_routes(draw):
    kept = []
    for route in draw(st.lists(a_route(), min_size=1, max_size=8)):
        if not problems([*kept, route]):
            kept.append(route)
    return kept


@st.composite
def a_request(draw):
    target = "".join("/" + segment for segment in draw(st.lists(path_segments, min_size=1, max_size=4)))
    target += draw(st.sampled_from(["", "", "?q=1", "?r=1&q=2"]))
    headers = draw(st.lists(st.sampled_from([("X", "1"), ("x", "2"), ("Y", "1"), ("Cookie", "c=1"), ("Cookie", "d=1; c=2")]),
                            max_size=3))
    return ask(draw(st.sampled_from(["GET", "HEAD", "PUT", "POST"])), target, draw(st.sampled_from(["", "a.t", "b.t", "x.a.t:80"])),
               headers)


def first(pairs, name):
    return next((value for key, value in pairs if key == name), None)


def slow_match(route, request):
    """The rule read aloud: None when the route does not match, else what decides, smaller first."""
    pieces = [unquote_to_bytes(piece).decode("latin-1") for piece in request.path[1:].split("/")]
    patterns = [unquote_to_bytes(piece).decode("latin-1") for piece in route.path[1:].split("/")]
    if patterns[-1] == "*" or patterns[-1].endswith(":path}"):
        if len(pieces) < len(patterns):
            return None
        pieces = [*pieces[:len(patterns) - 1], "rest"]
    if len(pieces) != len(patterns):
        return None
    ranks = []
    for piece, pattern in zip(pieces, patterns):
        if pattern == "*" or pattern.endswith(":path}"):
            ranks.append(3)
        elif pattern.endswith(":int}"):
            ranks.append(1 if re.fullmatch("[0-9]+", piece) else None)
        elif pattern.startswith("{"):
            ranks.append(2 if piece else None)
        else:
            ranks.append(0 if piece == pattern else None)
    host = request.host.partition(":")[0]
    if route.host is None:
        host_rank = (2, 0)
    elif route.host.startswith("*"):
        host_rank = (1, -len(route.host)) if host.endswith(route.host[1:]) else None
    else:
        host_rank = (0, 0) if host == route.host else None
    method = 2 if route.methods is None else 0 if request.method in route.methods else \
        1 if request.method == "HEAD" and "GET" in route.methods else None
    fields = [(name.lower(), value) for name, value in request.headers]
    query = [tuple(piece.split("=")) for piece in (request.query or "x=").split("&")]
    cookies = [tuple(piece.strip().split("=")) for name, value in fields if name == "cookie" for piece in value.split(";")]
    exact = 0
    for pairs, asked in ((fields, {name.lower(): value for name, value in route.header.items()}), (query, route.query),
                         (cookies, route.cookie)):
        for name, value in asked.items():
            found = first(pairs, name)
            if found is None or value not in ("*", found):
                return None
            exact += value != "*"
    if None in ranks or host_rank is None or method is None:
        return None
    counts = len(route.header), len(route.query), len(route.cookie)
    return host_rank, ranks, method, -sum(counts), *(-count for count in counts), -exact


@given(sound_routes(), st.lists(a_request(), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_the_order_in_the_file_never_matters_and_the_rule_decides(routes, requests, shuffler):
    shuffled = routes.copy()
    shuffler.shuffle(shuffled)
    table, other = routed(*routes), routed(*shuffled)
    for request in requests:
        ranked = sorted((rank, route.name) for route in routes if (rank := slow_match(route, request)) is not None)
        expected = ranked[0][1] if ranked else None
        found = winner(table, request)
        assert found == (expected or found)
        assert isinstance(found, int) == (expected is None)
        assert winner(other, request) == found
        explanation = table.explain(request)
        assert (explanation.route.name if explanation.route else explanation.error.status) == found
        assert len(ranked) < 2 or ranked[0][0] != ranked[1][0]               # what ``problems`` lets through is never a tie


def test_the_order_in_which_routes_are_listed():
    listed = [Route(path="/a", host="a.test"), Route(path="/*", host="*.a.test"), Route(path="/b", host="*.test"),
              Route(path="/a", methods=["GET"]), Route(path="/a", header={"X": "1"}), Route(path="/a", header={"X": "*"}),
              Route(path="/a", query={"q": "1"}), Route(path="/a", cookie={"c": "1"}), Route(path="/a"), Route(path="/{x:int}/{y}"),
              Route(path="/{x}/y"), Route(path="/{x}/{y:int}"), Route(path="/{x}/{y}"), Route(path="/{x}/*"), Route(path="/*")]
    for seed in range(10):
        shuffled = random.Random(seed).sample(listed, len(listed))
        assert sorted(shuffled, key=specificity) == listed


@given(sound_routes(), st.lists(a_request(), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_routes_are_listed_in_the_order_in_which_they_win(routes, requests):
    table, listed = routed(*routes), sorted(routes, key=specificity)
    for request in requests:
        if request.method != "HEAD":                     # of GET and HEAD, both named, the request decides
            matching = [route.name for route in listed if slow_match(route, request) is not None]
            assert matching[:1] == ([found] if isinstance(found := winner(table, request), str) else [])


def test_the_same_table_in_any_order():
    names = ["/*", "/a/*", "/a/{x}", "/a/{x:int}", "/a/b", "/{x}/b", "/{x:int}/b"]
    asked = [ask(target=target) for target in ("/", "/a/b", "/a/1", "/a/x", "/a/b/c", "/1/b", "/x/b", "/x/y")]
    expected = [winner(routed(*names), request) for request in asked]
    for seed in range(20):
        random.Random(seed).shuffle(names)
        assert [winner(routed(*names), request) for request in asked] == expected
