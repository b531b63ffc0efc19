"""Patterns: mistakes in routes, and the hints that go with them."""

from __future__ import annotations

import sys

import pytest

from gateway.config import Route
from gateway.routing.pattern import problems
from tests.routing.route_tables import ask, routed, winner


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
