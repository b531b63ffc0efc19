"""A worker that serves connections in the process of the test."""

from __future__ import annotations

import pytest
from gunicorn.config import Config

from gateway.server.worker import GatewayWorker
from tests.server.serving import Gateway, Log, Recorded, Running


@pytest.fixture
def run(serve):
    """``run(application, **settings)``: a worker serving connections in this process."""
    workers = []

    def start(application, **settings) -> Running:
        cfg = Config()
        for name, value in {"http_parser": "python", "header_map": "refuse", "keepalive": 75, **settings}.items():
            cfg.set(name, value)
        log, sends = Log(), []
        worker = GatewayWorker(1, 0, [], None, 15, cfg, log)
        worker.wsgi = application
        worker.connections.start(application if isinstance(application, Gateway) else None)
        workers.append(worker)

        def handle(sock, address):
            sock._sock = Recorded(sock._sock, sends)
            worker.connections.handle(("127.0.0.1", 80), sock, address)

        return Running(serve(handle), worker, log, sends)

    yield start
    for worker in workers:
        worker.tmp.close()
