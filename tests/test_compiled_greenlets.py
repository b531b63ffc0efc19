"""What greenlets, forks and the garbage collector do to compiled functions and objects: the same as on the pure build.

The C stack of a compiled function is copied when its greenlet waits. Here many are parked in the middle of compiled functions, and
end in every way there is.
"""

from __future__ import annotations

import gc
import os
import sys
import weakref

import gevent
import orjson
import pytest
from gevent import monkey
from gevent.event import Event

from gateway.errors import PartFailed
from gateway.message import Response
from gateway.template import Inputs
from tests.aggregate.composing import answer_of, built, parts, request
from tests.waiting import SAFETY

FORK, WAITPID = monkey.get_original("os", ["fork", "waitpid"])      # those of gevent watch the child in the loop
MANY = 100
BOTH = {"a": {"id": "a"}, "b": {"id": "b"}}


class Cut(Exception):
    """Thrown into a greenlet."""


def parked(send):
    """Greenlets that wait in ``send``, which compiled functions have called."""
    greenlets = [gevent.spawn(built(parts(a="a:/", b="b:/{a.id}"), send), request()) for _ in range(MANY)]
    gevent.idle()
    return greenlets


def test_parked_functions_go_on_where_they_were():
    free = Event()

    def send(upstream, call):
        assert free.wait(SAFETY)
        return answer_of({"id": upstream})

    greenlets = parked(send)
    free.set()
    assert [orjson.loads(greenlet.get(timeout=SAFETY).body) for greenlet in greenlets] == [BOTH] * MANY


@pytest.mark.parametrize("kind", [gevent.GreenletExit, Cut, KeyboardInterrupt, SystemExit, gevent.Timeout])
def test_what_is_thrown_into_a_parked_function_passes_through_it(kind):
    seen = []

    def send(upstream, call):
        try:
            Event().wait(SAFETY)
        except BaseException as error:
            seen.append(type(error))
            raise

    def serve():
        with pytest.raises(kind):
            built(parts(a="a:/"), send)(request())
        return sys.exc_info()

    greenlets = [gevent.spawn(serve) for _ in range(MANY)]
    gevent.idle()
    gevent.killall(greenlets, kind, timeout=SAFETY)
    gc.collect()
    assert [greenlet.value for greenlet in greenlets] == [(None, None, None)] * MANY
    assert seen == [kind] * MANY


def test_a_time_limit_ends_a_compiled_function_that_waits():
    def serve():
        with gevent.Timeout(0.01, False):
            built(parts(a="a:/"), lambda upstream, call: Event().wait(SAFETY))(request())
            return "not ended"
        return "ended"

    assert gevent.spawn(serve).get(timeout=SAFETY) == "ended"


def test_the_error_that_is_handled_is_that_of_the_greenlet():
    """``sys.exc_info``, also while a handler waits and others handle theirs, and in what compiled functions do with it."""
    turns = [Event() for _ in range(MANY)]
    waiting = iter(range(MANY))

    def send(upstream, call):
        number = next(waiting)
        try:
            raise Cut(number)
        except Cut:
            assert turns[number].wait(SAFETY)
            handled = sys.exc_info()[1]
            raise PartFailed("a", f"of {handled.args}")

    def serve():
        with pytest.raises(PartFailed) as raised:
            built(parts(a="a:/"), send)(request())
        return str(raised.value), raised.value.__context__.args, sys.exc_info()[1]

    greenlets = [gevent.spawn(serve) for _ in range(MANY)]
    gevent.idle()
    for turn in reversed(turns):
        turn.set()
    gevent.joinall(greenlets, timeout=SAFETY)
    assert [greenlet.value for greenlet in greenlets] == [(f"part 'a': of ({number},)", (number,), None) for number in range(MANY)]


def test_a_parked_function_keeps_its_objects_and_leaves_none_behind():
    values = weakref.WeakSet()

    class Value(dict):
        """What a part answers."""

    def send(upstream, call):
        values.add(Value())
        Event().wait(SAFETY)

    greenlets = parked(send)
    gevent.killall(greenlets, timeout=SAFETY)
    del greenlets
    gc.collect()
    assert len(values) == 0


class Marker:
    """Something to refer to weakly."""


@pytest.mark.parametrize("make", [request, lambda: Inputs(request()), lambda: Response(200, [], b"")])
def test_a_cycle_through_compiled_objects_is_collected(make):
    marker, holder = Marker(), make()
    alive = weakref.ref(marker)
    if isinstance(holder, Inputs):
        holder.answers["a"] = [holder, marker]
    elif isinstance(holder, Response):
        holder.headers = [(holder, marker)]
    else:
        holder.notes["a"] = [holder, marker]
    assert gc.is_tracked(holder)
    del marker, holder
    gc.collect()
    assert alive() is None


def test_a_forked_process_uses_what_was_made_and_frozen_before():
    """Gunicorn's ``--preload``, and each worker: start_worker freezes what is there."""
    aggregate = built(parts(a="a:/", b="b:/{a.id}"), lambda upstream, call: answer_of({"id": upstream}))
    assert orjson.loads(aggregate(request()).body) == BOTH
    reading, writing = os.pipe()
    child = FORK()
    if not child:
        try:
            gc.freeze()
            body = aggregate(request()).body
            gc.collect()
            os.write(writing, body)
        finally:
            os._exit(0)
    os.close(writing)
    written = os.read(reading, 1000)
    os.close(reading)
    assert orjson.loads(written) == BOTH
    assert WAITPID(child, 0) == (child, 0)
