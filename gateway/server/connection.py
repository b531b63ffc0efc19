"""The connections of a worker: from accept to close, one greenlet each, one request after the other.

::

    handle: [TLS] -> wait -+-> fast lane ----------------------------------> answer -+-> close
                     ^     +-> read head -> environ -> application -> answer ------- +
                     +----------------------- keep-alive ----------------------------+

A plainly simple request takes the fast lane (fastlane.py); everything else is read by Gunicorn's parser. Who waits and who is
dismissed is in keepalive.py, sending in client_socket.py, the way from a request to its answer in request_handler.py.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

import gevent
from gevent.pool import Pool
from gunicorn.sock import ssl_context

from ..errors import HeadTimeout, with_cause
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from .client_socket import Client
from .fastlane import Lane, is_possible
from .gunicorn_request import GunicornRequest
from .keepalive import Dismissal, WaitingClients
from .request_handler import LaneExchange, RequestHandler, WsgiExchange

IO_TIMEOUT = 60.0               # seconds without progress where no other limit holds
HEAD_TIMEOUT = 10.0             # seconds for a head, from its first byte on, where no configuration says otherwise
HURRY = 1.0                     # seconds for the rest of a head, while new connections wait for a place
SEND_TIMEOUT = 60.0             # seconds for which a client may take nothing of an answer, where no configuration says otherwise


class ConnectionHandler:
    """The connections of ``worker``, at most its ``worker_connections``.

    States: open, draining (requests are answered with ``Connection: close``), closing (idle connections are closed too).
    """

    def __init__(self, worker: Any, clock: MonotonicClock = CLOCK) -> None:
        self.worker = worker
        self.cfg = worker.cfg
        self.log = worker.log
        self.clock = clock
        self.pool: Any = None
        self.requests = RequestHandler(worker, clock)
        self.waiting = WaitingClients(clock)                 # for a request, or for a handshake
        self.heads = WaitingClients(clock)                   # for the rest of a head
        self.application: Any = None                         # the gateway's, however it is wrapped; None for any other
        self.lane: Lane | None = None
        self.head_timeout = HEAD_TIMEOUT
        self.send_timeout = SEND_TIMEOUT
        self.is_closing = False
        self._tls: ssl.SSLContext | None = None
        self._is_crowded = False                             # all places are taken, and all were busy

    def start(self, application: Any) -> None:
        """Make room for connections, as the settings and the application say. In the worker: a fork would share the pool."""
        self.pool = Pool(self.worker.worker_connections)
        if self.cfg.is_ssl:
            self._tls = ssl_context(self.cfg)
        self.application = self.requests.application = application
        if application is None:
            return
        settings = application.settings.gateway
        self.head_timeout, self.requests.body_timeout = settings.head_timeout, settings.body_timeout
        self.send_timeout = settings.send_timeout
        if application.is_reached_directly(self.worker.wsgi) and is_possible(self.cfg):
            self.lane = Lane(self.cfg)
            application.on_bypass = self.close_lane

    def close_lane(self) -> None:
        """A middleware has come between the worker and the gateway."""
        self.lane = None

    def handle(self, listener: Any, sock: Any, addr: Any) -> None:
        """Serve one connection until it ends. ``listener`` is the address it was accepted on."""
        sock.settimeout(IO_TIMEOUT)
        if isinstance(addr, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(listener, sock, addr, self.send_timeout)
        if self.pool.full():
            self._make_room()
        try:
            if self._tls is not None:
                self._shake_hands(client, self._tls)
            while self._serve_next(client):
                pass
        except (Dismissal, gevent.GreenletExit):
            client.lingers = False
        except OSError as error:                             # Gunicorn's NoMoreData, the end of half a head, among them
            self.log.debug("The client ended the connection: %s", error)
        except Exception as error:                           # of Gunicorn's parser: what the client sent is not HTTP
            self.requests.refuse(client, None, error)
        finally:
            client.close()

    def _make_room(self) -> None:
        """The last place is taken: end the connection that has been idle for longest, or else the next one that becomes so. What
        waits in the queue of the kernel would else wait for as long as idle clients like."""
        closed = self.waiting.dismiss_longest()
        if not closed and not self._is_crowded:
            self.log.warning("Worker %s: all %d connections are busy; new ones wait", self.worker.pid, self.pool.size)
        self._is_crowded = not closed
        if self.application is not None:
            self.application.count_crowded(closed)

    def _shake_hands(self, client: Client, context: ssl.SSLContext) -> None:
        client.sock = context.wrap_socket(client.sock, server_side=True, do_handshake_on_connect=False,
                                          suppress_ragged_eofs=self.cfg.suppress_ragged_eofs)
        client.native_sock = None
        client.unreader.sock = client.sock
        self.waiting.enter(client)
        try:
            client.sock.do_handshake()
        finally:
            self.waiting.leave(client)

    def _serve_next(self, client: Client) -> bool:
        """Wait for a request and answer it; whether another may follow."""
        if client.read_ahead:
            gevent.sleep(0)                                  # a client that pipelines is not to keep the others waiting
        data, client.read_ahead = client.read_ahead or self._wait(client), b""
        if not data or client.is_broken:
            return False
        lane = self.lane
        plain = lane.read(data) if lane is not None else None
        if lane is not None and plain is not None:
            client.request_count += 1
            client.read_ahead = data[plain.size:]
            return self.requests.serve(LaneExchange(self.requests, client, plain, lane))
        client.release()
        client.unreader.unread(data)
        request = self._read_head(client)
        client.request_count += 1
        more = self.requests.serve(WsgiExchange(self.requests, client, request))
        client.read_ahead = client.unreader.take_buffered()
        return more

    def _wait(self, client: Client) -> bytes:
        """The first bytes of the next request; none when there will be no other."""
        if (self.is_closing or self._is_crowded) and client.request_count and client.quiet():
            self._is_crowded = False
            return b""
        client.mid_head = False
        client.since = self.clock.now()                          # as enter() and leave() do, for every request
        self.waiting[client] = None
        try:
            return client.wait()
        finally:
            del self.waiting[client]

    def _read_head(self, client: Client) -> GunicornRequest:
        """The request that has begun to arrive, by Gunicorn's parser. Raises HeadTimeout."""
        client.mid_head = True
        self.heads.enter(client)
        try:
            request = GunicornRequest(self.cfg, client.unreader, client.addr, client.request_count + 1,
                                      self.application is not None)
        except Dismissal:
            raise with_cause(HeadTimeout(f"the head did not come within {self.head_timeout:g} s"), None)
        finally:
            self.heads.leave(client)
        client.proxy_info = request.proxy_protocol_info = request.proxy_protocol_info or client.proxy_info
        return request

    def dismiss_overdue(self) -> None:
        """End the waits that have been too long; half a head has less time while new connections wait for a place."""
        self.waiting.dismiss_overdue(self.cfg.keepalive or IO_TIMEOUT)
        hurry = self._is_crowded and self.pool.full()
        self.heads.dismiss_overdue(min(self.head_timeout, HURRY) if hurry else self.head_timeout)

    # The end

    def drain(self) -> None:
        """From now on every answer says that its connection ends."""
        self.requests.draining = True

    def close_idle(self) -> None:
        """Close the idle connections, also those that never had a request, and each that becomes idle."""
        self.is_closing = True
        self.waiting.dismiss_idle(fresh=True)

    def join(self, seconds: float) -> bool:
        """Wait for the last connection to end, at most ``seconds``; whether it has."""
        return bool(self.pool.join(timeout=max(0.0, seconds)))

    def kill(self) -> None:
        """Cut what is left."""
        self.pool.kill(timeout=0.2)
