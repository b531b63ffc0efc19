"""Every mistake in the parts of a composition, in the words of ``gateway check``. What templates refuse is in test_template.py."""

import pytest

from gateway.config import Part
from gateway.configfile.load import load_text
from gateway.configfile.part_checks import check_parts
from gateway.errors import ConfigError


def found(declared, params=("id",)):
    parts = {name: Part.model_validate(part) for name, part in declared.items()}
    return list(check_parts(parts, params, ("a", "b")))


DEEP: list = []
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize("declared", [
    {"user": "a:/{id}", "team": {"from": "b:/{user.team}?x={query.x:-1}", "json": {"a": ["{header.X}"]}}},
    {"a": {"from": "a:/", "merge": True, "pick": ["x"]}, "b": {"from": "a:/", "merge": True, "pick": ["y"]}, "c": "a:/"},
    {"a": {"from": "a:/", "pick": ["x", "y"], "rename": {"x": "y", "y": "x"}}},
    {"a": {"from": "a:/", "merge": True, "optional": True}},
    {"a": {"from": "a:/", "merge": True, "optional": True, "default": {"x": 1}}},
    {"id": "a:/{id}", "b": "a:/{id.x}"},                 # {id} is the parameter, {id.x} a field of the part
])
def test_nothing_is_wrong(declared):
    assert found(declared) == []


@pytest.mark.parametrize("declared, problems", [
    ({"a b": "a:/"}, ['aggregate."a b": the name of a part is letters, digits, "-" and "_"']),
    ({"query": "a:/"}, ["aggregate.query: {query.x} already means a query parameter of the request; give the part another name"]),
    ({"a": "/users"}, ['aggregate.a.from: "/users" is not an upstream and a path: write it like "orders:/by-user/{id}"']),
    ({"a": "c:/"}, ['aggregate.a.from: there is no upstream "c"; there is a, b']),
    ({"a": "a:/x y"}, ["aggregate.a.from: '/x y' is not a path with an optional query: other characters are written"
                       " percent-encoded"]),
    ({"user": "a:/", "b": "b:/{usr.x}"}, ["aggregate.b.from: {usr.x}: there is no part 'usr', did you mean user?"]),
    ({"a": "a:/{idd}"}, ["aggregate.a.from: {idd}: the path has no parameter 'idd', did you mean id?"]),
    ({"a": "a:/{a.x}"}, ["aggregate.a: waits for its own answer"]),
    ({"a": "a:/{b.x}", "b": "a:/{a.x}"}, ["aggregate: parts wait for each other in a circle: a -> b -> a"]),
    ({"a": {"from": "a:/", "headers": {"X-A": "{"}}},
     ["aggregate.a.headers.X-A: '{' has a { without its partner; a brace itself is written twice"]),
    ({"a": {"from": "a:/", "headers": {"Host": "h"}}},
     ["aggregate.a.headers.Host: the gateway alone decides about this header field"]),
    ({"a": {"from": "a:/", "forward_headers": ["X-A", "accept-encoding"]}},
     ["aggregate.a.forward_headers[1]: the gateway alone decides about this header field"]),
    ({"a": {"from": "a:/", "json": {"x": 2 ** 70}}}, ["aggregate.a.json: cannot be written as JSON: Integer exceeds 64-bit range"]),
    ({"a": {"from": "a:/", "optional": True, "default": DEEP}},
     ["aggregate.a.default: cannot be written as JSON: Recursion limit reached"]),
    ({"a": {"from": "a:/", "default": 1}}, ["aggregate.a.default: has no effect without optional = true"]),
    ({"a": {"from": "a:/", "merge": True, "optional": True, "default": 1}},
     ["aggregate.a.default: has to be a table, since the part is merged"]),
    ({"a": {"from": "a:/", "pick": ["name"], "rename": {"nmae": "x"}}},
     ['aggregate.a.rename: "nmae" is not picked, did you mean name?']),
    ({"a": {"from": "a:/", "pick": ["x", "y"], "rename": {"x": "y"}}}, ['aggregate.a.pick: the answer has "y" already, from a']),
    ({"a": {"from": "a:/", "rename": {"x": "z", "y": "z"}}}, ['aggregate.a.rename: the answer has "z" already, from a']),
    ({"a": {"from": "a:/", "merge": True, "pick": ["b"]}, "b": "b:/"}, ['aggregate.a.pick: the answer has "b" already, from b']),
    ({"a": {"from": "a:/", "merge": True, "rename": {"x": "b"}}, "b": "b:/"},
     ['aggregate.a.rename: the answer has "b" already, from b']),
    ({"a": {"from": "a:/", "merge": True, "pick": ["x"]}, "b": {"from": "b:/", "merge": True, "pick": ["x"]}},
     ['aggregate.b.pick: the answer has "x" already, from a']),
])
def test_each_mistake_in_its_own_words(declared, problems):
    assert found(declared) == problems


def test_all_of_them_come_at_once_with_those_of_the_rest_of_the_file():
    with pytest.raises(ConfigError) as caught:
        load_text("""
            [gateway]
            timeout = "soon"
            [upstreams.a]
            instances = ["http://a"]
            [[routes]]
            path = "/x"
            [routes.aggregate]
            one = { from = "a:/{two.x}", pick = ["x"], rename = { y = "z" }, headers = { Via = "me" } }
            two = { from = "a:/{one.x}", merge = true, pick = ["one"], optional = true, default = 1 }
            three = { from = "c:/", method = "POST", json = "{", forward_headers = ["Host"] }
        """, {})
    assert [": ".join(problem.split(": ")[:2]) for problem in caught.value.problems] == [
        "gateway: timeout", 'route "/x": methods', 'route "/x": aggregate.one.headers.Via', 'route "/x": aggregate.one.rename',
        'route "/x": aggregate.two.default', 'route "/x": aggregate.three.from',
        'route "/x": aggregate.three.forward_headers[0]', 'route "/x": aggregate.three.json', 'route "/x": aggregate',
        'route "/x": aggregate.two.pick']
