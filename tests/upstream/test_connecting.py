"""Getting a connection: names, several endpoints, unix sockets, upgrades, and the time it may take."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent.event import Event
from gevent.socket import socket as gevent_socket
from raw import OK, Peer, Service, get, pool_of

from gateway.config import UpstreamSettings as Settings
from gateway.deadline import Deadline
from gateway.errors import ConnectFailed, ConnectTimeout, DeadlineExceeded, UpstreamTimeout
from gateway.upstream.client import Upstream
from gateway.upstream.connecting import Connector
from gateway.upstream.dns import Resolver
from gateway.upstream.limit import Limit
from gateway.values import parse_instance
from tests.waiting import SAFETY, until


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with gevent_socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def full_port():
    """A port that takes no more connections: its backlog is full, and nobody accepts."""
    listener = gevent_socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    fillers = []
    for _ in range(8):
        filler = gevent_socket()
        filler.setblocking(False)
        filler.connect_ex(address)
        fillers.append(filler)
    with pytest.raises(OSError):                         # the last one is not connected
        fillers[-1].getpeername()
    yield address[1]
    for one in (*fillers, listener):
        one.close()


def by_name(ports: list[int], **settings) -> Upstream:
    """An upstream called http://shop.test, whose name has these ports of 127.0.0.1 as its endpoints."""
    def lookup(host: str, port: int) -> list[tuple]:
        assert (host, port) == ("shop.test", 8000)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", place)) for place in ports]

    return Upstream("shop", Settings(instances=("http://shop.test:8000",), **settings), Resolver(30, lookup))


def test_a_name_is_looked_up_and_sent_as_host(serve):
    service = Service()
    one = by_name([serve(service)])
    assert one.send(get()).body == b"ok"
    assert service.requests[0][0] == b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\n\r\n"
    one.close()


def test_all_endpoints_are_tried_in_order(serve):
    first, second = Service(), Service()
    one = by_name([closed_port(), serve(first), serve(second)])
    call = get()
    assert one.send(call).body == b"ok"
    assert (first.connections, second.connections) == (1, 0)
    assert len(call.attempts) == 1
    one.close()


def test_an_endpoint_that_does_not_answer_is_given_up_for_the_next(serve, full_port):
    one = by_name([full_port, serve(Service())], connect_timeout="50ms")
    assert one.send(get()).body == b"ok"
    one.close()


def test_no_endpoint_answers():
    one = by_name([closed_port(), closed_port()])
    call = get()
    with pytest.raises(ConnectFailed, match="shop.test.*refused") as excinfo:
        one.send(call)
    assert (excinfo.value.upstream, excinfo.value.instance) == ("shop", "http://shop.test:8000")
    assert [(attempt.flag, attempt.status) for attempt in call.attempts] == [("UF", 0)]
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("seconds, timeout, error", [(10, None, ConnectTimeout), (0.01, None, DeadlineExceeded),
                                                     (10, 0.01, UpstreamTimeout)])
def test_connecting_is_bounded(full_port, upstream, seconds, timeout, error):
    one = upstream(full_port, connect_timeout="50ms")
    with pytest.raises(error) as excinfo:
        one.send(get(seconds=seconds, timeout=timeout))
    assert type(excinfo.value) is error
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("seconds, error", [(10, ConnectTimeout), (0.01, DeadlineExceeded)])
def test_a_slow_name_server_is_bounded(seconds, error):
    go = Event()

    def lookup(host: str, port: int) -> list[tuple]:
        go.wait(30)
        return []

    one = Upstream("shop", Settings(instances=("http://shop.test",), connect_timeout="30ms"), Resolver(30, lookup))
    with pytest.raises(error):
        one.send(get(seconds=seconds))
    go.set()
    assert pool_of(one) == (0, 0, 0)


def test_an_unknown_name():
    def lookup(host: str, port: int) -> list[tuple]:
        raise socket.gaierror(-2, "Name or service not known")

    one = Upstream("shop", Settings(instances=("http://shop.test",)), Resolver(30, lookup))
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="shop.test.*not known"):
            one.send(get())


def test_killing_who_connects_leaves_nothing(full_port, upstream):
    one = upstream(full_port)
    caller = gevent.spawn(one.send, get())
    until(lambda: pool_of(one) == (1, 0, 1))
    gevent.idle()
    caller.kill()
    assert pool_of(one) == (0, 0, 0)


def test_small_writes_are_not_delayed(serve, upstream):
    one = upstream(serve(Service()))
    one.send(get())
    connection = one.instances[0].pool.idle[0]
    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ipv6(upstream):
    from gevent.server import StreamServer
    listener = gevent_socket(socket.AF_INET6)
    listener.bind(("::1", 0))
    listener.listen()
    service = Service()
    server = StreamServer(listener, service)
    server.start()
    port = listener.getsockname()[1]
    try:
        assert upstream(f"http://[::1]:{port}").send(get()).body == b"ok"
    finally:
        server.stop(timeout=0)
        listener.close()
    assert b"\r\nHost: [::1]:%d\r\n" % port in service.requests[0][0]


def test_a_unix_socket(serve_unix, upstream):
    service = Service()
    one = upstream(f"unix:{serve_unix(service)}")
    for _ in range(2):
        assert one.send(get()).body == b"ok"
    assert service.connections == 1
    assert service.requests[0][0] == b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_unix_socket_nobody_listens_on(tmp_path, upstream):
    with pytest.raises(ConnectFailed, match="No such file"):
        upstream(f"unix:{tmp_path}/none.sock").send(get())


def test_a_unix_socket_with_a_full_backlog_is_waited_for(tmp_path, upstream):
    path = str(tmp_path / "busy.sock")
    listener = gevent_socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    filler = gevent_socket(socket.AF_UNIX)
    filler.connect(path)
    one = upstream(f"unix:{path}", connect_timeout="30ms")
    with pytest.raises(ConnectTimeout):
        one.send(get())
    patient = upstream(f"unix:{path}", connect_timeout="30s")
    answer = gevent.spawn(patient.send, get())
    until(lambda: pool_of(patient) == (1, 0, 1))
    listener.accept()[0].close()
    accepted = listener.accept()[0]
    Peer(accepted).request()
    accepted.sendall(OK)
    assert answer.get(timeout=30).body == b"ok"
    for one_socket in (accepted, filler, listener):
        one_socket.close()


def test_the_text_of_a_connector_is_its_endpoint():
    connector = Connector(parse_instance("http://[::1]:81"), Resolver(30), 1, None, None)
    assert repr(connector) == "Connector([::1]:81)"
    with pytest.raises(DeadlineExceeded):
        connector.connect(Limit(Deadline(0), None, UpstreamTimeout))


# Another protocol on the same connection

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"


def echo(sock, address) -> None:
    """Switches protocols, says hello and then echoes."""
    Peer(sock).request()
    sock.sendall(SWITCH + b"hello")
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.close()


def test_an_upgrade_hands_the_connection_over(serve, upstream):
    service_saw = []

    def handle(sock, address):
        service_saw.append(sock)
        echo(sock, address)

    one = upstream(serve(handle), max_connections=1)
    call = get(upgrade="echo")
    response = one.send(call)
    tunnel = response.tunnel
    assert (response.status, response.reason, response.header("Upgrade")) == (101, "Switching Protocols", "echo")
    assert tunnel is not None and tunnel.leftover == b"hello"
    assert pool_of(one) == (0, 0, 0)                     # it is no longer one of the pool's
    assert call.attempts[0].status == 101
    tunnel.sock.settimeout(SAFETY)
    tunnel.sock.sendall(b"x" * 1000)
    tunnel.sock.shutdown(socket.SHUT_WR)
    assert b"".join(iter(lambda: tunnel.sock.recv(100), b"")) == b"x" * 1000
    tunnel.sock.close()


def test_an_upgrade_refused_is_an_ordinary_answer(serve, upstream):
    one = upstream(serve(Service()))
    response = one.send(get(upgrade="echo"))
    assert (response.status, response.body, response.tunnel) == (200, b"ok", None)
    assert pool_of(one) == (1, 1, 0)
