"""Clients that go away: who is told, when, and who is not."""

from __future__ import annotations

import gc
import socket

import gevent
import pytest
from gevent.event import Event

from gateway.errors import ClientDisconnected
from gateway.loop.disconnect import SWEEPER, Sweeper, unwatch, watch
from tests.waiting import until


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def tcp(serve):
    """A connection over TCP: (the server's end, the client's)."""
    accepted, done = [], Event()

    def handle(sock, address):
        accepted.append(sock)
        done.wait()

    client = socket.create_connection(("127.0.0.1", serve(handle)))
    until(lambda: accepted)
    yield accepted[0], client
    client.close()
    done.set()


def stopped(sweeper: Sweeper) -> None:
    """Until the timer has seen that nothing is watched any more."""
    until(lambda: sweeper._timer is None)


def test_a_client_that_closes(tcp):
    ours, theirs = tcp
    sweeper = Sweeper(0.002)
    token = sweeper.watch(ours)
    theirs.close()
    with pytest.raises(ClientDisconnected), gevent.Timeout(60):
        Event().wait()
    sweeper.unwatch(token)
    stopped(sweeper)


def test_a_client_that_closes_its_sending_side(tcp):
    ours, theirs = tcp
    sweeper = Sweeper(0.002)
    sweeper.watch(ours)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientDisconnected), gevent.Timeout(60):
        Event().wait()
    stopped(sweeper)


def test_a_client_that_sends_more_is_there(pair):
    ours, theirs = pair
    sweeper = Sweeper(0.002)
    token = sweeper.watch(ours)
    theirs.sendall(b"the next request")
    until(lambda: sweeper._round >= 5)
    sweeper.unwatch(token)
    stopped(sweeper)


def test_only_those_watched_longer_than_an_interval_are_looked_at(pair):
    ours, theirs = pair
    theirs.close()
    sweeper = Sweeper(1000)                                  # its timer does not fire: the rounds are made here
    token = sweeper.watch(ours)
    sweeper._sweep()                                         # the round it came in
    gevent.idle()
    assert repr(sweeper) == "Sweeper(1 watched, every 1000 s)"
    with pytest.raises(ClientDisconnected):
        sweeper._sweep()
        Event().wait()
    assert repr(sweeper).startswith("Sweeper(0")
    sweeper.unwatch(token)
    sweeper._sweep()
    assert sweeper._timer is None


def test_nobody_is_told_after_unwatch(pair):
    ours, theirs = pair
    theirs.close()
    sweeper = Sweeper(1000)
    token = sweeper.watch(ours)
    sweeper._sweep()
    sweeper._sweep()                                         # the throw is due in the hub, not done
    sweeper.unwatch(token)
    for _ in range(3):
        gevent.idle()
    sweeper._sweep()
    assert sweeper._timer is None


def test_nobody_is_told_twice(pair):
    ours, theirs = pair
    theirs.close()
    sweeper, go_on, caught = Sweeper(1000), Event(), []

    def work():
        sweeper.watch(ours)
        for _ in range(2):
            try:
                go_on.wait(20)
            except ClientDisconnected:
                caught.append(1)

    worker = gevent.spawn(work)
    gevent.idle()
    for _ in range(4):
        sweeper._sweep()
    for _ in range(3):
        gevent.idle()
    go_on.set()
    worker.join()
    assert caught == [1]
    if sweeper._timer is not None:
        sweeper._sweep()


def test_everybody_who_works_for_the_client_is_told_and_nobody_else(pair):
    ours, theirs = pair
    others, alive = socket.socketpair()
    sweeper, go_on = Sweeper(0.002), Event()

    def work(sock):
        token = sweeper.watch(sock)
        try:
            go_on.wait(20)
            return "finished"
        except ClientDisconnected as error:
            return error.flag
        finally:
            sweeper.unwatch(token)

    workers = [gevent.spawn(work, sock) for sock in (ours, ours, others)]
    gevent.idle()
    theirs.close()
    gevent.joinall(workers[:2])
    go_on.set()
    gevent.joinall(workers)
    assert [worker.value for worker in workers] == ["DC", "DC", "finished"]
    stopped(sweeper)
    others.close()
    alive.close()


def test_a_greenlet_that_ended_watching_is_left_alone(pair):
    ours, theirs = pair
    theirs.close()
    sweeper = Sweeper(1000)
    gevent.spawn(sweeper.watch, ours).join()
    for _ in range(2):
        sweeper._sweep()
    gevent.idle()
    sweeper._sweep()
    assert sweeper._timer is None


@pytest.mark.parametrize("close_first", [True, False])
def test_a_closed_socket_is_no_client(pair, close_first):
    ours, _ = pair
    sweeper = Sweeper(1000)
    token = sweeper.watch(ours)
    if close_first:
        ours.close()
    for _ in range(3):
        sweeper._sweep()
    gevent.idle()
    sweeper.unwatch(token)
    sweeper._sweep()


def test_one_for_the_process(pair):
    ours, _ = pair
    first, second = watch(ours), watch(ours)
    assert first != second and SWEEPER._timer is not None
    for token in (first, second, second):
        unwatch(token)
    assert not SWEEPER._watches
    gc.collect()
