"""Runs CPython's own tests of asyncio on the loop of the hub: ``python cpython_asyncio.py TURN PATTERN... [-PATTERN...]``.

TURN is that of HubLoop. A pattern is a part of a test's id (``test_locks.``, ``test_events.EPollEventLoopTests``); a test runs that
has one of them, and none of those behind ``-``.
"""

from gevent import monkey

monkey.patch_all()

import asyncio  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import unittest  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

from gateway.loop.asyncio_loop import HubLoop, get_policy  # noqa: E402

PACKAGE = "test.test_asyncio."


class JudgedLoop(HubLoop):
    """Tests make loops with a selector of their choice, which this one has no use for."""

    turn = 0.0

    def __init__(self, selector: Any = None) -> None:
        if selector is not None:
            selector.close()
        super().__init__(self.turn)


def tests_of(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from tests_of(each)
        else:
            yield each


def main(turn: str, *patterns: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)     # ignored where a shell runs this in the background
    JudgedLoop.turn = float(turn)
    for name in ("SelectorEventLoop", "EventLoop"):          # the second from 3.13 on
        setattr(asyncio, name, JudgedLoop)
    default = next(each for each in type(get_policy()).__mro__ if "_loop_factory" in vars(each))
    default._loop_factory = JudgedLoop                       # tests set the default policy again
    wanted = [pattern for pattern in patterns if not pattern.startswith("-")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("-")]
    modules = {pattern.partition(".")[0] for pattern in wanted}
    found = unittest.defaultTestLoader.loadTestsFromNames([PACKAGE + module for module in sorted(modules)])
    suite = unittest.TestSuite(
        test for test in tests_of(found)
        if any(pattern in test.id() for pattern in wanted) and not any(pattern in test.id() for pattern in unwanted))
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
