"""Connections end in time: unused ones by a timer and at the other side's end, all of them by their age and with their address."""

from __future__ import annotations

import socket
from collections import Counter

import gevent
import pytest
from gevent.server import StreamServer
from raw import LATE, OK, Service, get, pool_of
from test_connecting import closed_port
from test_tls import serve_tls  # noqa: F401

from gateway.config import UpstreamSettings as Settings
from gateway.upstream.client import Upstream
from gateway.upstream.dns import Resolver
from tests.waiting import until


class Name:
    """A name server for one name: ``endpoints`` are (family, address) now."""

    def __init__(self, *endpoints: tuple) -> None:
        self.endpoints = list(endpoints)
        self.error: Exception | None = None
        self.lookups = 0

    def __call__(self, host: str, port: int) -> list:
        self.lookups += 1
        if self.error is not None:
            raise self.error
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in self.endpoints]


@pytest.fixture
def by_name():
    """``by_name(name, ...)`` is an upstream called http://shop.test:8000, which ``name`` looks up."""
    upstreams = []

    def make(name: Name, **settings) -> Upstream:
        settings = Settings(instances=("http://shop.test:8000",), **settings)
        upstreams.append(Upstream("shop", settings, Resolver(settings.dns_ttl, name)))
        return upstreams[-1]

    yield make
    for one in upstreams:
        one.close()


@pytest.fixture
def serve_ipv6():
    servers = []

    def start(service: Service) -> tuple:
        listener = socket.socket(socket.AF_INET6)
        listener.bind(("::1", 0))
        listener.listen()
        servers.append(StreamServer(listener, service))
        servers[-1].start()
        return socket.AF_INET6, ("::1", listener.getsockname()[1], 0, 0)

    yield start
    for server in servers:
        server.stop(timeout=0)


def ipv4(port: int) -> tuple:
    return socket.AF_INET, ("127.0.0.1", port)


def burst(one: Upstream, number: int) -> None:
    gevent.joinall([gevent.spawn(one.send, get()) for _ in range(number)], timeout=LATE, raise_error=True)


class Together(Service):
    """Answers the first ``number`` requests when all of them have come, and the others at once."""

    def __init__(self, number: int) -> None:
        super().__init__(self.wait)
        self.number = number
        self.all_here = gevent.event.Event()

    def wait(self, head: bytes, body: bytes) -> bytes:
        if len(self.requests) >= self.number:
            self.all_here.set()
        self.all_here.wait()
        return OK


@pytest.mark.parametrize("settings", [{"idle_timeout": "100ms"}, {"max_connection_age": "100ms"}])
def test_unused_connections_are_closed_by_a_timer(serve, upstream, settings):
    """Nobody calls any more."""
    service = Together(30)
    one = upstream(serve(service), **settings)
    burst(one, 30)
    assert service.connections >= 30
    until(lambda: service.open == 0)
    assert pool_of(one) == (0, 0, 0) and not one.instances[0].pool.alarm.is_set


def test_unused_connections_are_closed_when_the_other_side_ends(serve, upstream):
    """None stays in CLOSE_WAIT."""
    service = Together(30)
    sockets = []
    one = upstream(serve(lambda sock, address: sockets.append(sock) or service(sock, address)))
    burst(one, 30)
    assert pool_of(one)[:2] == (30, 30)
    for sock in sockets:
        sock.shutdown(socket.SHUT_RDWR)
    until(lambda: pool_of(one) == (0, 0, 0))


def test_unused_connections_with_tls_are_closed_when_the_other_side_ends(serve_tls, upstream, certificates):  # noqa: F811
    sockets = []
    port = serve_tls(lambda sock, address: sockets.append(sock) or Service()(sock, address))
    one = upstream(f"https://127.0.0.1:{port}", tls={"ca": certificates["ca"]})
    one.send(get())
    gevent.idle()                                        # session tickets have come, and are no end
    assert pool_of(one)[:2] == (1, 1)
    sockets[0].shutdown(socket.SHUT_RDWR)
    until(lambda: pool_of(one) == (0, 0, 0))


def test_stray_bytes_end_an_unused_connection(serve, upstream):
    sockets = []
    one = upstream(serve(lambda sock, address: sockets.append(sock) or Service()(sock, address)))
    one.send(get())
    sockets[0].sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    until(lambda: pool_of(one) == (0, 0, 0))


def test_a_busy_connection_is_not_used_longer_than_its_age(serve, upstream):
    service = Service()
    one = upstream(serve(service), max_connection_age="50ms")
    until(lambda: one.send(get()).status == 200 and service.connections >= 3)      # one call after the other, without a pause
    assert pool_of(one)[0] <= 1


@pytest.mark.parametrize("steady", [True, False])
def test_an_address_that_left_the_name_is_drained(serve, by_name, steady):
    """Under steady traffic and without any: the name is looked up beside the requests."""
    old, new = Together(10), Service()
    name = Name(ipv4(serve(old)))
    one = by_name(name, dns_ttl="50ms")
    burst(one, 10)
    name.endpoints = [ipv4(serve(new))]
    if steady:
        until(lambda: one.send(get()).status == 200 and new.requests)
    until(lambda: old.open == 0)
    number = len(old.requests)
    burst(one, 10)
    assert len(old.requests) == number


def test_a_busy_connection_to_an_address_that_left_ends_with_its_answer(serve, by_name):
    go = gevent.event.Event()
    old, new = Service(lambda head, body: go.wait() and OK), Service()
    name = Name(ipv4(serve(old)))
    one = by_name(name, dns_ttl="50ms")
    first = gevent.spawn(one.send, get())
    until(lambda: old.requests)
    name.endpoints = [ipv4(serve(new))]
    until(lambda: one.instances[0].connector.endpoints[0].sockaddr == name.endpoints[0][1])
    go.set()
    assert first.get(timeout=LATE).body == b"ok"
    until(lambda: old.open == 0)


@pytest.mark.parametrize("answer", [[], socket.gaierror(-2, "Name or service not known"), OSError("down")])
def test_an_answer_that_is_none_changes_nothing(serve, by_name, answer):
    service = Service()
    name = Name(ipv4(serve(service)))
    one = by_name(name, dns_ttl="50ms")
    one.send(get())
    if isinstance(answer, Exception):
        name.error = answer
    else:
        name.endpoints = answer
    until(lambda: name.lookups >= 2)
    assert one.send(get()).status == 200 and service.connections == 1


@pytest.mark.parametrize("at_once", [1, 10])
def test_all_addresses_of_a_name_are_used(serve, serve_ipv6, by_name, at_once):
    services = [Service(), Service(), Service()]
    one = by_name(Name(ipv4(serve(services[0])), serve_ipv6(services[1]), ipv4(serve(services[2]))))
    for _ in range(30 // at_once):
        burst(one, at_once)
    assert Counter(len(service.requests) for service in services) == {10: 3}
    if at_once == 1:
        assert [service.connections for service in services] == [1, 1, 1]


def test_an_address_that_cannot_be_connected_pauses(serve, by_name):
    service = Service()
    one = by_name(Name((socket.AF_INET6, ("::1", closed_port(), 0, 0)), ipv4(closed_port()), ipv4(serve(service))))
    calls = [get() for _ in range(20)]
    assert [one.send(call).status for call in calls] == [200] * 20
    assert all(len(call.attempts) == 1 for call in calls)       # within one attempt
    assert {endpoint for endpoint in one.instances[0].connector._backoffs} == set(one.instances[0].connector.endpoints[:2])


def test_a_full_pool_does_not_open_and_close_for_an_address(serve, by_name):
    services = [Service(), Service()]
    one = by_name(Name(*(ipv4(serve(service)) for service in services)), max_connections=1)
    for _ in range(10):
        one.send(get())
    assert sum(service.connections for service in services) == 1


def test_nothing_is_looked_up_for_a_name_without_connections(serve, by_name):
    name = Name(ipv4(serve(Service())))
    one = by_name(name, dns_ttl="50ms", idle_timeout="20ms")
    one.send(get())
    until(lambda: pool_of(one) == (0, 0, 0))
    until(lambda: not one.instances[0].follower.alarm.is_set)


def test_an_upstream_that_is_forgotten_is_closed(serve):
    """No timer keeps it."""
    service = Service()
    one = Upstream("shop", Settings(instances=(f"http://127.0.0.1:{serve(service)}",)))
    one.send(get())
    one = None
    gevent.get_hub().loop.update_now()
    import gc
    gc.collect()
    until(lambda: service.open == 0)
    assert one is None
