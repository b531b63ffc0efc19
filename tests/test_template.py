"""Templates: what they accept, what references mean, and that no value can leave the place where it stands."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError, PartFailed
from gateway.message import Request
from gateway.template import Inputs, References, fill, header_template, json_template, target_template


def references(params=None):
    return References("me", ("me", "user", "orders"), params)


def inputs(params, target="/", headers=(), body=None, **answers):
    """What templates read. ``params`` may hold values of any type, as the answers of parts do."""
    made = Inputs(Request("GET", target, list(headers)))
    made.request.params = params
    made.answers.update(answers)
    if body is not None:
        made.body = body
    return made


def test_a_template_filled_in_part():
    read = references()
    template = target_template("/{id}/{user.x}?q={query.q:-a b}&r={query.r}&o={orders.0.id:-1}", read)
    known = [hole for hole in read.holes if hole.reference != "query.r"]
    assert template.partly(inputs({"id": "a/b"}), known) == "/a%2Fb/{user.x}?q=a%20b&r={query.r}&o={orders.0.id:-1}"


@pytest.mark.parametrize("text, params, filled", [
    ("/users", {}, "/users"),
    ("/", {}, "/"),
    ("/users/{id}", {"id": "7"}, "/users/7"),
    ("/{a}/{b}?c={c}&d={d}", {"a": "1", "b": "2", "c": "3", "d": "4"}, "/1/2?c=3&d=4"),
    ("/{a}{b}-{a}", {"a": "x", "b": "y"}, "/xy-x"),
    ("/users/{id}", {"id": "a/b?c#d"}, "/users/a%2Fb%3Fc%23d"),
    ("/users/{id}", {"id": "50% é\r\n"}, "/users/50%25%20%C3%A9%0D%0A"),
    ("/users/{id}", {"id": "\udcff"}, "/users/%FF"),
    ("/users/{id}", {"id": "..."}, "/users/..."),
    ("/s?q={q}", {"q": "a&b=c+d e;f"}, "/s?q=a%26b%3Dc%2Bd%20e%3Bf"),
    ("/s?q={q}", {"q": ""}, "/s?q="),
    ("/s?q={q}", {"q": ".."}, "/s?q=.."),
    ("/s?filter[x]={q}", {"q": "1"}, "/s?filter[x]=1"),
    ("/s?q={q:-a b}", {}, "/s?q=a%20b"),
    ("/s?q={q:-}", {}, "/s?q="),
    ("/s?q={q:-1}", {"q": None}, "/s?q=1"),
    ("/s?q={q:-1}", {"q": "2"}, "/s?q=2"),
    ("/s?q={q:-1}", {"q": ""}, "/s?q="),
    ("/s/{q:-?}/{r}", {"r": "x"}, "/s/%3F/x"),
    ("/n/{n}", {"n": 7}, "/n/7"),
    ("/n/{n}", {"n": 0}, "/n/0"),
    ("/n/{n}", {"n": -1.5}, "/n/-1.5"),
    ("/n/{n}", {"n": True}, "/n/true"),
    ("/n/{n}", {"n": False}, "/n/false"),
    ("/n/%7Bx%7D", {}, "/n/%7Bx%7D"),
    ("/n?back=/../x", {}, "/n?back=/../x"),
])
def test_target(text, params, filled):
    template = target_template(text, references())
    assert template(inputs(params)) == filled
    assert repr(template) == text


@pytest.mark.parametrize("text, params, why", [
    ("/users/{id}", {}, "is missing"),
    ("/users/{id}", {"id": None}, "is missing"),
    ("/users/{id}", {"id": ""}, "is '', which is no path segment"),
    ("/users/{id}", {"id": "."}, "is '.', which is no path segment"),
    ("/users/{id}", {"id": ".."}, "is '..', which is no path segment"),
    ("/users/.{id}", {"id": "."}, "is '.', which is no path segment"),
    ("/users/{id}", {"id": {"x": 1}}, "is not a single value"),
    ("/users/{id}", {"id": [1]}, "is not a single value"),
    ("/users/{id}", {"id": "\ud800"}, "is not UTF-8"),
    ("/users?id={id}", {}, "is missing"),
    ("/users?id={id:-1}", {"id": []}, "is not a single value"),
])
def test_target_refuses_the_value(text, params, why):
    with pytest.raises(BadRequest) as caught:
        target_template(text, references())(inputs(params))
    assert str(caught.value) == f"path parameter 'id' {why}"


@pytest.mark.parametrize("text, why", [
    ("", "is not a path"),
    ("users", "is not a path"),
    ("//host/users", "is not a path"),
    ("http://host/users", "is not a path"),
    ("/a b", "is not a path"),
    ("/a\r\nX: y", "is not a path"),
    ("/é", "is not a path"),
    ("/a#b", "is not a path"),
    ("/a[b]", "is not a path"),
    ("/%", "is not a path"),
    ("/%{id}", "is not a path"),
    ("/%4{id}", "is not a path"),
    ("/a/../b", "has dot segments"),
    ("/a/.", "has dot segments"),
    ("/a/%2E./b", "has dot segments"),
    ("/..?x={id}", "has dot segments"),
    ("/{", "without its partner"),
    ("/{id", "without its partner"),
    ("/id}", "without its partner"),
    ("/{a{b}}", "without its partner"),
    ("/{}", "{} is not a reference"),
    ("/{id:int}", "{id:int} is not a reference"),
    ("/{a b}", "{a b} is not a reference"),
    ("/{id:-}", "the default of {id} is '', which is no path segment"),
    ("/{id:-..}", "the default of {id} is '..', which is no path segment"),
    ("/{usr.id}", "{usr.id}: there is no part 'usr', did you mean user?"),
    ("/{qery.x}", "{qery.x}: there is no part 'qery', did you mean query?"),
    ("/{query}", "{query}: the path has no parameter 'query'"),
    ("/{user}", "{user} is a whole answer; write the field that is meant, {user.field}"),
    ("/{user.}", "{user.}: there is no part 'user'"),
    ("/{query.}", "{query.}: there is no part 'query'"),
    ("/{idd}", "{idd}: the path has no parameter 'idd', did you mean id?"),
])
def test_target_refuses_the_template(text, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        target_template(text, references(params=("id", "a", "b")))


HEADERS = [("Host", "h"), ("x-tenant", "caf\xc3\xa9"), ("X-Tenant", "second"), ("cookie", 'a=1; b="two"; a=2'), ("Cookie", "c=3=4"),
           ("X-Empty", "")]


@pytest.mark.parametrize("reference, value", [
    ("id", "7"),
    ("query.page", "2"),
    ("query.a.b", "x y z"),
    ("query.empty", ""),
    ("query.raw", "é"),
    ("query.bad", "\udcff"),
    ("query.none:-gone", "gone"),
    ("header.X-Tenant", "café"),
    ("header.X-Empty", ""),
    ("header.X-None:-gone", "gone"),
    ("cookie.a", "1"),
    ("cookie.b", "two"),
    ("cookie.c", "3=4"),
    ("cookie.d:-gone", "gone"),
    ("body.items.0.id", 5),
    ("body.items.1.id:-gone", "gone"),
    ("body.note", None),
    ("user.address.city", "Linz"),
    ("user.address", {"city": "Linz"}),
    ("user.tags.1", "b"),
    ("user.tags.2:-gone", "gone"),
    ("user.tags.-1:-gone", "gone"),
    ("user.tags.first:-gone", "gone"),
    ("user.0", "a field called 0"),
    ("user.address.city.street:-gone", "gone"),
    ("user.nobody.city:-gone", "gone"),
    ("orders.0", 1),
    ("me.x:-gone", "gone"),
])
def test_what_references_mean(reference, value):
    read = inputs({"id": "7"}, "/x?page=2&page=3&a.b=x+y%20z&empty=&raw=\xc3\xa9&bad=%FF", HEADERS,
                  {"items": [{"id": 5}], "note": None},
                  user={"address": {"city": "Linz"}, "tags": ["a", "b"], "0": "a field called 0"}, orders=[1, 2], me=None)
    if value == "\udcff":
        assert target_template(f"/?{{{reference}}}", references())(read) == "/?%FF"
    else:
        assert fill(json_template(f"{{{reference}}}", references()), read) == value


@pytest.mark.parametrize("reference, error, text", [
    ("id", BadRequest, "path parameter 'id' is missing"),
    ("query.page", BadRequest, "query parameter 'page' is missing"),
    ("header.X-Tenant", BadRequest, "header field 'X-Tenant' is missing"),
    ("cookie.sid", BadRequest, "cookie 'sid' is missing"),
    ("body", BadRequest, "path parameter 'body' is missing"),
    ("body.a.b", BadRequest, "field of the body 'a.b' is missing"),
    ("user.team_id", PartFailed, "part 'me': {user.team_id} is missing"),
    ("user.0", PartFailed, "part 'me': {user.0} is missing"),
])
def test_what_is_missing_is_named(reference, error, text):
    with pytest.raises(GatewayError) as caught:
        target_template(f"/{{{reference}}}", references())(inputs({}, user=None))
    assert type(caught.value) is error
    assert caught.value.detail == text


def test_references_say_what_they_read():
    read = references()
    target_template("/{id}/{user.team_id}?x={orders.0.id}&y={query.y:-1}&z={user.name}", read)
    assert read.after == ["user", "orders"]
    assert [hole.reference for hole in read.holes] == ["id", "query.y"]


def test_a_name_alone_is_a_path_parameter_even_if_a_part_has_it():
    read = references(["user"])
    assert target_template("/{user}/{user.id}", read)(inputs({"user": "7"}, user={"id": 8})) == "/7/8"
    assert read.after == ["user"]
    with pytest.raises(ValueError, match="is a whole answer"):
        target_template("/{user}", references(None))


@pytest.mark.parametrize("text, params, filled", [
    ("", {}, ""),
    ("Bearer {token}", {"token": "abc=="}, "Bearer abc=="),
    ("{a}/{b:-none}", {"a": "x y"}, "x y/none"),
    ("{{{a}}}", {"a": "1"}, "{1}"),
    ("{{a}}", {}, "{a}"),
    ("é {a} {b:-è}", {"a": "ü"}, "\xc3\xa9 \xc3\xbc \xc3\xa8"),
    ("{a}", {"a": "\udcff"}, "\xff"),
    ("{a}", {"a": "tab\there"}, "tab\there"),
    ("{a}", {"a": 12}, "12"),
])
def test_header(text, params, filled):
    assert header_template(text, references())(inputs(params)) == filled


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\rb", "a\nb", "a\0b", "\x7f", "\x1f"])
def test_header_refuses_control_characters(value):
    with pytest.raises(BadRequest, match="'a' has control characters"):
        header_template("x {a}", references())(inputs({"a": value}))
    with pytest.raises(ValueError, match="control characters"):
        header_template(value, references())
    with pytest.raises(ValueError, match="the default of {a} has control characters"):
        header_template(f"{{a:-{value}}}", references())


@pytest.mark.parametrize("tree, params, filled", [
    ({"x": 1, "y": [True, None, "text"]}, {}, {"x": 1, "y": [True, None, "text"]}),
    ("", {}, ""),
    ("{a}", {"a": 7}, 7),
    ("{a}", {"a": "7"}, "7"),
    ("{a}", {"a": None}, None),
    ("{a}", {"a": [1, {"b": 2}]}, [1, {"b": 2}]),
    ("{a:-d}", {"a": None}, "d"),
    ("{a:-d}", {}, "d"),
    ("{a:-d}", {"a": 0}, 0),
    ("{a:-d}", {"a": False}, False),
    ("no {a}", {"a": 7}, "no 7"),
    ("{{a}}", {}, "{a}"),
    ({"x": {"y": ["{a}", "{b}", "c"]}}, {"a": 1, "b": "é"}, {"x": {"y": [1, "é", "c"]}}),
])
def test_json(tree, params, filled):
    assert fill(json_template(tree, references()), inputs(params)) == filled


@pytest.mark.parametrize("tree, params, why", [
    ("{a}", {}, "is missing"),
    ("x{a}", {"a": None}, "is missing"),
    ("x{a}", {"a": {}}, "is not a single value"),
    ("{a}", {"a": "\udcff"}, "is not UTF-8"),
    (["{a}"], {}, "is missing"),
])
def test_json_refuses_the_value(tree, params, why):
    with pytest.raises(BadRequest, match=f"path parameter 'a' {why}"):
        fill(json_template(tree, references()), inputs(params))


VALUES = st.one_of(st.text(), st.text("/?#&=;%.+ \r\n\0\\@:{}é\udcff", max_size=4), st.integers(), st.booleans(),
                   st.floats(allow_nan=False, allow_infinity=False))
ORIGIN_FORM = re.compile(r"/(?:[A-Za-z0-9\-._~/]|%[0-9A-F]{2})*\?(?:[A-Za-z0-9\-._~&=]|%[0-9A-F]{2})*")
TEMPLATE = target_template("/v1/{a}/x-{b}/z?c={c}&d=1&e={d}", references())
HEADER = header_template("v={a}", references())


@given(VALUES, VALUES, VALUES, VALUES)
def test_a_value_never_leaves_its_place_in_a_target(a, b, c, d):
    try:
        target = TEMPLATE(inputs({"a": a, "b": b, "c": c, "d": d}))
    except BadRequest:
        assert a in ("", ".", "..") or b in ("", ".", "..")
        return
    assert ORIGIN_FORM.fullmatch(target)
    path, _, query = target.partition("?")
    segments = path.split("/")
    assert [segments[0], segments[1], segments[4]] == ["", "v1", "z"] and len(segments) == 5
    assert not {".", ".."} & set(segments)
    assert [parameter.partition("=")[0] for parameter in query.split("&")] == ["c", "d", "e"]
    assert query.count("=") == 3


@given(VALUES)
def test_a_value_never_ends_its_header_line(value):
    try:
        line = HEADER(inputs({"a": value}))
    except BadRequest:
        assert any(ord(character) < 32 or ord(character) == 127 for character in value)
        return
    assert line.startswith("v=") and not set(line.encode("latin-1")) & {0, 10, 13}
