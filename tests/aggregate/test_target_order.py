"""What a composition calls when: after the parts that it needs, together with all others, and in how many greenlets."""

from __future__ import annotations

import gevent
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConnectFailed
from tests.aggregate.composing import Stage, answer_of, built, parts, request
from tests.waiting import SAFETY


def test_a_part_starts_when_its_own_answers_are_there_and_not_level_by_level():
    stage = Stage(user={"team": 1}, orders=[{"item": 2}], team={"boss": 3}, boss={"x": 4}, item={}, both={})
    aggregate = built(parts(both="both:/{boss.x}{orders.0.item}?{team.boss}", boss="boss:/{team.boss}",
                            item="item:/{orders.0.item}", user="user:/", team="team:/{user.team}", orders="orders:/"), stage)
    running = gevent.spawn(aggregate, request())
    assert stage.begun(2) == {"user", "orders"}
    stage.let("user")
    assert stage.begun(1) == {"team"}                    # orders is still under way
    stage.let("team")
    assert stage.begun(1) == {"boss"}
    stage.let("orders")
    assert stage.begun(1) == {"item"}
    stage.let("item")
    assert stage.begun(0) == set()
    stage.let("boss")
    assert stage.begun(1) == {"both"}
    stage.let("both")
    assert list(orjson.loads(running.get(timeout=SAFETY).body)) == ["both", "boss", "item", "user", "team", "orders"]


@pytest.mark.parametrize("count", [2, 3, 20])
def test_independent_parts_are_in_flight_together(count):
    names = [f"p{number}" for number in range(count)]
    stage = Stage(**dict.fromkeys(names, 1))
    running = gevent.spawn(built(parts(**{name: f"{name}:/" for name in names}), stage), request())
    assert stage.begun(count) == set(names)
    stage.let(*names)
    assert orjson.loads(running.get(timeout=SAFETY).body) == dict.fromkeys(names, 1)


def test_parts_set_free_together_are_in_flight_together():
    stage = Stage(user={"id": 1}, a=2, b=3, c=4)
    running = gevent.spawn(built(parts(user="user:/", a="a:/{user.id}", b="b:/{user.id}", c="c:/{user.id}"), stage), request())
    assert stage.begun(1) == {"user"}
    stage.let("user")
    assert stage.begun(3) == {"a", "b", "c"}
    stage.let("a", "b", "c")
    assert orjson.loads(running.get(timeout=SAFETY).body) == {"user": {"id": 1}, "a": 2, "b": 3, "c": 4}


@pytest.mark.parametrize("declared, greenlets", [
    ({"a": "a:/"}, 1),
    ({"a": "a:/", "b": "b:/{a.x}", "c": "c:/{b.x}"}, 1),
    ({"a": "a:/", "b": "b:/", "c": "c:/{b.x}"}, 2),
    ({"a": "a:/", "b": "b:/{a.x}", "c": "c:/{a.x}", "d": "d:/{b.x}{c.x}"}, 2),
])
def test_a_chain_runs_in_one_greenlet(declared, greenlets):
    stage = Stage(**dict.fromkeys(declared, {"x": 1}))
    stage.let(*declared)
    built(parts(**declared), stage)(request())
    assert len(set(stage.greenlets.values())) == greenlets
    assert stage.greenlets["a"] is gevent.getcurrent()   # the request's own


@st.composite
def graphs(draw):
    """Names, each with the earlier ones it needs, whether it fails, and whether it is optional; then the names in any order."""
    names = [f"p{number}" for number in range(draw(st.integers(1, 7)))]
    graph = {name: (draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else [], draw(st.booleans()))
             for number, name in enumerate(names)}
    return graph, draw(st.permutations(names)), draw(st.lists(st.sampled_from(names), unique=True))


@given(graphs())
def test_whatever_the_graph_each_part_is_called_once_after_those_it_needs(drawn):
    graph, order, lacking = drawn
    failed, missing, done, calls = set(), set(), [], []
    for name, (needs, fails) in graph.items():
        if fails or missing & set(needs):
            failed.add(name)
            if name in lacking:
                missing.add(name)
    unasked = {name for name, (needs, _) in graph.items() if missing & set(needs)}

    def send(upstream, call):
        calls.append(upstream)
        assert set(graph[upstream][0]) - unasked <= set(done)
        gevent.sleep(0)
        done.append(upstream)
        return answer_of(ConnectFailed("refused") if graph[upstream][1] else {"id": 1})

    urls = {name: f"{name}:/{name}" + "".join(f"/{{{other}.id}}" for other in graph[name][0]) for name in order}
    aggregate = built(parts(**{name: {"from": url, "optional": True, "default": None if name in lacking else {"id": 0}}
                               for name, url in urls.items()}), send)
    response = aggregate(request())
    assert list(orjson.loads(response.body)) == list(order)
    assert response.header("X-Partial") == ", ".join(name for name in order if name in failed)
    assert sorted(calls) == sorted(graph.keys() - unasked)
