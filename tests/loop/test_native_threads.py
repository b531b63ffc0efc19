"""What blocks in a native thread holds nobody up but who waits for the same: disks, names and whatever gevent does are apart."""

from __future__ import annotations

import errno
import os
import resource
import socket

import gevent
import pytest
from gevent import monkey
from gevent.event import Event

from gateway import files as assets
from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, NoRoute, OutOfFiles
from gateway.files import File, Files
from gateway.loop.native_threads import SerialThread, disk_threads, dns_threads, run_in_thread
from gateway.message import Request
from gateway.upstream import dns
from gateway.upstream.dns import Resolver, SocketAddress
from tests.waiting import until

PLACE = SocketAddress(socket.AF_INET, ("127.0.0.1", 80))


class Gate:
    """What waits at it blocks its native thread."""

    def __init__(self) -> None:
        self.lock = monkey.get_original("_thread", "allocate_lock")()
        self.lock.acquire()

    def wait(self, *ignored) -> list:
        with self.lock:
            return [(PLACE.family, socket.SOCK_STREAM, 6, "", PLACE.sockaddr)]


@pytest.fixture
def gate():
    """Open at the end, and whoever waits there has left."""
    made, stuck = Gate(), []
    made.spawn = lambda function, *args: stuck.append(gevent.spawn(function, *args))
    yield made
    if made.lock.locked():
        made.lock.release()
    gevent.joinall(stuck, timeout=20)
    disk_threads.pool().join()
    dns_threads.pool().join()
    gevent.get_hub().threadpool.join()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.css").write_bytes(b"a{}")
    return Files("/static/*", str(tmp_path))


def get(files: Files, seconds: float = 20.0):
    return files(Request("GET", "/static/a.css", [], deadline=Deadline(seconds)))


def fill(gate: Gate, kind: str) -> None:
    """More of them than there are threads."""
    for _ in range(dns_threads.number + 5):
        if kind == "disk":
            gate.spawn(run_in_thread, gate.wait)
        elif kind == "gevent":
            gate.spawn(gevent.get_hub().threadpool.apply, gate.wait)
        else:
            gate.spawn(dns_threads.run, gate.wait)
    gevent.idle()


@pytest.mark.parametrize("kind", ["names", "gevent"])
def test_files_do_not_wait_for_names(gate, files, kind):
    fill(gate, kind)
    assert get(files).status == 200


@pytest.mark.parametrize("kind", ["disk", "gevent"])
def test_names_do_not_wait_for_files(gate, kind, monkeypatch):
    fill(gate, kind)
    monkeypatch.setattr(dns, "getaddrinfo", lambda *args: [(PLACE.family, socket.SOCK_STREAM, 6, "", PLACE.sockaddr)])
    assert Resolver(30).resolve("shop.test", 80, 20.0) == [PLACE]


def test_a_name_that_hangs_holds_up_no_other(gate, monkeypatch):
    monkeypatch.setattr(dns, "getaddrinfo", lambda host, *args: gate.wait() if host.startswith("slow") else [
        (PLACE.family, socket.SOCK_STREAM, 6, "", PLACE.sockaddr)])
    resolver = Resolver(30)
    for number in range(12):
        gate.spawn(resolver.resolve, f"slow{number}.test", 80, 20.0)
    gevent.idle()
    assert resolver.resolve("shop.test", 80, 20.0) == [PLACE]


def test_who_waits_for_a_disk_waits_until_its_deadline(gate, files):
    fill(gate, "disk")
    with pytest.raises(DeadlineExceeded):
        get(files, 0.02)
    gate.lock.release()
    assert get(files).status == 200


def test_who_has_no_time_left_does_not_begin(files):
    with pytest.raises(DeadlineExceeded):
        get(files, 0.0)


def test_what_is_opened_for_nobody_is_closed(gate, files, monkeypatch, tmp_path):
    made = []
    place = tmp_path / "opened for nobody"
    place.write_bytes(b"x")

    def opened(*args) -> int:
        gate.wait()
        made.append(os.open(place, os.O_RDONLY))
        return made[-1]

    monkeypatch.setattr(assets, "open_inside", opened)
    gevent.spawn(lambda: pytest.raises(DeadlineExceeded, get, files, 0.02)).get(timeout=20)      # its thread waits at the gate
    gate.lock.release()
    disk_threads.pool().join()
    assert made                                          # the file, and those beside it that may be compressed
    until(lambda: not is_open(str(place)), "the thread's greenlet has had its turn")


def is_open(path: str) -> bool:
    """Has this process a descriptor of the file? Their numbers are used again."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:                                  # that of the listing itself
            pass
    return path in found


def test_a_hash_is_taken_by_one_for_all_who_wait(files, monkeypatch):
    counted, go, real = [], Event(), assets.run_in_thread

    def slow(function, *args, **kwargs):
        if getattr(function, "__name__", "") == "hash":
            counted.append(function)
            go.wait(20)
        return real(function, *args, **kwargs)

    monkeypatch.setattr(assets, "run_in_thread", slow)
    waiting = [gevent.spawn(get, files) for _ in range(20)]
    until(lambda: counted)
    waiting[0].kill()                                    # who came first takes nothing from the others
    late = gevent.spawn(lambda: pytest.raises(DeadlineExceeded, get, files, 0.02))
    late.get(timeout=20)
    go.set()
    gevent.joinall(waiting, timeout=20)
    assert [one.value.status for one in waiting[1:]] == [200] * 19
    assert len(counted) == 1 and not files._hash_jobs


@pytest.mark.parametrize("code, error", [
    *((code, OutOfFiles) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
    *((code, NoRoute) for code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)),
    *((code, OSError) for code in (errno.EIO, errno.ESTALE)),
])
@pytest.mark.parametrize("where", ["open", "hash"])
def test_what_cannot_be_opened_is_missing_only_when_it_is(files, monkeypatch, code, error, where):
    def fail(*args) -> None:
        raise OSError(code, os.strerror(code))

    if where == "open":
        monkeypatch.setattr(assets, "open_inside", fail)
    else:
        monkeypatch.setattr(File, "hash", fail)
        error = OSError if error is NoRoute else error   # it is there
    with pytest.raises(error) as caught:
        get(files)
    assert caught.type is not OutOfFiles or caught.value.status == 503


def test_no_descriptor_left_is_503(files):
    get(files)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd"))) + 1
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        with pytest.raises(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OutOfFiles):
            get(files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
    assert get(files).status == 200


@pytest.mark.parametrize("run", [run_in_thread, SerialThread().run])
def test_what_is_raised_in_a_thread_is_raised_where_it_is_waited_for_and_nowhere_else(run, capfd):
    def fail(value):
        raise LookupError(value)

    with pytest.raises(LookupError, match="7"):
        run(fail, 7)
    assert run(abs, -7) == 7
    assert capfd.readouterr().err == ""
