"""Whatever is read of others has a bound before memory is taken: records, answers without an end, files, lists, and who asks."""

from __future__ import annotations

import os
import time
import tracemalloc
import zlib
from contextlib import nullcontext
from functools import partial

import gevent
import orjson
import pytest
from stored import entry_of, variants_of

from gateway.bus.redis_stream import RedisStream
from gateway.cache.entry import Variants
from gateway.cache.storage import codec as format
from gateway.cache.storage.construction import http_store
from gateway.cache.storage.file_tier import FileTier
from gateway.cache.storage.memcached_tier import MemcachedTier
from gateway.cache.storage.memory import MemoryTier
from gateway.cache.storage.redis_tier import RedisTier
from gateway.cache.storage.store import HttpStore
from gateway.config import Config
from gateway.remote.bounded_socket import (LONGEST_LINE, MOST_LINES, TURN, BoundedSocket, Framing, RedisLines, TooLarge,
                                           memcached_value)
from gateway.remote.redis_client import RedisClient
from tests.waiting import SAFETY, until

MB = 1024 ** 2


def record(key, body, whole, *, count=1, head_size=0):
    """A record with a right checksum that says of its body what is not so."""
    [entry] = variants_of()
    times = [getattr(entry, name) for name in format.TIMES]
    fields = [200, "OK", [["a", "x" * head_size]], times, 0, None, None, [], [], entry.url, len(body), whole]
    head = orjson.dumps([key, [fields] * count])
    rest = b"".join([len(head).to_bytes(4, "big"), head, body * count])
    return b"".join([format.HEAD.pack(format.MAGIC, format.VERSION, 1, 0, zlib.crc32(rest), len(head)), rest[4:]])


def taken(work):
    """The most bytes that were taken meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("made", [
    lambda: record("k", zlib.compress(bytes(100 * MB)), 100 * MB),
    lambda: record("k", zlib.compress(bytes(3 * MB)), 3 * MB, count=4),              # each is small enough
    lambda: record("k", zlib.compress(bytes(10)), 10, count=33),
    lambda: record("k", zlib.compress(bytes(100 * MB)), 1 * MB),                      # it is longer than it says
    lambda: record("k", zlib.compress(bytes(10)), -1),
    lambda: record("k", zlib.compress(bytes(10)), "10"),
    lambda: record("k", b"", 10 ** 18),
    lambda: record("k", b"x", None, head_size=5 * MB)])
def test_a_record_is_what_it_says_or_none(made):
    data = made()

    def read():
        with pytest.raises(format.CorruptRecord):
            format.decode("k", data, largest=8 * MB)
    assert taken(read) < 12 * MB + len(data)


class Tier:
    name, shift, margin, usable = "redis", 0.0, 0.0, True

    def __init__(self, data):
        self.get = lambda key: data
        self.write = lambda operations: 0
        self.close = lambda: None


def test_a_store_takes_no_more_than_a_record_may_have():
    fits, large = (format.encode("k", Variants([entry_of(body=os.urandom(100) * size)]), compress=True) for size in (90, 2 ** 16))
    for data, largest, found in ((fits, 10_000, True), (large, MB, False), (large, 16 * MB, True)):
        store = HttpStore(MemoryTier(MB), [Tier(data)], patience=SAFETY, largest=largest)
        assert (store.get("k") is not None) is found
        store.stop()


@pytest.mark.parametrize("max_object, largest", [("1KB", 64 * MB), ("1MB", 64 * MB), ("50MB", 200 * MB)])
def test_how_large_a_record_may_be_follows_from_the_routes(tmp_path, max_object, largest):
    store = http_store(Config.model_validate({"cache": {"memory": "1KB", "file": str(tmp_path)}, "routes": [
        {"path": "/*", "respond": {"text": "a"}, "cache": {"max_object": max_object}}]}))
    assert store.largest == store.tiers[0].largest == largest


def endless(head):
    """A server that answers everything with what never ends."""
    def handle(sock, address):
        try:
            sock.recv(65536)
            sock.sendall(head)
            while True:
                sock.sendall(bytes(MB))
        except OSError:
            return
    return handle


@pytest.mark.parametrize("make, head", [
    (lambda port: RedisTier(RedisClient(f"redis://127.0.0.1:{port}/0", timeout=SAFETY, largest=4 * MB)), b"$99999999999\r\n"),
    (lambda port: RedisTier(RedisClient(f"redis://127.0.0.1:{port}/0", timeout=SAFETY, largest=4 * MB)), b"+"),
    (lambda port: RedisTier(RedisClient(f"redis://127.0.0.1:{port}/0", timeout=SAFETY, largest=4 * MB)), b"*3\r\n$99999999999\r\n"),
    (lambda port: MemcachedTier(f"127.0.0.1:{port}", timeout=SAFETY, largest=4 * MB), b"VALUE k 0 99999999999\r\n"),
    (lambda port: MemcachedTier(f"127.0.0.1:{port}", timeout=SAFETY, largest=4 * MB), b"VALUE ")])
def test_an_answer_without_an_end_is_ended_and_others_have_their_turn(serve, make, head):
    tier, turns = make(serve(endless(head))), []

    def others():
        while True:
            turns.append(len(turns))
            gevent.sleep(0)
    other = gevent.spawn(others)
    found: list[object] = []
    size = taken(lambda: found.append(tier.get("k")))
    other.kill()
    tier.close()
    assert found == [None] and len(turns) > 10 and size < 40 * MB
    assert not tier.usable, "who talks so is not asked again soon"


WITHOUT_END = [(b"+", b"x"), (b"-", b"x"), (b"$", b"1"), (b"*", b"1"), (b"+", b"\n"), (b"*2000000000\r\n", b":1\r\n"),
               (b"*16000\r\n", b"*16000\r\n"), (b"", b"*1\r\n"), (b"*2000000000\r\n", b"$0\r\n\r\n"), (b"$99999999999\r\n", b"x"),
               (b"*1000\r\n", b"$1000000\r\n" + bytes(MB - 48576) + b"\r\n"), (b"$-9\r\n", b"x\r\n")]
HEALTHY = {b"CLIENT": b"+OK\r\n", b"TIME": b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n", b"EVAL": b":0\r\n",
           b"XRANGE": b"*1\r\n*2\r\n$3\r\n1-0\r\n*6\r\n$2\r\nat\r\n$1\r\n1\r\n$6\r\nnotice\r\n"
                      b"$19\r\n[\"\",null,null,true]\r\n$2\r\nby\r\n$0\r\n\r\n"}


class Flood:
    """Answers as Redis does until it is asked ``when`` (None: anything), and then without an end. Counts the bytes a client reads
    before another greenlet has a turn."""

    def __init__(self, monkeypatch, head, more, when=None):
        self.piece, self.head, self.when = more * (65536 // len(more) + 1), head, when
        self.turns = self.flooded = 0
        self.read: dict[int, int] = {}
        count = BoundedSocket._count

        def counted(sock, data):
            self.read[self.turns] = self.read.get(self.turns, 0) + len(data)
            count(sock, data)
        monkeypatch.setattr(BoundedSocket, "_count", counted)

    def others(self):
        while True:
            self.turns += 1
            gevent.sleep(0)

    def __call__(self, sock, address):
        try:
            while data := sock.recv(65536):
                for words in [part.split(b"\r\n") for part in data.split(b"*")[1:] if part[:1].isdigit()]:
                    if self.when in (None, words[2]):
                        self.flooded += 1
                        sock.sendall(self.head)
                        while True:
                            sock.sendall(self.piece)
                    sock.sendall(HEALTHY[words[2]])
        except OSError:
            return

    def is_harmless(self, most):
        assert max(self.read.values()) <= TURN + 65536, "others have no turn"
        assert sum(self.read.values()) <= most * self.flooded + 65536


@pytest.mark.parametrize("head, more", WITHOUT_END)
@pytest.mark.parametrize("when", [None, b"GETRANGE"])
def test_a_look_up_whose_answer_has_no_end(serve, monkeypatch, head, more, when):
    flood = Flood(monkeypatch, head, more, when)
    tier = RedisTier(RedisClient(f"redis://127.0.0.1:{serve(flood)}/0", timeout=SAFETY))
    other = gevent.spawn(flood.others)
    assert tier.get("k") is None and not tier.usable and flood.flooded
    other.kill()
    tier.close()
    flood.is_harmless(70 * MB if len(more) > MB / 2 else 4 * 65536)


@pytest.mark.parametrize("head, more", WITHOUT_END[::5])
@pytest.mark.parametrize("scheme, place", [("redis", "0"), ("redis+cluster", ""), ("redis+sentinel", "name")])
def test_whoever_leads_to_redis_has_a_bound_too(serve, monkeypatch, scheme, place, head, more):
    flood = Flood(monkeypatch, head, more)
    tier = RedisTier(RedisClient(f"{scheme}://127.0.0.1:{serve(flood)}/{place}", timeout=SAFETY))
    other = gevent.spawn(flood.others)
    assert tier.get("k") is None and not tier.usable and flood.flooded and flood.read
    other.kill()
    tier.close()
    flood.is_harmless(70 * MB if len(more) > MB / 2 else 4 * 65536)


@pytest.mark.parametrize("head, more", WITHOUT_END)
@pytest.mark.parametrize("when", [None, b"TIME", b"XRANGE", b"XREAD"])
def test_a_log_whose_answer_has_no_end(serve, monkeypatch, head, more, when):
    flood = Flood(monkeypatch, head, more, when)
    client = RedisClient(f"redis://127.0.0.1:{serve(flood)}/0", timeout=SAFETY)
    log = RedisStream(client)
    other = gevent.spawn(flood.others)
    log.start(lambda notice: None)
    until(lambda: client.circuit.failure)
    log.stop()
    other.kill()
    client.close()
    assert not client.usable and flood.flooded
    flood.is_harmless(4 * MB if len(more) > MB / 2 else 4 * 65536)


@pytest.mark.parametrize("head, more", [(b"", b"x"), (b"VALUE k 0 ", b"1"), (b"", b"VALUE k 0 1\r\na\r\n"), (b"VALUE k 0 ", b"\n")])
def test_an_answer_of_memcached_without_an_end(serve, monkeypatch, head, more):
    flood = Flood(monkeypatch, head, more)
    tier = MemcachedTier(f"127.0.0.1:{serve(partial(flood_memcached, flood))}", timeout=SAFETY)
    key = tier._name("k").encode()
    flood.head, flood.piece = (text.replace(b" k ", b" " + key + b" ") for text in (flood.head, flood.piece))
    other = gevent.spawn(flood.others)
    assert tier.get("k") is None and not tier.usable
    other.kill()
    tier.close()
    flood.is_harmless(2 * MB if more.startswith(b"VALUE") else 2 * 65536)


def flood_memcached(flood, sock, address):
    try:
        sock.recv(65536)
        flood.flooded += 1
        sock.sendall(flood.head)
        while True:
            sock.sendall(flood.piece)
    except OSError:
        return


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_an_answer_is_followed_however_it_is_cut(size):
    answers = b"".join([b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$0\r\n\r\n", b"$7\r\na\r\n*9\r\n\r\n",
                        b"*2\r\n*1\r\n:1\r\n$3\r\n\r\n\r\r\n", b"-ERR \n x\r\n"]) * 100
    lines = RedisLines()
    framing = Framing(lines, 100)
    count = sum(framing.follow(answers[at:at + size]) for at in range(0, len(answers), size))
    assert count == framing.lines == 12 * 100 and not lines._left and not framing._partial_line and not framing._skip


@pytest.mark.parametrize("value", [RedisLines(), memcached_value])
@pytest.mark.parametrize("over", [0, 1])
def test_how_long_a_line_and_an_answer_may_be(value, over):
    for data in (b"x" * (LONGEST_LINE - 2 + over) + b"\r\n", b"x\r\n" * (MOST_LINES + over)):
        with nullcontext() if not over else pytest.raises(TooLarge):
            Framing(value, 100).follow(data)


def test_a_large_record_in_redis_is_read_no_further_than_it_may_be(redis_server):
    server = redis_server()
    tier = RedisTier(RedisClient(server.url, timeout=SAFETY, largest=100_000))
    server.client.set("wicketgate:k", bytes(20 * MB))
    assert taken(lambda: tier.get("k")) < MB and len(tier.get("k")) == 100_000 and tier.usable
    assert tier.get("none") is None
    tier.close()


def test_files_that_are_none_of_ours(tmp_path):
    tier = FileTier(tmp_path, 2 ** 50, largest=100_000)
    assert tier.put("k", b"x", 60)
    place = tier._path_of("k")
    with place.open("wb") as file:
        file.truncate(10 ** 12)
    os.utime(place, (time.time(), time.time() + 100))
    assert taken(lambda: tier.get("k")) < MB
    place.unlink()
    os.mkfifo(place)
    os.utime(place, (time.time(), time.time() + 100))
    with gevent.Timeout(SAFETY):
        assert tier.get("k") is None
    place.unlink()
