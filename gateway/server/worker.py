"""The Gunicorn worker: accepts connections, serves their requests one after the other, and leaves without losing any.

Its connections are those of a ConnectionHandler (connection.py).

Leaving (TERM, HUP, TTOU, ``max_requests``)::

    serving --told to end--> leaving  --+--> draining --> exit
            --max_requests-> retiring --+
                ^                       |
                +-- its successor failed to start

A worker that is leaving serves on until another one does, when one is starting: so HUP and ``max_requests`` leave no gap, and a
broken deployment no hole (succession.py). It drains as draining.py says, and exits when its last connection is over.

HTTP/1 only: it stands behind nginx, which speaks HTTP/2 and TLS to the world. TLS listeners and the PROXY protocol work.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event
from gevent.server import StreamServer
from gunicorn.arbiter import Arbiter
from gunicorn.workers.ggevent import GeventWorker

from ..errors import ConfigError
from ..local import run_directory
from ..loop.monotonic_clock import CLOCK, MonotonicClock
from .connection import ConnectionHandler
from .draining import drain
from .succession import Succession

RETRY = 2.0                     # seconds before a worker that could not start gives way to the next try


class GatewayWorker(GeventWorker):
    """``worker_class = "gateway.server.worker.GatewayWorker"``. Runs any WSGI application."""

    alive: bool                                              # Gunicorn's: False ends the main loop
    nr: int                                                  # Gunicorn's: requests served

    def __init__(self, *args: Any, clock: MonotonicClock = CLOCK, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = clock
        self.connections = ConnectionHandler(self, clock)
        self.application: Any = None                         # the gateway's, however it is wrapped; None for any other
        self.on_master_death: Callable[[], None] | None = None
        self._by_signal = False                              # it is to end because of a signal, not of max_requests
        self._wakeup: Any = None                             # an Event once it runs: there may be something to do

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by Gunicorn at start. Raises RuntimeError for what this worker does not speak."""
        if "h2" in (cfg.http_protocols or ()) or cfg.http2_cleartext != "off":
            raise RuntimeError("gateway.server.worker.GatewayWorker does not speak HTTP/2: set http_protocols = \"h1\"")
        if cfg.protocol != "http":
            raise RuntimeError(f"gateway.server.worker.GatewayWorker does not speak {cfg.protocol}: set protocol = \"http\"")

    def count_request(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Worker %s has served its %d requests", self.pid, self.nr)
            self.alive = False
            self._wake()

    # The life of the worker

    def init_process(self) -> None:
        try:
            super().init_process()
        except Exception as error:
            if not self.booted:
                self._give_up(error)
            raise

    def _give_up(self, error: Exception) -> None:
        """This worker cannot start. In an instance that has served that is no reason to end the master, as exit codes 3 and 4
        would: others serve still, or the next one may be able to."""
        run_dir = run_directory.current()
        if run_dir is None:
            return
        if isinstance(error, ConfigError):
            run_dir.report_config(error.problems)
            for problem in error.problems:
                self.log.error("%s: %s", error.source or "the configuration", problem)
            if not run_dir.has_served():
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
        elif not run_dir.has_served():
            return
        self.log.error("Worker %s cannot start; %s", self.pid,
                       "those that serve go on" if run_dir.serves_without_me() else "nobody serves until the next one can",
                       exc_info=error)
        self._report("failed")
        until = self.clock.now() + RETRY
        while self.alive and self.clock.now() < until:
            gevent.sleep(0.1)
        if not self.alive:
            self._report("draining")                         # told to end: nobody is to take it for a broken deployment
        sys.exit(1)

    def run(self) -> None:
        self._wakeup = Event()
        signals = get_hub().loop.io(self.PIPE[0], 1)         # Python writes there when a signal has arrived
        signals.start(self._on_signal)
        servers = self._listen()
        self._report("serving" if self.alive else "draining")
        while True:
            while self.alive:
                self._tick(1.0)
            if self._may_leave():
                break
            self.alive, self._by_signal, self.nr = True, False, 0
            self._report("serving")
        self.connections.drain()
        self._report("draining")
        drain(self, servers)
        signals.stop()
        signals.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)        # what is left to do is not to be interrupted by being told again

    def _listen(self) -> list[StreamServer]:
        if self.application is None and hasattr(self.wsgi, "receive"):
            self.application = self.wsgi                     # under other hooks than the gateway's
        self.connections.start(self.application)
        servers = []
        for sock in self.sockets:
            sock.setblocking(1)
            server = StreamServer(sock, handle=partial(self.connections.handle, sock.getsockname()), spawn=self.connections.pool)
            if self.cfg.workers > 1:
                server.max_accept = 1
            server.start()
            servers.append(server)
        return servers

    def _tick(self, seconds: float) -> None:
        """Sleep until something changes, at most ``seconds``."""
        self.notify()
        run_dir = run_directory.current()
        if run_dir is not None:
            run_dir.mend()
        self.connections.dismiss_overdue()
        self._wakeup.wait(seconds)
        self._wakeup.clear()

    def notify(self) -> None:
        """The heartbeat. Without its master the worker ends too, but not before its requests."""
        self.tmp.notify()
        if self.ppid == os.getppid():
            return
        release, self.on_master_death = self.on_master_death, None
        if release is not None:
            release()
        if self.alive:
            self.log.info("Parent changed, shutting down: %s", self)
            run_dir = run_directory.current()
            if run_dir is not None:
                run_dir.adopt()
            self.alive, self._by_signal = False, True

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._by_signal = True
        super().handle_exit(sig, frame)

    def handle_usr1(self, sig: int, frame: Any) -> None:
        super().handle_usr1(sig, frame)
        if self.application is not None:
            gevent.spawn(self.application.reopen_logs)

    def _on_signal(self) -> None:
        os.read(self.PIPE[0], 4096)
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()

    def _may_leave(self) -> bool:
        """Serve on while a successor is starting. False: it failed, and this worker stays."""
        run_dir = run_directory.current()
        if run_dir is None:
            return True
        self._report("leaving" if self._by_signal else "retiring")
        if not self._by_signal:
            os.kill(self.ppid, signal.SIGCHLD)               # wakes the master, which starts the successor
        succession = Succession(run_dir.other_workers())
        until = self.clock.now() + self.cfg.graceful_timeout
        while self.clock.now() < until:
            verdict = succession.may_leave(run_dir.other_workers(), self._by_signal, self.clock.now())
            if verdict is False:
                self.log.error("Worker %s stays: its successor cannot start", self.pid)
            if verdict is not None:
                return verdict
            self._tick(0.05)
        return True

    def _report(self, state: str) -> None:
        run_dir = run_directory.current()
        if run_dir is not None:
            run_dir.set_state(state)
