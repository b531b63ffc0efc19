"""The answer of a composition: what is read as JSON, the choice of fields, merge, and how it is shown."""

from __future__ import annotations

import pytest

from gateway.errors import PartFailed
from gateway.message import Response
from tests.aggregate.composing import ANN, answering, built, compose, parts, request


def test_the_answer():
    asked = request(params={"id": "7"})
    body, response = compose(
        {"user": "users:/users/{id}", "orders": "orders:/by-user/{id}?limit=5", "team": "users:/teams/{user.team_id}"},
        {"users:/users/7": {"name": "Ann", "team_id": 3}, "orders:/by-user/7?limit=5": [{"number": 1}], "users:/teams/3": "blue"},
        asked)
    assert response.body == b'{"user":{"name":"Ann","team_id":3},"orders":[{"number":1}],"team":"blue"}'
    assert response.headers == [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


@pytest.mark.parametrize("value", [None, True, 0, "text", [], {}, [1, [2]], {"a": {"b": None}}, 1.5, "é\u2028"])
def test_any_json_value_is_an_answer(value):
    assert compose({"a": "a:/"}, {"a:/": value})[0] == {"a": value}


@pytest.mark.parametrize("status, headers, value", [
    (204, [], None),
    (205, [], None),
    (201, [("CONTENT-TYPE", "Application/JSON")], 1),
    (200, [("Content-Type", "application/hal+json;v=1"), ("Content-Encoding", "identity")], 1),
])
def test_other_successes(status, headers, value):
    assert compose({"a": "a:/"}, {"a:/": Response(status, headers, b"1" if value else b"")})[0] == {"a": value}


@pytest.mark.parametrize("data, value", [
    (b'\xef\xbb\xbf{"id": 1}', {"id": 1}),                # from a PHP whose source file begins with a byte order mark
    (b'"\xef\xbb\xbf"', "\ufeff"),
    (b"18446744073709551615", 2 ** 64 - 1),
    (b"-9223372036854775808", -2 ** 63),
    (b"18446744073709551616", 2.0 ** 64),                 # beyond 64 bits a number is a float
])
def test_how_json_is_read(data, value):
    shown = compose({"a": "a:/"}, {"a:/": data})[0]["a"]
    assert (shown, type(shown)) == (value, type(value))


@pytest.mark.parametrize("settings, value, shown", [
    ({"pick": ["total", "id"]}, ANN, {"total": 5, "id": 1}),
    ({"pick": ["total"]}, [ANN, {"id": 2}], [{"total": 5}, {}]),
    ({"pick": []}, ANN, {}),
    ({"pick": ["none"]}, ANN, {}),
    ({"pick": ["id", "name"], "drop": ["id"]}, ANN, {"name": "Ann"}),
    ({"drop": ["id", "none"]}, ANN, {"name": "Ann", "total": 5}),
    ({"drop": ["id"]}, [ANN], [{"name": "Ann", "total": 5}]),
    ({"drop": ["id"]}, [], []),
    ({"rename": {"total": "sum"}}, ANN, {"id": 1, "name": "Ann", "sum": 5}),
    ({"rename": {"id": "total"}, "drop": ["total"]}, ANN, {"total": 1, "name": "Ann"}),
    ({"pick": ["total"], "rename": {"total": "sum"}}, ANN, {"sum": 5}),
    ({"pick": ["total"]}, None, None),
])
def test_pick_drop_rename(settings, value, shown):
    body = compose({"user": {"from": "users:/", **settings}}, {"users:/": value})[0]
    assert body == {"user": shown}
    assert shown is None or list(body["user"]) == list(shown)


@pytest.mark.parametrize("value", [1, "id", True, [1], [None], [[]], ["id"], [{"id": 1}, "id"]])
@pytest.mark.parametrize("settings", [{"pick": ["id"]}, {"drop": ["secret"]}, {"rename": {"id": "x"}}])
def test_nothing_gets_past_the_choice_of_fields(value, settings):
    with pytest.raises(PartFailed, match="neither an object nor a list of objects"):
        compose({"user": {"from": "users:/", **settings}}, {"users:/": value})


def test_other_parts_read_the_answer_before_it_is_shaped():
    body = compose({"user": {"from": "users:/", "pick": ["name"]}, "team": "teams:/{user.id}"}, {"users:/": ANN, "teams:/1": 2})[0]
    assert body == {"user": {"name": "Ann"}, "team": 2}


def test_the_default_is_not_shaped():
    assert compose({"user": {"from": "users:/", "pick": ["name"], "optional": True, "default": {"nobody": 1}}},
                   {"users:/": Response(500, [])})[0] == {"user": {"nobody": 1}}


@pytest.mark.parametrize("declared, answers, body", [
    ({"user": {"from": "a:/", "merge": True}, "b": "b:/"}, {"a:/": ANN, "b:/": 2}, {**ANN, "b": 2}),
    ({"user": {"from": "a:/", "merge": True, "pick": ["id"], "rename": {"id": "user_id"}}}, {"a:/": ANN}, {"user_id": 1}),
    ({"user": {"from": "a:/", "merge": True}}, {"a:/": None}, {}),
    ({"user": {"from": "a:/", "merge": True}, "b": {"from": "b:/", "merge": True}}, {"a:/": ANN, "b:/": {"id": 9}},
     {"id": 9, "name": "Ann", "total": 5}),
    ({"user": {"from": "a:/", "merge": True}, "id": "b:/"}, {"a:/": ANN, "b:/": 9}, {"id": 9, "name": "Ann", "total": 5}),
    ({"id": "b:/", "user": {"from": "a:/", "merge": True}}, {"a:/": ANN, "b:/": 9}, {"id": 1, "name": "Ann", "total": 5}),
    ({"user": {"from": "a:/", "merge": True, "optional": True}}, {"a:/": Response(500, [])}, {}),
    ({"user": {"from": "a:/", "merge": True, "optional": True, "default": {"x": 1}}}, {"a:/": Response(500, [])}, {"x": 1}),
    ({"user": {"from": "a:/", "merge": True, "optional": True}}, {"a:/": [1]}, {}),
])
def test_merge(declared, answers, body):
    composed = compose(declared, answers)[0]
    assert list(composed.items()) == list(body.items())


def test_what_is_no_object_cannot_be_merged():
    with pytest.raises(PartFailed, match="part 'user': answered no object"):
        compose({"user": {"from": "a:/", "merge": True}}, {"a:/": [ANN]})


# How it is shown


def test_how_it_is_shown():
    team = {"from": "laravel:/teams/{user.team_id}?x={orders.0.x}", "optional": True, "method": "POST"}
    aggregate = built(parts(user="laravel:/api/users/{id}", team=team, orders="orders:/"), answering({}))
    assert repr(aggregate) == "aggregate: user, team after user and orders, orders"
    assert aggregate.describe() == ["user: GET laravel:/api/users/{id}",
                                    "team after user and orders: POST laravel:/teams/{user.team_id}?x={orders.0.x}, optional",
                                    "orders: GET orders:/"]
