"""Values of another type than the source declares: a compiled function refuses them with a TypeError, at once.

What clients and upstreams send cannot be one: what they send as JSON may be any value, and is declared so. Users' own code can.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.deadline import Deadline
from gateway.errors import BadRequest, PartFailed
from gateway.message import Call, Response
from tests.aggregate.composing import answer_of, body_of, built, parts, request
from tests.compiled import COMPILED

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "a", "b", "0", ""]), inner, max_size=4),
    max_leaves=12)
PARTS = {
    "whole": "up:/whole",
    "picked": {"from": "up:/picked", "pick": ["id", "a.b"], "optional": True, "default": None},
    "dropped": {"from": "up:/dropped", "drop": ["id"], "optional": True, "default": {}},
    "renamed": {"from": "up:/renamed", "rename": {"id": "a"}, "optional": True, "default": {}},
    "merged": {"from": "up:/merged", "merge": True, "optional": True, "default": {}},
    "needs": {"from": "up:/{whole.id}?a={whole.a.0:-none}&b={body.a.b:-none}", "optional": True, "default": None},
    "posts": {"from": "up:/posts", "method": "POST", "json": {"id": "{whole.id}", "text": "<{body.id}>"}, "optional": True,
              "default": None},
}


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*PARTS]), JSON), JSON)
def test_whatever_json_comes_in_the_answer_is_one_or_says_what_was_wrong(answers, body):
    def send(upstream, call):
        return answer_of(json.dumps(answers.get(call.target.strip("/").partition("?")[0], {"id": 1})).encode())

    try:
        response = built(parts(**PARTS), send)(request(body=body_of(json.dumps(body).encode()), method="POST"))
    except (BadRequest, PartFailed):
        return
    assert response.status == 200 and json.loads(response.body).keys() >= PARTS.keys() - {"merged"}


@pytest.mark.parametrize("make", [
    lambda: Response(200, (("Content-Type", "text/plain"),), b""),
    lambda: Response("200", [], b""),
    lambda: Response(200.0, [], b""),
    lambda: Call("GET", b"/", [], deadline=Deadline(1)),
    lambda: Call("GET", "/", {"Accept": "*/*"}, deadline=Deadline(1)),
])
def test_code_of_users_that_gives_another_type_hears_of_it_at_once_where_compiled(make):
    if COMPILED:
        with pytest.raises(TypeError, match="expected; got"):
            make()
    else:
        make()


class Text(str):
    """A str as libraries have them."""


@pytest.mark.parametrize("make", [
    lambda: Response(True, [], b""),                     # a bool is an int
    lambda: Call(Text("GET"), Text("/"), [(Text("Accept"), Text("*/*"))], deadline=Deadline(1)),
    lambda: Response(200, [], iter([b""])),
])
def test_what_is_of_the_type_by_inheritance_is_taken(make):
    make()
