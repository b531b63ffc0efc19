"""Work that is not needed any more ends at its next wait, and what has ended already is left alone."""

from __future__ import annotations

import gevent
from gevent.event import Event

from gateway.loop.interruption import Interruptible


def test_interruptible_work_ends_quietly_at_its_next_wait():
    here, ended, reached = Interruptible(), [], []

    def work():
        with here:
            try:
                Event().wait(60)
            finally:
                ended.append(True)
        reached.append(True)

    running = gevent.spawn(work)
    gevent.idle()
    here.interrupt()
    running.get(timeout=30)
    assert ended and reached


def test_what_has_left_the_block_is_not_interrupted():
    here = Interruptible()
    with here:
        here.interrupt()                                 # comes too late: the block has ended when it is looked at
    gevent.idle()
    here.interrupt()
    gevent.idle()
