"""A limit of time is not shortened by a busy event loop: neither by an old clock, nor by what has come and had no turn yet."""

from __future__ import annotations

import ast
import resource
import socket
from collections import deque
from pathlib import Path
from time import monotonic

import gevent
import pytest
from gevent import monkey
from gevent.event import Event

from gateway.cache.coalesce import Flight, FlightState
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.loop.time_limit import TURNS, LimitTimer, TimeLimit, Turns, catch_up
from gateway.tasks import Guard, gather
from gateway.upstream.dns import Resolver, numeric_endpoint
from gateway.upstream.limit import Limit
from gateway.upstream.pool import Pool
from gateway.upstream.transport import Connection, native_socket

PACKAGE = Path(__file__).parent.parent.parent / "gateway"
native_pair = monkey.get_original("socket", "socketpair")

LIMIT = 0.05                                             # seconds
HELD = 0.2                                               # for how long the loop does nothing else: more than LIMIT


class Late(Exception):
    """The limit of a test is over."""


def compute(seconds: float) -> None:
    """Hold up the loop."""
    until = monotonic() + seconds
    while monotonic() < until:
        pass


@pytest.fixture
def pair():
    """``pair()``: a Connection, and the native socket at its other end."""
    made = []

    def make():
        ours, theirs = native_pair()
        ours.setblocking(False)
        theirs.setblocking(False)
        connection = Connection(ours)
        made.append((connection, theirs))
        return connection, theirs

    yield make
    for connection, theirs in made:
        connection.close()
        theirs.close()


def limit() -> Limit:
    return Limit(None, LIMIT, Late)


# -- what has come while the loop was held up


def an_answer(pair):
    connection, theirs = pair()
    return lambda: connection.receive(limit()) == b"x", lambda: theirs.send(b"x")


def an_answer_until_the_deadline(pair):
    connection, theirs = pair()
    return lambda: connection.receive(Limit(Deadline(LIMIT), None, Late)) == b"x", lambda: theirs.send(b"x")


def room_to_send(pair):
    connection, theirs = pair()
    while connection.send(b"x" * 65536):
        pass

    def drain():
        while True:
            try:
                theirs.recv(1 << 20)
            except BlockingIOError:
                return

    return lambda: connection.send_all(b"last", limit()) is None, drain


def a_connection_given_back(pair):
    """By a greenlet that waits for an answer itself."""
    connection, theirs = pair()
    pool = Pool(1, 10.0)
    pool.take(None)
    lender = gevent.spawn(lambda: (connection.receive(Limit(None, None, Late)), pool.give(connection)))

    def wait():
        assert pool.take(LIMIT) is connection
        lender.join()
        return True

    return wait, lambda: theirs.send(b"x")


def a_name(pair):
    connection, theirs = pair()

    def lookup(host, port):
        connection.receive(Limit(None, None, Late))
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

    resolver = Resolver(60.0, lookup)
    return lambda: len(resolver.resolve("shop.test", 80, LIMIT)) == 1, lambda: theirs.send(b"x")


def tasks_of_gather(pair):
    ends = [pair() for _ in range(3)]
    tasks = [lambda one=one: one.receive(Limit(None, None, Late)) for one, _ in ends]
    return lambda: gather(*tasks, timeout=LIMIT) == [b"x"] * 3, lambda: [theirs.send(b"x") for _, theirs in ends]


def passed_on(pair, stages):
    """What wakes a greenlet that wakes a greenlet, and so on."""
    connection, theirs = pair()
    events = [Event() for _ in range(stages)]

    def first():
        connection.receive(Limit(None, None, Late))
        events[0].set()

    def pass_on(number):
        events[number].wait()
        events[number + 1].set()

    gevent.spawn(first)
    for number in range(stages - 1):
        gevent.spawn(pass_on, number)
    return events[-1], theirs


def a_block(pair):
    event, theirs = passed_on(pair, 4)

    def wait():
        with TimeLimit(LIMIT, Late()):
            return event.wait()

    return wait, lambda: theirs.send(b"x")


def a_view(pair):
    event, theirs = passed_on(pair, 4)

    def wait():
        with Guard(Deadline(LIMIT)):
            return event.wait()

    return wait, lambda: theirs.send(b"x")


def a_flight(pair):
    connection, theirs = pair()
    flight = Flight("key")

    def lead():
        connection.receive(Limit(None, None, Late))
        flight.land(FlightState.STORED)

    gevent.spawn(lead)
    return lambda: flight.wait(Deadline(LIMIT)) == FlightState.STORED, lambda: theirs.send(b"x")


WAITS = [an_answer, an_answer_until_the_deadline, room_to_send, a_connection_given_back, a_name, tasks_of_gather, a_block,
         a_view, a_flight]


@pytest.mark.parametrize("kind", WAITS, ids=lambda kind: kind.__name__)
def test_what_comes_while_the_loop_is_held_up_is_in_time(kind, pair):
    wait, happen = kind(pair)

    def hold():
        happen()
        compute(HELD)

    holding = gevent.spawn(hold)                         # runs once the wait has begun
    assert wait()
    holding.join()


def test_many_answers_at_once_are_all_in_time(pair):
    """More than the loop takes from the system in one turn."""
    number = min(300, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
    ends = [pair() for _ in range(number)]
    waits = [gevent.spawn(connection.receive, limit()) for connection, _ in ends]
    gevent.sleep(0)

    def hold():
        for _, theirs in ends:
            theirs.send(b"x")
        compute(HELD)

    gevent.spawn(hold).join()
    gevent.joinall(waits)
    assert [wait.value for wait in waits] == [b"x"] * number


# -- an old clock


def test_a_connect_after_a_long_computation_has_its_whole_time(serve):
    endpoint = numeric_endpoint("127.0.0.1", serve(lambda sock, address: None))
    connection = Connection(native_socket(endpoint.family))
    gevent.idle()
    compute(HELD)                                        # since the loop looked at the clock
    connection.establish(endpoint, limit())
    connection.close()


def test_a_timer_counts_from_now_wherever_it_is_started(pair):
    """In a greenlet that a socket has woken, the loop's clock is as old as all that ran before in that turn."""
    connection, theirs = pair()
    lasted = []

    def woken():
        connection.receive(Limit(None, None, Late))
        compute(HELD)
        begun = monotonic()
        with pytest.raises(Late), TimeLimit(LIMIT, Late()):
            Event().wait()
        lasted.append(monotonic() - begun)

    greenlet = gevent.spawn(woken)
    gevent.sleep(0)
    theirs.send(b"x")
    greenlet.join()
    assert lasted[0] >= LIMIT * 0.9


# -- limits still hold


def test_a_limit_ends_a_wait_for_what_never_comes(pair):
    connection, _ = pair()
    with pytest.raises(Late):
        connection.receive(limit())
    with pytest.raises(Late):
        while True:
            connection.send_all(b"x" * 65536, limit())
    with pytest.raises(DeadlineExceeded), Guard(Deadline(LIMIT)):
        Event().wait()
    with pytest.raises(Late), TimeLimit(0.0, Late()):
        Event().wait()


def test_what_never_stops_coming_does_not_outlast_its_limit(pair):
    """There is always something to read, in every turn of the loop."""
    connection, theirs = pair()
    one = limit()
    theirs.send(b"x")

    def read_on():
        while True:
            connection.receive(one)
            theirs.send(b"x")

    with pytest.raises(Late):
        read_on()


def test_turns():
    order: deque[int] = deque()
    turns = Turns(order.append, -1)
    for number in range(TURNS - 1):
        gevent.sleep(1e-6)                               # a turn of the loop
        order.append(number)
        assert -1 not in order
    catch_up()
    assert order[-1] == -1
    turns.close()


def test_what_is_closed_does_not_ring():
    rung = []
    timer = LimitTimer(0.0, rung.append, 1)
    timer.close()
    timer = LimitTimer(0.0, rung.append, 2)
    gevent.sleep(1e-6)                                   # it has rung, and lets the others go first
    timer.close()
    catch_up()
    catch_up()
    assert rung == []


# -- nobody goes around it

OWN = {"loop/time_limit.py",
       "loop/alarm.py", "loop/disconnect.py",            # they end no wait: they look after something now and then
       "loop/hub_selector.py",                           # asyncio's, which looks at its own clock then
       "loop/readiness.py", "tasks.py"}                  # timers on the hot path, written out


def test_no_other_file_starts_a_timer():
    starting = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "timer"}
    assert starting == OWN
