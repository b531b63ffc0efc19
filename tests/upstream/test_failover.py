"""A call that has sent nothing goes to another instance, and an instance that could not be connected pauses."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from functools import partial

import gevent
import pytest
import raw
from gevent.event import Event
from raw import OK, Service, body_of
from test_connecting import closed_port, full_port  # noqa: F401

from gateway.backoff import FIRST, LONGEST, Backoff
from gateway.config import UpstreamSettings as Settings
from gateway.errors import ConnectFailed, OutOfFiles, UpstreamClosed
from gateway.upstream.balancer import RULES
from gateway.upstream.client import Upstream
from gateway.upstream.dns import Resolver
from gateway.upstream.retry import AT_ONCE, SUCCESS, Outcome, Resend, Result, decide
from gateway.upstream.transport import ConnectionLost
from tests.clocks import ManualClock

CLOCK = ManualClock()
get, post = partial(raw.get, clock=CLOCK), partial(raw.post, clock=CLOCK)
CALLS = {"get": get, "post": lambda: post(b"small"), "stream": lambda: post(body_of([b"x" * 70000] * 3, 210000)),
         "chunked": lambda: post(body_of([b"x" * 70000] * 3, None)), "patch": lambda: post(b"", "PATCH")}


@pytest.fixture
def make():
    """``make(url, ...)`` is an upstream on CLOCK; no name has an address."""
    upstreams = []

    def no_name(host: str, port: int) -> list:
        raise socket.gaierror(-2, "Name or service not known")

    def start(*urls: str | int, failures=frozenset(), open=None, decide=decide, **settings) -> Upstream:
        urls = tuple(f"http://127.0.0.1:{url}" if isinstance(url, int) else url for url in urls)
        upstreams.append(Upstream("shop", Settings(instances=urls, **settings), Resolver(30, no_name), CLOCK, failures=failures,
                                  open=open, decide=decide))
        return upstreams[-1]

    yield start
    for one in upstreams:
        one.close()


def plain(sock, address) -> None:
    sock.recv(1000)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    sock.close()


def down(how: str, full: int, serve) -> str:
    """The address of an instance that cannot be connected."""
    return {"refused": lambda: f"http://127.0.0.1:{closed_port()}", "unknown name": lambda: "http://gone.test",
            "no answer": lambda: f"http://127.0.0.1:{full}", "no TLS": lambda: f"https://127.0.0.1:{serve(plain)}",
            "no socket": lambda: "unix:/nowhere/at.all"}[how]()


@pytest.mark.parametrize("how", ["refused", "unknown name", "no answer", "no TLS", "no socket"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CALLS)
def test_no_call_fails_while_one_instance_of_two_cannot_be_connected(make, serve, full_port, rule, how, kind):  # noqa: F811
    service = Service()
    one = make(down(how, full_port, serve), serve(service), balance=rule, connect_timeout="100ms")
    calls = [CALLS[kind]() for _ in range(20)]
    assert [one.send(call).status for call in calls] == [200] * 20
    failed = sum(bool(attempt.flag) for call in calls for attempt in call.attempts)
    assert failed == 1 and len(service.requests) == 20       # it pauses from the first failure on


@pytest.mark.parametrize("seconds", [{}, {"timeout": 0.1}])
def test_a_time_that_is_over_before_there_is_a_connection_is_one_that_sent_nothing(make, serve, full_port, seconds):  # noqa: F811
    one = make(full_port, serve(Service()), connect_timeout="100ms" if not seconds else "10s")
    assert one.send(post(b"x", **seconds)).status == 200


@pytest.mark.parametrize("rule", RULES)
def test_with_all_pausing_all_are_used(make, serve, rule):
    """Resting alone is never an outage."""
    ports = [closed_port(), closed_port()]
    one = make(*ports, balance=rule)
    for _ in range(3):
        call = get()
        with pytest.raises(ConnectFailed):
            one.send(call)
        assert {attempt.instance for attempt in call.attempts} == {f"http://127.0.0.1:{port}" for port in ports}
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", ports[0]))
        listener.listen()
        answering = gevent.spawn(lambda: Service()(listener.accept()[0], None))
        assert one.send(get()).status == 200             # at once, without a pause that has to end first
        one.close()
        answering.join(timeout=30)


@pytest.mark.parametrize("rule", RULES)
def test_after_the_pause_one_call_tries_it_and_the_others_do_not_wait(make, serve, rule):
    good = serve(Service())
    one = make(closed_port(), good, balance=rule)
    trials = []
    for pause in (0.0, 0.9, 0.2, 1.9, 0.2, 3.9, 0.2, 7.9, 0.2, 7.9, 0.2):       # grows to LONGEST
        one.clock.time += pause
        calls = [get() for _ in range(4)]
        assert [one.send(call).status for call in calls] == [200] * 4
        trials.append(sum(len(call.attempts) - 1 for call in calls))
    assert trials == [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]


def test_an_instance_that_is_back_gets_its_share_again(make, serve):
    port = closed_port()
    one = make(port, serve(Service()))
    for _ in range(4):
        one.send(get())
    service = Service()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        answering = gevent.spawn(lambda: service(listener.accept()[0], None))
        one.clock.time += FIRST
        for _ in range(10):
            one.send(get())
        one.close()
        answering.join(timeout=30)
    assert len(service.requests) == 5


def test_a_used_connection_that_ended_while_its_instance_went_down_leads_to_another(make, serve):
    """Stale first, then refused: two kinds of failure, one call."""
    first = socket.socket()
    first.bind(("127.0.0.1", 0))
    first.listen()
    port = first.getsockname()[1]
    sockets = []
    accepting = gevent.spawn(lambda: sockets.append(first.accept()[0]))
    one = make(port, serve(Service()))
    sending = gevent.spawn(one.send, get())
    accepting.join(timeout=30)
    sockets[0].recv(1000)
    sockets[0].sendall(OK)
    sending.get(timeout=30)
    one.send(get())                                      # the other's turn
    call = get()
    first.close()
    sending = gevent.spawn(one.send, call)
    sockets[0].recv(1000)
    sockets[0].close()
    assert sending.get(timeout=30).status == 200
    assert [attempt.flag for attempt in call.attempts] == ["UC", "UF", ""]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("body", [b"x", None])
def test_a_call_that_was_sent_goes_nowhere_else(make, serve, method, body):
    services = [Service(lambda head, body: None), Service(lambda head, body: None)]
    one = make(*map(serve, services))
    with pytest.raises(UpstreamClosed):
        one.send(post(body, method))
    assert sum(len(service.requests) for service in services) == 1


def test_a_busy_instance_is_no_reason_to_fail_while_another_is_free(make, serve):
    go = Event()
    one = make(serve(Service(lambda head, body: go.wait() and OK)), serve(Service()), max_connections=1, pool_timeout="10ms")
    first = gevent.spawn(one.send, get())
    gevent.idle()
    statuses = [one.send(get()).status for _ in range(4)]
    go.set()
    assert statuses == [200] * 4 and first.get(timeout=30).status == 200
    assert not any(instance.backoff.failures for instance in one.instances)      # busy is not down


def test_no_descriptor_left_is_our_own_failure(make, serve):
    def none_left(endpoint):
        raise ConnectionLost(OSError(errno.EMFILE, "Too many open files"))

    one = make(serve(Service()), serve(Service()), open=none_left)
    call = get()
    with pytest.raises(OutOfFiles) as excinfo:
        one.send(call)
    assert excinfo.value.status == 503 and len(call.attempts) == 1
    assert not any(instance.backoff.failures for instance in one.instances)


@pytest.mark.parametrize("rule", RULES)
def test_failing_over_does_not_unbalance_the_others(make, serve, rule):
    services = [Service(), Service()]
    one = make(closed_port(), *map(serve, services), balance=rule)
    for _ in range(60):
        one.send(get())
    assert Counter(len(service.requests) for service in services) == {30: 2} or abs(
        len(services[0].requests) - len(services[1].requests)) <= 2


def test_an_outcome_is_delivered_once_to_each_subscriber(make, serve):
    one = make(closed_port(), serve(Service()))
    deliveries: list[tuple] = []
    for instance in one.instances:
        for name in "ab":
            instance.subscribe(lambda *delivery, name=name: deliveries.append((name, *delivery)))
    call = get()
    one.send(call)
    first, second = call.attempts
    failure = Outcome(Result.FAILURE, "UF", Resend.OTHER, is_connect_failure=True)
    now = CLOCK.now()
    assert deliveries == [("a", first, failure, now, now), ("b", first, failure, now, now),
                          ("a", second, SUCCESS, now, now), ("b", second, SUCCESS, now, now)]
    assert [bool(instance.backoff.failures) for instance in one.instances] == [True, False]


@pytest.mark.parametrize("body", [b"no", b"x" * 100000])
@pytest.mark.parametrize("call, statuses", [(get, [503, 503, 200]), (lambda: post(b"x"), [503])])
def test_a_status_that_counts_as_a_failure_leads_to_another_instance(make, serve, body, call, statuses):
    """A streamed answer that is not wanted is closed. A POST may have done its work."""
    bad = Service(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    one = make(serve(bad), serve(Service()), serve(bad), failures={503})
    outcomes = []
    for instance in one.instances:
        instance.subscribe(lambda attempt, outcome, begun, now: outcomes.append(outcome.result))
    call = call()
    response = one.send(call)
    assert [attempt.status for attempt in call.attempts] == statuses and response.status == statuses[-1]
    assert outcomes == [Result.FAILURE if status == 503 else Result.SUCCESS for status in statuses]
    assert not any(instance.backoff.failures for instance in one.instances)      # each was connected
    if not isinstance(response.body, bytes):
        response.body.close()
    assert [instance.in_flight for instance in one.instances] == [0, 0, 0]


@pytest.mark.parametrize("call", [lambda: post(b"x"), lambda: post(body_of([b"x" * 70000] * 3, None), "PUT")])
def test_no_policy_sends_again_what_may_have_been_seen(make, serve, call):
    services = [Service(lambda head, body: None), Service(lambda head, body: None)]
    call = call()
    with pytest.raises(UpstreamClosed):
        make(*map(serve, services), decide=lambda outcome, number, now: AT_ONCE).send(call)
    assert len(call.attempts) == 1 and sum(len(service.requests) for service in services) == 1


def test_the_last_answer_stands_when_no_instance_is_left(make, serve):
    bad = Service(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno")
    response = make(serve(bad), serve(bad), failures={503}).send(get())
    assert (response.status, response.body) == (503, b"no")


def test_failures_of_the_same_moment_are_one():
    backoff = Backoff()
    for _ in range(100):
        backoff.fail(start=10.0, now=11.0)
    assert (backoff.failures, backoff.until) == (1, 11.0 + FIRST)
    for number in range(10):
        backoff.fail(start=20.0 + number, now=20.0 + number)
    assert backoff.until == 29.0 + LONGEST
    backoff.reset()
    assert backoff.until == 0.0
