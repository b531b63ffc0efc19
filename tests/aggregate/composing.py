"""Compositions for the tests of their target: built from a declaration, with ``send`` a function of the test."""

from __future__ import annotations

import gevent
import orjson
from gevent.event import Event
from gevent.queue import SimpleQueue

from gateway import config
from gateway.aggregate.target import Aggregate
from gateway.message import Body, Request, Response
from tests.waiting import SAFETY

ANN = {"id": 1, "name": "Ann", "total": 5}


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
