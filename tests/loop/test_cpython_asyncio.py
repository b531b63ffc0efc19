"""CPython's own tests of asyncio, those of the Python that runs these tests, on the loop of the hub (cpython_asyncio.py).

They are patched with gevent, and run in a process of their own. Left out:

- base_events, selector_events, proactor_events, sslproto, buffered_proto, protocols, transports, windows: they test asyncio's own
  code with mocks, some with a selector that never waits, and no loop;
- ssl, sendfile, subprocess but for its first class, the events of selectors but for epoll, and the same tasks and futures once
  more, written in Python: they pass, and take long;
- in unix_events, the mocked signal handlers: those of this loop are made otherwise (asyncio_loop.py); and processes that
  multiprocessing forks, which gevent's patches do not suit;
- in events, the running loop written in Python: it is kept for each greenlet there, and asyncio uses the one in C.

Where a turn is 0, tests count on one poll of the selector for each round of callbacks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.compiled import COMPILED

RUNNER = Path(__file__).with_name("cpython_asyncio.py")
ROOT = RUNNER.parents[2]
LIMIT = 300                                              # seconds: a net under tests that hang, on a busy machine too
HAS_TESTS = "import sys, test.test_asyncio; print(sys.version_info[:2])"
PARTS = {
    "locks and the like": ("0.001", "test_locks.", "test_queues.", "test_timeouts.", "test_taskgroups.", "test_runners.",
                           "test_threads.", "test_waitfor.", "test_pep492.", "test_context.", "test_server."),
    "tasks": ("0.001", "test_tasks.CTask_CFuture_Tests", "test_tasks.RunCoroutineThreadsafeTests", "test_futures.CFuture"),
    "sockets": ("0.001", "test_sock_lowlevel.", "-test_sock_client_racing", "-test_huge_content"),
    "subprocesses": ("0.001", "test_subprocess.SubprocessThreadedWatcherTests", "test_subprocess.SubprocessTransportTests",
                     "test_subprocess.SubprocessPidfdWatcherTests"),
    "streams": ("0", "test_streams."),
    "events": ("0", "test_events.EPollEventLoopTests", "test_events.HandleTests", "test_events.TimerTests",
               "test_events.AbstractEventLoopTests", "test_unix_events.", "-SelectorEventLoopSignalTests",
               "-TestFork", "-SSL", "-ssl"),
}


@pytest.fixture(scope="module")
def python() -> tuple[str, dict[str, str]]:
    """A Python of this version that has CPython's tests (Debian packages them by themselves), and its environment."""
    version = sys.version_info[:2]
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environ = {**os.environ, "PYTHONPATH": path}
    for candidate in (sys.executable, shutil.which("python%d.%d" % version), shutil.which("python3")):
        if candidate is not None:
            found = subprocess.run([candidate, "-c", HAS_TESTS], capture_output=True, text=True)
            if found.stdout.strip() == str(version):
                return candidate, environ
    pytest.skip("no Python %d.%d here has its own test_asyncio; on Debian: libpython%d.%d-testsuite has it" % (*version, *version))


@pytest.mark.skipif(COMPILED, reason="the loop is of the same source there: no module of it is compiled")
@pytest.mark.parametrize("part", PARTS)
def test_cpythons_own_tests_pass(python, part):
    executable, environ = python
    run = subprocess.run([executable, str(RUNNER), *PARTS[part]], env=environ, cwd=ROOT, capture_output=True, text=True,
                         errors="replace", timeout=LIMIT)
    assert run.returncode == 0, run.stdout[-10000:] + run.stderr[-5000:]
    for line in ("Task was destroyed", "Exception ignored"):
        assert line not in run.stderr
