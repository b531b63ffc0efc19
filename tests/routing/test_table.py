import random
import re
import sys
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Route
from gateway.errors import ConfigError, MethodNotAllowed, NoRoute
from gateway.message import Request
from gateway.routing.pattern import problems, specificity
from gateway.routing.table import Table


@pytest.fixture(autouse=True)
def leaks():
    """Nothing here can leak, and looking for what did would take longer than the tests."""


def routed(*routes, **settings):
    """A table of paths, or of routes, whose targets are the paths as they are written."""
    made = [route if isinstance(route, Route) else Route(path=route, **settings) for route in routes]
    return Table((route, route.name) for route in made)


def ask(method="GET", target="/", host="", headers=()):
    return Request(method, target, list(headers), host=host)


def winner(table, request):
    try:
        return table.match(request)[0]
    except (NoRoute, MethodNotAllowed) as error:
        return error.status


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


# -- which route goes first

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


def test_what_takes_the_same_with_text_beside_it_is_a_clash():
    for one, other in [("/{a}.json", "/{b}.json"), ("/{a:path}/x", "/{b:path}/x"), ("/{a}-{b}", "/{c}-{d}"),
                       ("/{a}%2Ejson", "/{b}.json")]:
        assert "two routes match the same requests" in problems([Route(path=one), Route(path=other)])[0]
    for one, other in [("/{a}.json", "/{b}.xml"), ("/{a}.json", "/{b:int}.json"), ("/a{x}", "/{x}b"),
                       ("/{a:path}/x", "/{b:path}/{x}"), ("/{a:path}/x", "/{b}/{a:path}/x"), ("/{a}-{b}", "/{a}-{b:int}")]:
        assert problems([Route(path=one), Route(path=other)]) == []


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


def test_the_cookies_are_read_only_for_a_route_that_asks():
    class Watched(Request):
        __slots__ = ("asked",)

        def header_list(self, name):
            self.asked.append(name)
            return super().header_list(name)

    table = routed("/plain", "/*", Route(path="/a", header={"X-A": "1"}, cookie={"side": "new"}),
                   Route(path="/b", cookie={"a": "1"}), Route(path="/b", cookie={"b": "1", "c": "1"}))
    for path, headers, expected in [("/plain", [], 0), ("/else", [], 0), ("/a", [], 0), ("/a", [("X-A", "1")], 1), ("/b", [], 1)]:
        request = Watched("GET", path, headers)
        request.asked = []
        table.match(request)
        assert len(request.asked) == expected, path


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


# -- mistakes in routes

@pytest.mark.parametrize("path, expected", [
    ("users", '"users" must start with "/": write "/users"'),
    ("", '"" must start with "/": write "/"'),
    ("*", '"*" must start with "/": write "/*"'),
    ("https://shop.org/u", '"https://shop.org/u" must start with "/"; did you mean path = "/u" with host = "shop.org"?'),
    ("http://shop.org", '"http://shop.org" must start with "/"; did you mean path = "/" with host = "shop.org"?'),
    *((path, f'"{path}" must start with "/"; regular expressions are not known here: {{name}} is one segment, /* at the end is all'
       " that follows") for path in ("^/u/", "~ ^/u/", "~* .php$", "(a|b)/c")),
    ("/{id", 'a brace of "{id" has no partner; a brace itself is written %7B or %7D'),
    ("/id}", 'a brace of "id}" has no partner; a brace itself is written %7B or %7D'),
    ("/{}", '"" is not the name of a parameter: letters, digits and _ only, not beginning with a digit'),
    ("/{1st}", '"1st" is not the name of a parameter: letters, digits and _ only, not beginning with a digit'),
    ("/{a-b}", '"a-b" is not the name of a parameter: letters, digits and _ only, not beginning with a digit'),
    ("/{id:uuid}", '"uuid" in {id:uuid} is unknown: {id}, {id:int} and {id:path} are what there is'),
    ("/{x}{y}", '"{x}{y}": nothing says where one parameter ends and the next begins; put text between them'),
    ("/a-{x:path}", '"a-{x:path}": what takes several segments stands alone between its slashes'),
    ("/{a}-{a}", "{a} stands twice; give the second another name"),
    ("/{x}.*", '".*": * is a whole segment at the end, or written %2A'),
    ("/{x}.{y", 'a brace of "{x}.{y" has no partner; a brace itself is written %7B or %7D'),
    ("/{a}/{a}", "{a} stands twice; give the second another name"),
    ("/{a}/{a:path}", "{a} stands twice; give the second another name"),
    ("/{a:path}/x/*", '"/{a:path}/x/*" has two parameters that take several segments, and where one ends could not be told'),
    ("/*/x", "/* stands at the end only; one segment is {name}, several are {name:path}"),
    ("/a*", '"a*": * is a whole segment at the end, or written %2A'),
    ("/a?b=1", 'a "?" never comes in a path, so nothing can match; write %3F for an encoded one'),
    ("/a#b", 'a "#" never comes in a path, so nothing can match; write %23 for an encoded one'),
    ("/a b", "a space never comes in a path, so nothing can match; write %20 for an encoded one"),
    ("/a\tb", "a control character never comes in a path, so nothing can match; write %09 for an encoded one"),
    ("/100%", '"100%": two hexadecimal digits follow a %; a % itself is written %25'),
    ("/%zz", '"%zz": two hexadecimal digits follow a %; a % itself is written %25'),
])
def test_patterns_that_cannot_be(path, expected):
    assert problems([Route(path=path)]) == [f'route "{path}": path: {expected}']


@pytest.mark.parametrize("path, meant, more", [
    ("/u/<int:id>", "/u/{id:int}", ""), ("/u/<int:id>/<name>", "/u/{id:int}/{name}", ""), ("/f/<path:rest>", "/f/{rest:path}", ""),
    ("/u/<uuid:id>.json", "/u/{id}.json", ""), ("/u/<string(length=2):s>/<int(min=1):n>", "/u/{s}/{n:int}", ""),
    ("/blog/<slug:name>/", "/blog/{name}/", ""), ("blog/<int:year>/", "/blog/{year:int}/", ""),
    (r"^users/(?P<id>\d+)/$", "/users/{id:int}/", ""), (r"^f/(?P<name>[\w-]+)$", "/f/{name}", ""),
    ("/u/:id", "/u/{id}", "%3A"), (r"/u/:id(\d+)/x", "/u/{id:int}/x", "%3A"), ("/u/:id?", "/u/{id}", "another route"),
    ("/f/:rest*", "/f/{rest:path}", "another route"), ("/f/*rest", "/f/{rest:path}", ""), ("/u/{id?}", "/u/{id}", "another route"),
    ("/u/{id=5}", "/u/{id}", "another route"), ("/f/{*rest}", "/f/{rest:path}", ""), ("/f/{**rest}", "/f/{rest:path}", ""),
    ("/f/{rest...}", "/f/{rest:path}", ""), ("/u/{$}", "/u/", ""), ("/u/{id:[0-9]+}", "/u/{id:int}", ""),
    ("/f/{rest:.*}", "/f/{rest:path}", ""), ("/u/{name:[a-z]+}.json", "/u/{name}.json", ""), ("/a/**", "/a/*", ""),
    ("/f/:name.json", "/f/{name}.json", "%3A"), ("/f/:from-:to", "/f/{from}-{to}", "%3A"),
    ("/f/:id.:format", "/f/{id}.{format}", "%3A"), ("/{proxy+}", "/{proxy:path}", ""), ("/f/{rest*}", "/f/{rest:path}", ""),
    ("/u/[id]/x", "/u/{id}/x", "%5B"),
    ("/f/[...rest]", "/f/{rest:path}", "%5B"), ("/f/[[...rest]]", "/f/{rest:path}", "another route")])
def test_a_path_in_the_notation_of_others_names_ours(path, meant, more):
    (problem,) = problems([Route(path=path)])
    assert f"did you mean {meant}?" in problem and more in problem
    assert problems([Route(path=meant)]) == []


@pytest.mark.parametrize("path", ["/v1/things:batch", "/{id}:cancel", "/a:b/c", "/%3Aid", "/$metadata", "/a(b)/c", "/{id:int}",
                                  "/x=1", "/~u", "/a[0]", "/[]", "/%5Bid%5D"])
def test_what_only_looks_like_it_is_left_alone(path):
    assert problems([Route(path=path)]) == []


@pytest.mark.parametrize("host, expected", [
    ("*", '"*" is what a route without host matches; leave it out'),
    ("*.*.org", '"*.*.org": * stands alone before the first dot, as in "*.example.org"'),
    ("shop*.org", '"shop*.org": * stands alone before the first dot, as in "*.example.org"'),
    ("shop.org:80", '"shop.org:80" has a port or a scheme; a route\'s host is the name alone'),
    ("http://shop.org", '"http://shop.org" has a port or a scheme; a route\'s host is the name alone'),
    ("bücher.example", '"bücher.example" comes in requests as "xn--bcher-kva.example"; write that'),
    ("a..b", '"a..b" is not a host name'),
    ("-a.test", '"-a.test" is not a host name'),
    ("a b", '"a b" is not a host name'),
    ("", '"" is not a host name'),
    ("x" * 64, f'"{"x" * 64}" is not a host name'),
])
def test_hosts_that_cannot_be(host, expected):
    assert problems([Route(path="/", host=host)]) == [f'route "{host}/": host: {expected}']


@pytest.mark.parametrize("host", ["shop.test", "Shop.Test.", "*.test", "my_service", "127.0.0.1", "[::1]", "xn--bcher-kva.example"])
def test_hosts_that_can_be(host):
    assert problems([Route(path="/", host=host)]) == []


@pytest.mark.parametrize("settings, expected", [
    ({"methods": []}, "methods: is empty, so nothing can match; leave it out for every method"),
    ({"methods": ["TRACE", "CONNECT"]}, "methods: the gateway refuses CONNECT and TRACE, so nothing can match"),
    ({"methods": ["GET", "GET"]}, "methods: one stands twice"),
    ({"cookie": {"a;b": "1"}}, "cookie.a;b: no cookie can have this name and value, so nothing can match"),
    ({"cookie": {"a": "1;2"}}, "cookie.a: no cookie can have this name and value, so nothing can match"),
    ({"cookie": {"a": '"x"'}}, 'cookie.a: quotes around the value of a cookie do not count, so nothing can match; write "x"'),
    ({"header": {"X_Y": "*"}},
     'header.X_Y: a request with a "_" in the name of a field is refused, so nothing can match; is X-Y meant?'),
    ({"query": {"": "1"}}, "query: a parameter needs a name"),
])
def test_routes_that_nothing_can_reach(settings, expected):
    route = Route(path="/", **settings)
    assert problems([route]) == [f'route "{route.name}": {expected}']


@pytest.mark.parametrize("settings, headers", [
    ({"cookie": {"a": '"'}}, [("Cookie", 'a="')]), ({"cookie": {"a": 'x"y'}}, [("Cookie", 'a=x"y')]),
    ({"cookie": {"a": "voilà"}}, [("Cookie", "a=voil\xc3\xa0; b=1")]), ({"cookie": {"é": "1"}}, [("Cookie", "\xc3\xa9=1")]),
    ({"header": {"X": "voilà"}}, [("X", "voil\xc3\xa0")]), ({"query": {"a=+&": "+&=é"}}, []),
])
def test_conditions_of_all_kinds_of_text_can_be_met(settings, headers):
    route = Route(path="/", **settings)
    assert problems([route]) == []
    assert winner(routed(route), ask(target="/?a%3D%2B%26=%2B%26=%C3%A9", headers=headers)) == route.name


X1, X2, XANY = {"header": {"X": "1"}}, {"header": {"x": "2"}}, {"header": {"X": "*"}}
Y1, Q1 = {"header": {"Y": "1"}}, {"query": {"q": "1"}}


@pytest.mark.parametrize("one, other, clash", [
    ({"path": "/a"}, {"path": "/a"}, True),
    ({"path": "/a"}, {"path": "/%61"}, True),
    ({"path": "/a"}, {"path": "/a/"}, False),
    ({"path": "/{x}"}, {"path": "/{y}"}, True),
    ({"path": "/{x}"}, {"path": "/{y:int}"}, False),
    ({"path": "/a/*"}, {"path": "/a/{rest:path}"}, True),
    ({"path": "/", "host": "a.test"}, {"path": "/", "host": "A.test."}, True),
    ({"path": "/", "host": "a.test"}, {"path": "/", "host": "*.test"}, False),
    ({"path": "/", "host": "a.test"}, {"path": "/"}, False),
    ({"path": "/", "methods": ["GET", "PUT"]}, {"path": "/", "methods": ["PUT", "POST"]}, True),
    ({"path": "/", "methods": ["GET"]}, {"path": "/", "methods": ["PUT"]}, False),
    ({"path": "/", "methods": ["GET"]}, {"path": "/", "methods": ["HEAD"]}, False),
    ({"path": "/", "methods": ["GET"]}, {"path": "/"}, False),
    ({"path": "/", **X1}, {"path": "/"}, False),
    ({"path": "/", **X1}, {"path": "/", **X1}, True),
    ({"path": "/", **X1}, {"path": "/", **X2}, False),
    ({"path": "/", **X1}, {"path": "/", **XANY}, False),
    ({"path": "/", **X1}, {"path": "/", **Y1}, True),
    ({"path": "/", **X1}, {"path": "/", **Q1}, False),
    ({"path": "/", "header": {"X": "1", "Y": "*"}}, {"path": "/", "header": {"X": "*", "Y": "1"}}, True),
    ({"path": "/", "header": {"X": "1", "Y": "*"}}, {"path": "/", "header": {"X": "2", "Z": "*"}}, False),
    ({"path": "/", "methods": ["GET"], **X1}, {"path": "/", "methods": ["PUT"], **Y1}, False),
])
def test_two_routes_match_the_same_requests(one, other, clash):
    for pair in ([one, other], [other, one]):
        assert bool(problems([Route(**settings) for settings in pair])) == clash


def test_both_are_named():
    assert problems([Route(path="/{x}"), Route(path="/a"), Route(path="/{y}")]) == [
        'route "/{x}" and route "/{y}": two routes match the same requests; remove one, or tell them apart by host, methods or a'
        " condition"]
    assert problems([Route(path="/a"), Route(path="/a")]) == [
        'route "/a" (number 1) and route "/a" (number 2): two routes match the same requests; remove one, or tell them apart by'
        " host, methods or a condition"]
    assert problems([Route(path="/", methods=["GET", "PUT"]), Route(path="/", methods=["PUT", "LOCK"])]) == [
        'route "GET,PUT /" and route "PUT,LOCK /": two routes match the same requests; both name PUT']


def test_many_routes_told_apart_by_a_header_are_checked_without_looking_at_every_pair():
    routes = [Route(path="/", header={"X-Tenant": str(n)}) for n in range(3000)]
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        found = problems([*routes, routes[0]])
    finally:
        sys.setprofile(None)
    assert len(found) == 1
    assert calls < 100 * len(routes)


def test_the_same_table_in_any_order():
    names = ["/*", "/a/*", "/a/{x}", "/a/{x:int}", "/a/b", "/{x}/b", "/{x:int}/b"]
    asked = [ask(target=target) for target in ("/", "/a/b", "/a/1", "/a/x", "/a/b/c", "/1/b", "/x/b", "/x/y")]
    expected = [winner(routed(*names), request) for request in asked]
    for seed in range(20):
        random.Random(seed).shuffle(names)
        assert [winner(routed(*names), request) for request in asked] == expected
