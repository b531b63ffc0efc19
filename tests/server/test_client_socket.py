"""How long a client may take for its answer: the limit is on its progress. The socket here follows a script; nothing waits."""

from __future__ import annotations

import socket

import gevent
import pytest

from gateway.server.client_socket import Client, ClientGone, SendStalled
from gateway.server.keepalive import WaitingClients
from tests.waiting import SAFETY


class Scripted:
    """A socket that does what the script says: takes so many bytes, or waits in vain while the client takes so many of those that
    are queued, or fails."""

    def __init__(self, script):
        self.script, self.queued, self.taken = list(script), 1000, 0
        self.real = socket.socket()

    def fileno(self):
        return self.real.fileno()

    def send(self, data):
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        kind, size = step
        if kind == "waits":
            self.queued -= size
            raise SendStalled("in vain")
        self.queued += size
        self.taken += size
        return size


class Tried(Client):
    def _queue_size(self):
        return self.sock.queued


@pytest.mark.parametrize("script, left, stalled", [
    ([("takes", 10)], 0, None),
    ([("takes", 4), ("takes", 6)], 0, None),
    ([("takes", 1)] * 10, 0, None),
    ([("waits", 1), ("takes", 10)], 0, None),                        # it reads on: what is queued becomes less
    ([("waits", 1)] * 500 + [("takes", 10)], 0, None),               # for however long
    ([("waits", 1), ("takes", 5), ("waits", 1), ("takes", 5)], 0, None),
    ([("waits", 0)], 10, True),                                      # it does not
    ([("takes", 4), ("waits", 0)], 6, True),
    ([("waits", 1), ("waits", 0)], 10, True),
    ([("takes", 9), ("waits", 7), ("waits", 0)], 1, True),
    ([TimeoutError("timed out"), ("takes", 10)], 0, None),           # the socket's own timeout is that of reading
    ([TimeoutError(110, "of the connection")], 10, False),
    ([("takes", 4), ConnectionResetError(104, "reset")], 6, False),
    ([BrokenPipeError(32, "gone")], 10, False)])
def test_progress_and_not_time_decides_whether_a_client_is_cut(script, left, stalled):
    sock = Scripted(script)
    client = Tried(None, sock, ("127.0.0.1", 1), 5.0)
    try:
        client.send(b"x" * 10)
        found = (0, None)
    except ClientGone as gone:
        found = (gone.left, gone.is_stalled)
    finally:
        sock.real.close()
    assert found == (left, stalled) and not sock.script and sock.taken == 10 - left


def test_what_is_offered_is_never_waited_for():
    one, other = socket.socketpair()
    client = Client(None, one, ("127.0.0.1", 5))
    one.setblocking(False)
    client.offer(b"hint")
    gevent.sleep(0)
    assert other.recv(100) == b"hint"
    while client._rest is None:                          # it takes no more
        client.offer(bytes(10_000))
        gevent.sleep(0)
    client.offer(b"hint")
    assert not client._pending
    one.setblocking(True)
    taken = b""
    while client._rest is not None and not client._rest.dead or len(taken) % 10_000:
        taken += other.recv(65536)
    client.settle()
    client.post(b"answer")
    gevent.sleep(0)
    other.settimeout(SAFETY)
    while not taken.endswith(b"answer"):
        taken += other.recv(65536)
    assert taken.count(b"hint") == 0 and len(taken) % 10_000 == 6
    client.readable.close()
    one.close(), other.close()


def test_it_says_what_it_is():
    assert repr(WaitingClients()) == "WaitingClients(0 clients)"
    with socket.socket() as sock:
        client = Client(None, sock, ("127.0.0.1", 5))
        client.readable.close()
    assert repr(client) == "Client(('127.0.0.1', 5), 0 requests)"
