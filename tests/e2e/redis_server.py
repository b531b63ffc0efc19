"""A real Redis for a test: ``redis-server`` on a free port, with its files in the test's own folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import redis
from running import free_port

from tests.waiting import until


class RedisServer:
    """One process. ``port`` stays the same over ``kill`` and ``start``; ``client`` is for looking into it."""

    def __init__(self, program: str, place: Path, *options: str, sentinel: bool = False) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.program = program
        self.place = place
        self.port = free_port()
        self.options = options
        self.sentinel = sentinel
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self.program]
        if self.sentinel:
            (self.place / "sentinel.conf").touch()
            command += [str(self.place / "sentinel.conf"), "--sentinel"]
        else:
            command += ["--save", "", "--appendonly", "no"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.place), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port, socket_timeout=20, single_connection_client=False)
        until(self.answers, f"redis-server answers on {self.port}")

    def answers(self) -> bool:
        """Does it take commands? Raises AssertionError when it has ended."""
        try:
            return self.client.ping()
        except redis.ConnectionError:
            assert self.process.poll() is None, f"redis-server ended with {self.process.returncode}"
            return False

    def kill(self) -> None:
        """End it at once, as a lost machine does."""
        self.client.close()
        self.process.kill()
        self.process.wait()

    stop = kill
