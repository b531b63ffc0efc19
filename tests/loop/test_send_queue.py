"""What is posted leaves in order, soon, and before whatever comes after it on the same connection."""

from __future__ import annotations

import gevent
from gevent.threadpool import ThreadPool

from gateway.loop.send_queue import MOST, SendQueue, send_queue


class Sent(list[bytes]):
    """Takes what is delivered."""

    def __call__(self, data: bytes) -> None:
        self.append(data)


def test_what_is_posted_in_one_turn_leaves_at_its_end():
    sent, box = Sent(), SendQueue(gevent.get_hub().loop)
    for number in range(3):
        box.post(sent, b"%d" % number)
    assert not sent
    gevent.sleep(0)
    assert sent == [b"0", b"1", b"2"]
    box.post(sent, b"3")
    gevent.sleep(0)
    assert sent[3:] == [b"3"]


def test_many_do_not_wait_for_the_end():
    sent, box = Sent(), SendQueue(gevent.get_hub().loop)
    for number in range(MOST + 1):
        box.post(sent, b"%d" % number)
    assert len(sent) == MOST
    gevent.sleep(0)
    assert sent == [b"%d" % number for number in range(MOST + 1)]


def test_flush_is_now_and_what_is_posted_meanwhile_is_not_lost():
    box, sent = SendQueue(gevent.get_hub().loop), Sent()

    def answering(data: bytes) -> None:
        sent.append(data)
        box.post(sent, b"answer to " + data)

    box.post(answering, b"x")
    box.flush()
    assert sent == [b"x"]
    gevent.sleep(0)
    assert sent == [b"x", b"answer to x"]


def test_each_thread_has_its_own():
    pool = ThreadPool(1)
    try:
        assert send_queue() is send_queue() is not pool.apply(send_queue)
    finally:
        pool.kill()
