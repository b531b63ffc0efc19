"""Compositions: their order, what is in flight together, their failures, the shape of the answer, and the calls they make.

``send`` is a function of the test, until the last section, where real upstreams answer.
"""

import gevent
import orjson
import pytest
from gevent.event import Event
from gevent.queue import SimpleQueue
from hypothesis import given
from hypothesis import strategies as st

from gateway import config
from gateway.aggregate.part_answer import MAX_ANSWER
from gateway.aggregate.target import MAX_BODY, Aggregate
from gateway.deadline import Deadline
from gateway.errors import (BadRequest, BodyTooLarge, ClientDisconnected, ConnectFailed, DeadlineExceeded, PartFailed,
                            PoolExhausted, UpstreamTimeout)
from gateway.forward import Forwarding
from gateway.loop.disconnect import SWEEPER
from gateway.message import Body, Request, Response
from gateway.upstream.client import Upstream

ANN = {"id": 1, "name": "Ann", "total": 5}
SAFETY = 30                                              # seconds after which a wait of a test is given up


def parts(**declared):
    return {name: config.Part.model_validate(part) for name, part in declared.items()}


def request(target="/", headers=(), body=None, params=None, method="GET"):
    made = Request(method, target, list(headers), body)
    made.params = params or {}
    made.id = "req-1"
    return made


def told(request):
    """What every part is told of who asked."""
    return [("X-Request-Id", request.id)]


def built(declared, send):
    return Aggregate(declared, send, told)


def body_of(data, length=-1):
    pieces = [data]
    return Body(lambda size: pieces.pop() if pieces else b"", len(data) if length == -1 else length)


def answer_of(value):
    """A JSON value, bytes, a Response or an error as what an upstream does."""
    if isinstance(value, Exception):
        raise value
    if isinstance(value, Response):
        return value
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return Response(200, [("Content-Type", "application/json; charset=utf-8")], data)


def answering(answers, calls=None):
    """``send`` that answers by "upstream:target" and keeps the calls."""
    def send(upstream, call):
        if calls is not None:
            calls.append(call)
        return answer_of(answers[f"{upstream}:{call.target}"])
    return send


def compose(declared, answers, asked=None, calls=None):
    response = built(parts(**declared), answering(answers, calls))(asked or request())
    assert response.status == 200
    return orjson.loads(response.body), response


class Stream:
    def __init__(self, *pieces):
        self.pieces = pieces
        self.closed = False

    def __iter__(self):
        return iter(self.pieces)

    def close(self):
        self.closed = True


class Stage:
    """``send`` whose calls wait until the test lets them go. ``begun`` are the names that began since it was last asked."""

    def __init__(self, **answers):
        self.answers = answers
        self.gates = {name: Event() for name in answers}
        self.started = SimpleQueue()
        self.greenlets = {}
        self.cancelled = []
        self.flying = set()

    def __call__(self, upstream, call):
        self.greenlets[upstream] = gevent.getcurrent()
        self.flying.add(upstream)
        self.started.put(upstream)
        try:
            assert self.gates[upstream].wait(SAFETY)
        except gevent.GreenletExit:
            self.cancelled.append(upstream)
            raise
        finally:
            self.flying.remove(upstream)
        return answer_of(self.answers[upstream])

    def begun(self, count):
        """The next ``count`` names, and no more than those."""
        names = {self.started.get(timeout=SAFETY) for _ in range(count)}
        gevent.idle()
        assert self.started.empty()
        return names

    def let(self, *names):
        for name in names:
            self.gates[name].set()


# Order


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


# Failures

HTML = Response(200, [("Content-Type", "text/html")], b"<p>{}")
WRONG = [
    (ConnectFailed("10.0.0.5:8000 refused", "users"), 502, "A service behind the gateway cannot be reached.", "UF"),
    (UpstreamTimeout("10.0.0.5:8000", "users"), 504, "no answer in time", "UT"),
    (DeadlineExceeded("over"), 504, "no answer in time", "DT"),
    (PoolExhausted("10.0.0.5:8000"), 502, "A service behind the gateway is busy.", "UO"),
    (Response(404, [("Content-Type", "application/json")], b"{}"), 502, "answered 404", "PF"),
    (Response(500, []), 502, "answered 500", "PF"),
    (Response(302, [("Location", "/login")]), 502, "answered 302", "PF"),
    (HTML, 502, "answered text/html where JSON is expected", "PF"),
    (Response(200, [], b"{}"), 502, "answered without Content-Type where JSON is expected", "PF"),
    (Response(200, [("Content-Type", "application/jsonp")], b"{}"), 502, "answered application/jsonp where JSON is expected", "PF"),
    (Response(200, [("Content-Type", "application/json"), ("Content-Encoding", "br")], b"{}"), 502,
     "answered in the coding 'br', which was not asked for", "PF"),
    (b"", 502, "answered JSON that cannot be parsed", "PF"),
    (b"{", 502, "answered JSON that cannot be parsed", "PF"),
    (b'"\xff"', 502, "answered JSON that cannot be parsed", "PF"),
    (b"[" * 5000 + b"]" * 5000, 502, "answered JSON that cannot be parsed", "PF"),
    (b"[" * 500 + b"]" * 500, 502, "the answer is nested too deeply", "PF"),
    (b'"' + b"x" * MAX_ANSWER + b'"', 502, "answered more than 8 MB", "PF"),
]


@pytest.mark.parametrize("wrong, status, why, flag", WRONG)
def test_a_required_part_that_failed_is_the_answers_failure(wrong, status, why, flag):
    for others in ({}, {"other": "others:/", "another": "others:/"}):
        asked = request()
        with pytest.raises(PartFailed) as caught:
            compose({"user": "users:/"} | others, {"users:/": wrong, "others:/": 1}, asked)
        assert (caught.value.status, caught.value.part, caught.value.detail) == (status, "user", f"part 'user': {why}")
        assert caught.value.__cause__ is (wrong if isinstance(wrong, Exception) else None)
        assert asked.notes["parts"]["user"] == flag


@pytest.mark.parametrize("wrong, status, why, flag", WRONG)
def test_an_optional_part_that_failed_is_its_default(wrong, status, why, flag):
    asked = request()
    declared = {"list": {"from": "a:/", "optional": True}, "other": "others:/",
                "user": {"from": "a:/", "optional": True, "default": {"id": 0}}}
    body, response = compose(declared, {"a:/": wrong, "others:/": 1}, asked)
    assert body == {"list": None, "other": 1, "user": {"id": 0}}
    assert response.header("X-Partial") == "list, user"
    assert asked.notes["parts"]["list"] == asked.notes["parts"]["user"] == flag


@pytest.mark.parametrize("status, headers", [(404, []), (200, [("Content-Type", "text/html")])])
def test_an_answer_that_is_not_read_is_closed(status, headers):
    stream = Stream(b"{}")
    with pytest.raises(PartFailed):
        compose({"user": "users:/"}, {"users:/": Response(status, headers, stream)})
    assert stream.closed


def test_a_streamed_answer_is_read_to_its_limit_and_closed():
    stream = Stream(b'{"a"', b":1}")
    body = compose({"user": "users:/"}, {"users:/": Response(200, [("content-type", "text/json")], stream)})[0]
    assert body == {"user": {"a": 1}}
    assert stream.closed
    stream = Stream(*[b" " * 1024 ** 2] * 9)
    with pytest.raises(PartFailed, match="more than 8 MB"):
        compose({"user": "users:/"}, {"users:/": Response(200, [("Content-Type", "text/json")], stream)})
    assert stream.closed


def test_only_the_part_that_is_nested_too_deeply_has_failed():
    optional = {"from": "a:/", "optional": True}
    body, response = compose({"user": "b:/", "deep": optional, "also": {**optional, "pick": []}},
                             {"a:/": b'{"x":' + b"[" * 500 + b"]" * 500 + b"}", "b:/": ANN})
    assert (body, response.header("X-Partial")) == ({"user": ANN, "deep": None, "also": {}}, "deep")


def test_a_failure_ends_the_other_parts_at_once():
    stage = Stage(slow=1, slower=2, bad=ConnectFailed("refused"), fast={"x": 3}, never=4)
    declared = parts(slow="slow:/", slower={"from": "slower:/", "optional": True}, bad="bad:/", fast="fast:/",
                     never="never:/{fast.x}{slow.x}")
    running = gevent.spawn(built(declared, stage), request())
    assert stage.begun(4) == {"slow", "slower", "bad", "fast"}
    stage.let("fast")
    stage.let("bad")
    with pytest.raises(PartFailed, match="part 'bad'"):
        running.get(timeout=SAFETY)
    assert sorted(stage.cancelled) == ["slow", "slower"]
    assert stage.begun(0) == set()


def test_nothing_starts_after_a_failure():
    stage = Stage(bad=ConnectFailed("refused"), good={"x": 1}, next=2)
    running = gevent.spawn(built(parts(bad="bad:/", good="good:/", next="next:/{good.x}"), stage), request())
    stage.begun(2)
    stage.let("bad", "good")                             # both go on in one turn of the loop, bad first
    with pytest.raises(PartFailed, match="part 'bad'"):
        running.get(timeout=SAFETY)
    assert stage.begun(0) == set()


@pytest.mark.parametrize("declared, flying", [({"a": "a:/"}, 1), ({"a": "a:/", "b": "b:/"}, 2)])
def test_when_the_request_ends_its_parts_end(declared, flying):
    stage = Stage(**dict.fromkeys(declared, 1))
    running = gevent.spawn(built(parts(**declared), stage), request())
    stage.begun(flying)
    running.kill(timeout=SAFETY)
    assert sorted(stage.cancelled) == sorted(declared)
    assert not stage.flying


class Connected:
    """The worker's handle on the client's connection."""

    def __init__(self, socket):
        self.socket = socket


@pytest.mark.parametrize("declared, flying", [({"a": "a:/"}, 1), ({"a": "a:/", "b": {"from": "b:/", "optional": True}}, 2)])
def test_when_the_client_goes_its_parts_end(declared, flying, serve):
    stage, ended = Stage(**dict.fromkeys(declared, 1)), SimpleQueue()

    def handle(sock, address):
        asked = request()
        asked.connection = Connected(sock)
        try:
            built(parts(**declared), stage)(asked)
        except Exception as error:
            ended.put(error)

    with gevent.socket.create_connection(("127.0.0.1", serve(handle))):
        stage.begun(flying)
    assert isinstance(ended.get(timeout=SAFETY), ClientDisconnected)
    assert not stage.flying


@pytest.mark.parametrize("answer", [1, ConnectFailed("refused")])
def test_the_client_is_watched_only_while_parts_are_under_way(answer):
    seen = []

    def send(upstream, call):
        seen.append(repr(SWEEPER))
        return answer_of(answer)

    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        asked = request()
        asked.connection = Connected(ours)
        built(parts(a={"from": "a:/", "optional": True}), send)(asked)
        with pytest.raises(PartFailed):
            built(parts(a="a:/{user.x}", user="a:/"), send)(asked)
    assert all("1 watched" in line for line in seen)
    assert "0 watched" in repr(SWEEPER)


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("others", [{}, {"other": "other:/"}])
def test_a_defect_is_no_failure_of_a_part(optional, others):
    with pytest.raises(ZeroDivisionError):
        compose({"user": {"from": "users:/", "optional": optional}} | others, {"users:/": ZeroDivisionError(), "other:/": 1})


@pytest.mark.parametrize("team, status, body", [
    ("teams:/{user.team_id}", "required", None),
    ({"from": "teams:/{user.team_id}", "optional": True}, "user, team", {"user": None, "team": None}),
    ({"from": "teams:/{user.team_id}", "optional": True, "default": 0}, "user, team", {"user": None, "team": 0}),
    ("teams:/{user.team_id:-7}", "user", {"user": None, "team": "seven"}),
])
def test_a_part_that_needs_an_optional_part_that_failed(team, status, body):
    declared = {"user": {"from": "users:/", "optional": True}, "team": team}
    answers = {"users:/": Response(500, []), "teams:/7": "seven"}
    if status == "required":
        with pytest.raises(PartFailed, match=r"part 'team': {user.team_id} is missing"):
            compose(declared, answers)
    else:
        composed, response = compose(declared, answers)
        assert (response.header("X-Partial"), composed) == (status, body)


def test_a_default_answers_the_parts_that_need_it():
    user = {"from": "users:/", "optional": True, "default": {"team_id": 7}}
    body, response = compose({"team": "teams:/{user.team_id}", "user": user}, {"users:/": Response(500, []), "teams:/7": "seven"})
    assert body == {"team": "seven", "user": {"team_id": 7}}
    assert response.header("X-Partial") == "user"


@pytest.mark.parametrize("declared, target, detail", [
    ({"list": "a:/?page={query.page}"}, "/", "query parameter 'page' is missing"),
    ({"other": "a:/", "list": "a:/?page={query.page}"}, "/", "query parameter 'page' is missing"),
    ({"other": "a:/", "list": "a:/{other.x}?page={query.page}"}, "/?pag=1", "query parameter 'page' is missing"),
    ({"other": "a:/", "list": {"from": "a:/", "headers": {"X-T": "{header.X-Tenant}"}}}, "/", "header field 'X-Tenant' is missing"),
    ({"other": "a:/", "list": {"from": "a:/", "headers": {"X-P": "{query.p}"}}}, "/?p=%0d%0aX:%20y",
     "query parameter 'p' has control characters"),
    ({"other": "a:/", "list": "a:/{query.p}"}, "/?p=..", "query parameter 'p' is '..', which is no path segment"),
    ({"other": "a:/", "list": {"from": "a:/{other.x}", "json": {"a": "{body.a}"}}}, "/", "field of the body 'a' is missing"),
])
def test_what_the_client_left_out_is_found_before_anything_is_sent(declared, target, detail):
    calls = []
    with pytest.raises(BadRequest) as caught:
        compose(declared, {}, request(target), calls)
    assert (caught.value.status, caught.value.detail, calls) == (400, detail, [])


def test_what_the_client_left_out_of_an_optional_part_is_that_parts_failure():
    body, response = compose({"list": {"from": "a:/?page={query.page}", "optional": True}, "user": "a:/"}, {"a:/": 1})
    assert (body, response.header("X-Partial")) == ({"list": None, "user": 1}, "list")


# The shape of the answer


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


# The calls


def called(part, asked=None, **others):
    """The call that a part makes."""
    calls = []
    built(parts(part=part, **others), lambda upstream, call: calls.append(call) or answer_of(1))(asked or request())
    return calls[0]


CLIENT = [("Host", "shop.test"), ("cookie", "sid=1"), ("AUTHORIZATION", "Bearer x"), ("Accept-Language", "de"),
          ("Accept", "text/html"), ("X-Tenant", "a"), ("X-Tenant", "b"), ("TraceParent", "00-1-2-01"), ("tracestate", "x=y"),
          ("X-Request-Id", "forged"), ("X-Forwarded-For", "6.6.6.6"), ("Accept-Encoding", "gzip"), ("If-None-Match", '"1"')]
TRACE = [("TraceParent", "00-1-2-01"), ("tracestate", "x=y")]
JSON = ("Accept", "application/json")
PLAIN = ("Accept-Encoding", "identity")
ID = ("X-Request-Id", "req-1")


@pytest.mark.parametrize("settings, headers, sent", [
    ({}, [], [JSON, PLAIN, ID]),
    ({}, CLIENT, [CLIENT[1], CLIENT[2], CLIENT[3], *TRACE, JSON, PLAIN, ID]),
    ({"forward_headers": []}, CLIENT, [*TRACE, JSON, PLAIN, ID]),
    ({"forward_headers": ["x-tenant"]}, CLIENT, [CLIENT[5], CLIENT[6], *TRACE, JSON, PLAIN, ID]),
    ({"forward_headers": ["accept"]}, CLIENT, [CLIENT[4], *TRACE, PLAIN, ID]),
    ({"forward_headers": ["Cookie"]}, [("Cookie", "a=1"), ("Connection", "close, cookie")], [JSON, PLAIN, ID]),
    ({"forward_headers": [], "headers": {"ACCEPT": "application/hal+json"}}, [], [PLAIN, ("ACCEPT", "application/hal+json"), ID]),
    ({"forward_headers": ["X-Tenant"], "headers": {"x-tenant": "<{header.X-Tenant}>"}}, CLIENT,
     [*TRACE, JSON, PLAIN, ("x-tenant", "<a>"), ID]),
    ({"headers": {"X-Name": "é {query.q:-ü}"}}, [], [JSON, PLAIN, ("X-Name", "\xc3\xa9 \xc3\xbc"), ID]),
])
def test_header_fields(settings, headers, sent):
    assert called({"from": "a:/", **settings}, request(headers=headers)).headers == sent


def test_every_part_is_told_who_asked_whatever_it_takes_from_the_client():
    calls = []
    forwarding = Forwarding("wicketgate")
    send = answering({"a:/": {"x": 1}, "b:/1": 2}, calls)
    asked = Request("GET", "/", CLIENT, host="shop.test", peer="10.0.0.7")
    asked.id = "req-1"
    plain = {"forward_headers": [], "headers": {"Accept": "*/*"}}
    Aggregate(parts(a={"from": "a:/", **plain}, b={"from": "b:/{a.x}", **plain}), send, forwarding)(asked)
    assert [call.headers for call in calls] == [[*TRACE, PLAIN, ("Accept", "*/*"), *forwarding(asked)]] * 2
    assert ("X-Forwarded-For", "10.0.0.7") in calls[0].headers and ("Via", "1.1 wicketgate") in calls[0].headers


@pytest.mark.parametrize("settings, body, sent", [
    ({}, b"ignored", None),
    ({"method": "POST"}, b"ignored", b""),
    ({"method": "PUT"}, b"", b""),
    ({"method": "DELETE"}, b"", None),
    ({"json": {"a": [1, "x", "{{b}}"]}}, b"", b'{"a":[1,"x","{b}"]}'),
    ({"method": "POST", "json": {"q": "{query.q}", "id": "{body.user.id}", "all": "{body.user}", "text": "id {body.user.id}"}},
     b'{"user": {"id": 5}}', b'{"q":"Q","id":5,"all":{"id":5},"text":"id 5"}'),
    ({"method": "POST", "json": {"a": "{body.a:-none}"}}, b"", b'{"a":"none"}'),
])
def test_bodies(settings, body, sent):
    call = called({"from": "a:/", **settings}, request("/?q=Q", body=body_of(body), method="POST"))
    assert (call.method, call.body) == (settings.get("method", "GET"), sent)
    assert (("Content-Type", "application/json") in call.headers) == ("json" in settings)


def test_a_body_may_hold_another_parts_answer():
    calls = []
    compose({"user": "a:/", "score": {"from": "b:/", "json": "{user.address}"}}, {"a:/": {"address": ANN}, "b:/": 1}, calls=calls)
    assert orjson.loads(calls[1].body) == ANN


def test_an_answer_too_deep_for_a_body_is_a_failure():
    with pytest.raises(PartFailed, match="part 'score': the values for its body are nested too deeply"):
        compose({"user": "a:/", "score": {"from": "b:/", "json": "{user.0}"}}, {"a:/": b"[" * 500 + b"]" * 500})


@pytest.mark.parametrize("data, error", [(b"{", BadRequest), (b"\xff", BadRequest), (b" " * (MAX_BODY + 1), BodyTooLarge)])
@pytest.mark.parametrize("optional", [False, True])
def test_bodies_that_cannot_be_read(data, error, optional):
    with pytest.raises(error):
        called({"from": "a:/{body.a:-x}", "optional": optional}, request(body=body_of(data, None)))


def test_a_body_that_no_part_asks_for_is_not_read():
    asked = request(body=body_of(b"{"))
    called("a:/", asked)
    assert not asked.body.is_started


def test_time_attempts_and_target():
    asked = request(params={"id": "a/b"})
    asked.deadline = Deadline(10, clock=lambda: 100.0)
    call = called({"from": "a:/{id}", "timeout": "250ms"}, asked)
    assert (call.target, call.deadline.at, call.attempts is asked.attempts, call.host) == ("/a%2Fb", 100.25, True, None)
    assert called({"from": "a:/", "timeout": "20s"}, asked).deadline is asked.deadline
    assert called("a:/", asked).deadline is asked.deadline


def test_the_milliseconds_of_each_part_are_noted():
    now = [100.0]

    def send(upstream, call):
        now[0] += 0.0214
        return answer_of({"x": 1})

    asked = request()
    asked.deadline = Deadline(10, clock=lambda: now[0])
    built(parts(a="a:/", b="b:/{a.x}"), send)(asked)
    assert asked.notes == {"parts": {"a": 21.4, "b": 21.4}}


# How it is shown


def test_how_it_is_shown():
    team = {"from": "laravel:/teams/{user.team_id}?x={orders.0.x}", "optional": True, "method": "POST"}
    aggregate = built(parts(user="laravel:/api/users/{id}", team=team, orders="orders:/"), answering({}))
    assert repr(aggregate) == "aggregate: user, team after user and orders, orders"
    assert aggregate.describe() == ["user: GET laravel:/api/users/{id}",
                                    "team after user and orders: POST laravel:/teams/{user.team_id}?x={orders.0.x}, optional",
                                    "orders: GET orders:/"]


# Real upstreams


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def sized(data):
    return OK + b"Content-Length: %d\r\n\r\n" % len(data) + data


def head_of(sock):
    """One request, as lines; bodies are not expected."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return []
        data += piece
    return data.decode("latin-1").split("\r\n")


@pytest.fixture
def real(serve):
    """``real(name=handle, ...)`` is ``send`` for upstreams that ``handle(socket, head)`` answers, one request a connection."""
    made = {}

    def start(**handlers):
        for name, handle in handlers.items():
            def answer(sock, address, handle=handle):
                handle(sock, head_of(sock))
            made[name] = Upstream(name, config.UpstreamSettings(instances=[f"http://127.0.0.1:{serve(answer)}"]))
        return lambda upstream, call: made[upstream].send(call)

    yield start
    for upstream in made.values():
        upstream.close()


def says(data):
    return lambda sock, head: sock.sendall(data)


def test_three_real_parts_are_in_flight_together(real):
    arrived, everybody = [], Event()

    def meet(sock, head):
        arrived.append(head[0])
        if len(arrived) == 3:
            everybody.set()
        assert everybody.wait(SAFETY)                    # nobody is answered before all three have asked
        sock.sendall(sized(b'{"id":1}'))

    send = real(users=meet, orders=meet)
    asked = request(params={"id": "a b/c"})
    response = built(parts(user="users:/users/{id}", orders="orders:/o?of={id}", team="users:/t"), send)(asked)
    assert response.body == b'{"user":{"id":1},"orders":{"id":1},"team":{"id":1}}'
    assert sorted(arrived) == ["GET /o?of=a%20b%2Fc HTTP/1.1", "GET /t HTTP/1.1", "GET /users/a%20b%2Fc HTTP/1.1"]
    assert sorted((attempt.upstream, attempt.status) for attempt in asked.attempts) == [
        ("orders", 200), ("users", 200), ("users", 200)]


def test_a_real_chain(real):
    heads = []

    def users(sock, head):
        heads.append(head)
        sock.sendall(OK + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"team_id":"a&b"\r\n')
        sock.sendall(b"1\r\n}\r\n0\r\n\r\n")

    def teams(sock, head):
        heads.append(head)
        sock.sendall(sized(b'"blue"'))

    send = real(users=users, teams=teams)
    team = {"from": "teams:/?id={user.team_id}", "headers": {"X-Team": "{user.team_id}"}}
    response = built(parts(user="users:/", team=team), send)(request(headers=[("Cookie", "sid=1")]))
    assert response.body == b'{"user":{"team_id":"a&b"},"team":"blue"}'
    assert heads[1][0] == "GET /?id=a%26b HTTP/1.1"
    assert {"Cookie: sid=1", "X-Team: a&b", "X-Request-Id: req-1", "Accept: application/json"} < set(heads[1])


def never(sock, head):
    """Ask and get nothing: ends when the other side does."""
    sock.recv(1)


def stalls(start):
    def handle(sock, head):
        sock.sendall(start)
        sock.recv(1)
    return handle


@pytest.mark.parametrize("handle", [
    never,
    stalls(OK),
    stalls(OK + b"Content-Length: 10\r\n\r\n{"),
    stalls(OK + b"Content-Length: 1000000\r\n\r\n{"),
    stalls(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
], ids=["no answer", "half a head", "half a body", "half a stream", "half of chunks"])
@pytest.mark.parametrize("others", [{}, {"other": "other:/"}], ids=["alone", "not alone"])
def test_a_parts_own_timeout(handle, others, real):
    send = real(users=handle, other=says(sized(b"1")))
    user = {"from": "users:/", "timeout": "50ms"}
    with pytest.raises(PartFailed) as caught:
        built(parts(user=user, **others), send)(request())
    assert (caught.value.status, caught.value.detail) == (504, "part 'user': no answer in time")
    assert isinstance(caught.value.__cause__, UpstreamTimeout)
    asked = request()
    response = built(parts(user={**user, "optional": True}, **others), send)(asked)
    assert orjson.loads(response.body) == {"user": None} | dict.fromkeys(others, 1)
    assert response.header("X-Partial") == "user"
    assert flags(asked) == ("UT", ["UT"])


@pytest.mark.parametrize("settings", [{}, {"timeout": "5s"}])
@pytest.mark.parametrize("handle", [never, stalls(OK + b"Content-Length: 10\r\n\r\n{"),
                                    stalls(OK + b"Content-Length: 1000000\r\n\r\n{")], ids=["no answer", "body", "stream"])
def test_the_requests_own_time_is_not_the_parts(handle, settings, real):
    asked = request()
    asked.deadline = Deadline(0.05)
    with pytest.raises(PartFailed) as caught:
        built(parts(user={"from": "users:/", **settings}), real(users=handle))(asked)
    assert isinstance(caught.value.__cause__, DeadlineExceeded)
    assert flags(asked) == ("DT", ["DT"])


def flags(asked):
    """What the log says of the part "user": its note, and its attempts."""
    return asked.notes["parts"]["user"], [attempt.flag for attempt in asked.attempts if attempt.upstream == "users"]


@pytest.mark.parametrize("data", [
    b"",
    b"HTTP/1.1 200",
    OK + b"Content-Length: 10\r\n\r\n{",
    OK + b"Content-Length: 1000000\r\n\r\n{",
    OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
])
def test_a_real_part_that_breaks(data, real):
    send = real(users=says(data))
    with pytest.raises(PartFailed) as caught:
        built(parts(user="users:/"), send)(request())
    assert caught.value.status == 502 and caught.value.part == "user"


def test_an_upstream_is_left_when_another_failed(real):
    asked, left = Event(), Event()

    def waits(sock, head):
        asked.set()
        if sock.recv(1) == b"":
            left.set()

    def fails(sock, head):
        assert asked.wait(SAFETY)
        sock.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(PartFailed, match="part 'bad': answered 500"):
        built(parts(slow="slow:/", bad="bad:/"), real(slow=waits, bad=fails))(request())
    assert left.wait(SAFETY)


@pytest.mark.parametrize("fields, shared", [
    ([], True), ([("Cache-Control", "max-age=60")], True), ([("cache-control", "max-age=60, Private")], False),
    ([("Cache-Control", "no-store")], False), ([("Set-Cookie", "a=1")], False), ([("Vary", "Accept, *")], False),
    ([("CDN-Cache-Control", "no-store")], False), ([("Wicketgate-Cache-Control", "private")], False),
    ([("CDN-Cache-Control", "max-age=9")], True), ([("Vary", "Accept")], True), ([("Cache-Control", "x-private-y")], False)])
def test_what_one_part_forbids_to_share_holds_for_the_whole(fields, shared):
    def send(upstream, call):
        return Response(200, [("Content-Type", "application/json"), *(fields if upstream == "a" else ())], b"1")

    declared = parts(a="a:/", b="b:/")
    assert Aggregate(declared, send, told, cacheable=True)(request()).header("Vary") == ("" if shared else "*")
    assert Aggregate(declared, send, told)(request()).header("Vary") == ""
