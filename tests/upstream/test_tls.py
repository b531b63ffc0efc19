"""TLS to real servers: whom we believe, how we show who we are, and how a connection ends."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue
from raw import OK, Peer, Service, body_of, content, get, pool_of, post
from test_connecting import SWITCH, echo

from gateway.config import Tls
from gateway.errors import ConfigError, ConnectFailed, ConnectTimeout, UpstreamClosed, UpstreamTruncated
from gateway.upstream.tls import build_context
from gateway.upstream.transport import PIECE
from tests.waiting import SAFETY


@pytest.fixture
def serve_tls(serve, certificates):
    """``serve_tls(handle)`` is ``serve`` with TLS. It has ``names`` (SNI) and ``protocols`` (ALPN) asked for, in order."""
    class Start:
        names: list[str | None] = []
        protocols: list[str | None] = []

        def __call__(self, handle, client_ca: str | None = None, **options) -> int:
            self.names, self.protocols = [], []
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificates["server"], certificates["server_key"])
            context.set_alpn_protocols(["h2", "http/1.1"])
            context.sni_callback = lambda sock, name, context: self.names.append(name)
            if client_ca:
                context.load_verify_locations(client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            for name, value in options.items():
                setattr(context, name, value)

            def accept(sock, address) -> None:
                try:
                    secured = context.wrap_socket(sock, server_side=True)
                except OSError:                          # the client did not like us: what the test looks at is the client
                    sock.close()
                    return
                self.protocols.append(secured.selected_alpn_protocol())
                try:
                    handle(secured, address)
                finally:
                    secured.close()

            return serve(accept)

    return Start()


def test_a_call_over_tls(serve_tls, upstream, certificates):
    service = Service()
    port = serve_tls(service)
    one = upstream(f"https://127.0.0.1:{port}", tls={"ca": certificates["ca"]})
    for number in range(3):
        call = get(f"/{number}")
        assert one.send(call).body == b"ok"
        assert call.attempts[0].reuse is (number > 0)
    assert service.connections == 1                      # session tickets that came behind the handshake did no harm
    assert service.requests[0][0] == b"GET /0 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port
    assert serve_tls.protocols == ["http/1.1"]
    assert serve_tls.names == [None]                     # an address is no name to ask for (RFC 6066 section 3)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bodies_of_any_size_pass(serve_tls, upstream, certificates, version):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"y" * 3_000_000
    service = Service(answer)
    one = upstream(f"https://127.0.0.1:{serve_tls(service, maximum_version=version)}", tls={"ca": certificates["ca"]})
    for body in (b"x" * 3_000_000, body_of([b"x" * PIECE] * 50, None), b"small", None):
        response = one.send(post(body))
        assert content(response.body) == b"y" * 3_000_000
    assert [len(body) for head, body in service.requests] == [3_000_000, 50 * PIECE, 5, 0]
    assert service.connections == 1


def test_both_ways_flow_at_once(serve_tls, upstream, certificates):
    """Much more than the buffers hold, in both directions."""
    def handle(sock, address):
        peer = Peer(sock)
        peer.until(b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while piece := peer.chunk():
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")

    one = upstream(f"https://127.0.0.1:{serve_tls(handle)}", tls={"ca": certificates["ca"]})
    stream = one.send(post(body_of([b"x" * PIECE] * 200, None))).body
    assert sum(map(len, stream)) == 200 * PIECE


def test_the_name_is_asked_for_and_checked(serve_tls, upstream, certificates):
    port = serve_tls(Service())
    one = upstream(f"https://127.0.0.1:{port}", tls={"ca": certificates["ca"], "server_name": "shop.test"})
    assert one.send(get()).body == b"ok"
    assert serve_tls.names == ["shop.test"]


@pytest.mark.parametrize("tls, says", [
    ({}, "certificate verify failed"),
    ({"ca": "other"}, "certificate verify failed"),
    ({"ca": "ca", "server_name": "other.test"}, "Hostname mismatch"),
])
def test_a_server_we_cannot_believe_gets_nothing(serve_tls, upstream, certificates, tls, says):
    service = Service()
    tls = {key: certificates.get(value, value) for key, value in tls.items()}
    one = upstream(f"https://127.0.0.1:{serve_tls(service)}", tls=tls)
    call = get()
    with pytest.raises(ConnectFailed, match=says):
        one.send(call)
    assert service.requests == [] and call.attempts[0].flag == "UF"
    assert pool_of(one) == (0, 0, 0)


def test_checking_may_be_switched_off(serve_tls, upstream):
    one = upstream(f"https://127.0.0.1:{serve_tls(Service())}", tls={"verify": False})
    assert one.send(get()).body == b"ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_may_ask_who_we_are(serve_tls, upstream, certificates, version):
    port = serve_tls(Service(), client_ca=certificates["ca"], maximum_version=version)
    ours = {"ca": certificates["ca"], "certificate": certificates["client"], "key": certificates["client_key"]}
    assert upstream(f"https://127.0.0.1:{port}", tls=ours).send(get()).body == b"ok"
    with pytest.raises((ConnectFailed, UpstreamClosed)):
        upstream(f"https://127.0.0.1:{port}", tls={"ca": certificates["ca"]}).send(get())


def test_what_is_not_tls_is_no_connection(serve, upstream):
    with pytest.raises(ConnectFailed):
        upstream(f"https://127.0.0.1:{serve(lambda sock, address: sock.sendall(OK))}").send(get())


def test_the_handshake_is_bounded(serve, upstream):
    one = upstream(f"https://127.0.0.1:{serve(lambda sock, address: sock.recv(100000) and sock.recv(1))}", connect_timeout="30ms")
    with pytest.raises(ConnectTimeout):
        one.send(get())
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize("head", [b"", b"Content-Length: 70000\r\n"])
def test_only_an_end_in_order_ends_a_body(serve_tls, upstream, certificates, orderly, head):
    """Without close_notify somebody on the way may have cut it (RFC 9112 section 9.8)."""
    def handle(sock, address):
        Peer(sock).request()
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nsome")
        if orderly:
            sock.unwrap()
        sock._sock.shutdown(socket.SHUT_RDWR)

    one = upstream(f"https://127.0.0.1:{serve_tls(handle)}", tls={"ca": certificates["ca"]})
    stream = one.send(get()).body
    if orderly and not head:
        assert content(stream) == b"some"
    else:
        with pytest.raises(UpstreamTruncated):
            content(stream)
    assert pool_of(one) == (0, 0, 0)


@pytest.mark.parametrize("what", ["data", "end", "cut"])
def test_an_unused_connection_that_is_not_quiet_is_not_used_again(serve_tls, upstream, certificates, what):
    def handle(sock, address):
        peer = Peer(sock)
        if peer.request():
            sock.sendall(OK)
            if orders.get() == "data":
                sock.sendall(OK)
            elif what == "end":
                sock.close()
            else:
                sock._sock.shutdown(socket.SHUT_RDWR)
            done.set()
            peer.request()

    orders, done = Queue(), Event()
    one = upstream(f"https://127.0.0.1:{serve_tls(handle)}", tls={"ca": certificates["ca"]})
    one.send(get())
    orders.put(what)
    assert done.wait(30)
    call = post(b"x")
    assert one.send(call).body == b"ok"
    assert [(attempt.status, attempt.reuse) for attempt in call.attempts] == [(200, False)]
    orders.put("end")


def test_we_say_goodbye(serve_tls, upstream, certificates):
    ended = Queue()

    def handle(sock, address):
        sock.suppress_ragged_eofs = False
        peer = Peer(sock)
        peer.request()
        sock.sendall(OK)
        ended.put(sock.recv(1))

    one = upstream(f"https://127.0.0.1:{serve_tls(handle)}", tls={"ca": certificates["ca"]})
    one.send(get())
    one.close()
    assert ended.get(timeout=30) == b""


def test_an_upgrade_over_tls(serve_tls, upstream, certificates):
    one = upstream(f"https://127.0.0.1:{serve_tls(echo)}", tls={"ca": certificates["ca"]})
    response = one.send(get(upgrade="echo"))
    tunnel = response.tunnel
    assert response.status == 101 and tunnel is not None
    sock = tunnel.sock
    hello = tunnel.leftover or sock.recv(100)
    assert hello == b"hello" and sock.fileno() > 0
    sock.settimeout(SAFETY)
    reader = gevent.spawn(lambda: b"".join(iter(lambda: sock.recv(1000), b"")))
    for _ in range(20):
        sock.sendall(b"x" * PIECE)
    sock.shutdown(socket.SHUT_WR)
    assert len(reader.get(timeout=30)) == 20 * PIECE
    sock.settimeout(0.01)
    sock.close()
    with pytest.raises(OSError):
        sock.recv(1)
    assert pool_of(one) == (0, 0, 0)


def test_an_upgraded_socket_may_time_out(serve_tls, upstream, certificates):
    one = upstream(f"https://127.0.0.1:{serve_tls(echo)}", tls={"ca": certificates["ca"]})
    tunnel = one.send(get(upgrade="echo")).tunnel
    assert tunnel is not None
    assert (tunnel.leftover or tunnel.sock.recv(100)) == b"hello"
    tunnel.sock.settimeout(0.01)
    with pytest.raises(TimeoutError):
        tunnel.sock.recv(1)
    tunnel.sock.close()


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize("sent", [b"", b"some"])
def test_an_upgraded_socket_ends_however_the_service_ends_it(serve_tls, upstream, certificates, orderly, sent):
    """The protocol spoken now says itself where it ends. Each Python has its own word for a connection that was cut."""
    def handle(sock, address):
        peer = Peer(sock)
        peer.request()
        sock.sendall(SWITCH + b"hello")
        peer.exactly(4)
        sock.sendall(sent)
        if orderly:
            sock.unwrap()
        sock._sock.shutdown(socket.SHUT_RDWR)

    one = upstream(f"https://127.0.0.1:{serve_tls(handle)}", tls={"ca": certificates["ca"]})
    tunnel = one.send(get(upgrade="echo")).tunnel
    assert tunnel is not None
    assert (tunnel.leftover or tunnel.sock.recv(100)) == b"hello"
    tunnel.sock.settimeout(SAFETY)
    tunnel.sock.sendall(b"last")
    assert b"".join(iter(lambda: tunnel.sock.recv(1000), b"")) == sent
    tunnel.sock.close()


@pytest.mark.parametrize("settings, says", [
    ({"ca": "/nowhere.pem"}, "tls.ca /nowhere.pem"), ({"ca": "client_key"}, "tls.ca"),
    ({"certificate": "/nowhere.pem"}, "tls.certificate /nowhere"),
    ({"certificate": "client"}, "in the same file"), ({"certificate": "client", "key": "server_key"}, "key .*server"),
])
def test_files_that_cannot_be_used_are_named(certificates, settings, says):
    with pytest.raises(ConfigError, match=says):
        build_context(Tls(**{key: certificates.get(value, value) for key, value in settings.items()}))


def test_an_encrypted_key_asks_nobody(certificates, tmp_path):
    subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", certificates["client_key"], "-out",
                    tmp_path / "locked.key"],
                   check=True, capture_output=True)
    with pytest.raises(ConfigError, match="encrypted"):
        build_context(Tls(certificate=certificates["client"], key=str(tmp_path / "locked.key")))


def test_who_names_the_same_files_shares_one_context():
    assert build_context(Tls()) is build_context(Tls(server_name="x"))
    assert build_context(Tls()) is not build_context(Tls(verify=False))


def test_a_file_that_was_replaced_is_read_again(certificates, tmp_path):
    ours = tmp_path / "ca.pem"
    ours.write_bytes(open(certificates["other"], "rb").read())
    before = build_context(Tls(ca=str(ours)))
    assert build_context(Tls(ca=str(ours))) is before
    ours.write_bytes(open(certificates["ca"], "rb").read())
    os.utime(ours, (1, 1))
    after = build_context(Tls(ca=str(ours)))
    assert [context.get_ca_certs()[0]["subject"][0][0][1] for context in (before, after)] == ["other", "ca"]
