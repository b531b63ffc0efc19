"""What tests of upstreams share: raw services that speak bytes, an upstream in front of them, certificates."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gevent.server import StreamServer
from gevent.socket import AF_UNIX, SOCK_STREAM, socket

from gateway.config import UpstreamSettings as Settings
from gateway.loop.monotonic_clock import CLOCK, MonotonicClock
from gateway.upstream.client import Upstream
from tests.waiting import PATIENT

GENEROUS = {"connect_timeout": PATIENT, "pool_timeout": PATIENT}


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """``upstream(port, ...)`` is an upstream of these instances (ports or URLs), with settings as in a file. What a test does not
    set has all the time that a busy machine may need."""
    upstreams = []

    def make(*instances: int | str, clock: MonotonicClock = CLOCK, **settings: Any) -> Upstream:
        urls = tuple(f"http://127.0.0.1:{place}" if isinstance(place, int) else place for place in instances)
        upstreams.append(Upstream("shop", Settings(instances=urls, **{**GENEROUS, **settings}), clock=clock))
        return upstreams[-1]

    yield make
    for one in upstreams:
        one.close()


@pytest.fixture
def serve_unix(tmp_path) -> Iterator[Callable[..., str]]:
    """Like ``serve``, on a unix socket whose path it returns."""
    servers = []

    def start(handle: Callable[..., None]) -> str:
        listener = socket(AF_UNIX, SOCK_STREAM)
        path = str(tmp_path / f"{len(servers)}.sock")
        listener.bind(path)
        listener.listen(16)
        servers.append(StreamServer(listener, handle))
        servers[-1].start()
        return path

    yield start
    for server in servers:
        server.stop(timeout=0)
        server.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> dict[str, str]:
    """Files by name: an authority (``ca``), ``server`` for shop.test and 127.0.0.1, ``client``; another authority (``other``)."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=DNS:shop.test,IP:127.0.0.1\n" if name == "server" else "")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    return {os.path.splitext(file)[0] + ("_key" if file.endswith(".key") else ""): str(folder / file)
            for file in os.listdir(folder) if file.endswith((".pem", ".key"))}
