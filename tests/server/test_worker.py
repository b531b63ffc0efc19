"""What a worker speaks, and when it ends."""

from __future__ import annotations

import pytest
from gunicorn.config import Config

from gateway.server.worker import GatewayWorker
from tests.server.serving import GET, Log, hello


@pytest.mark.parametrize("settings", [{"http_protocols": "h2,h1"}, {"http2_cleartext": "upgrade"}, {"protocol": "uwsgi"}])
def test_what_it_does_not_speak_is_refused_at_start(settings):
    cfg = Config()
    GatewayWorker.check_config(cfg, Log())
    for name, value in settings.items():
        cfg.set(name, value)
    with pytest.raises(RuntimeError, match="does not speak"):
        GatewayWorker.check_config(cfg, Log())


def test_max_requests_ends_the_main_loop(run):
    running = run(hello, max_requests=2)
    running.exchange(GET)
    assert running.worker.alive
    running.exchange(GET)
    assert not running.worker.alive and not running.connections.requests.draining
