"""Fixtures for tests with real server processes."""

from __future__ import annotations

import os
import shutil

import gevent
import pytest

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")         # where Debian keeps servers, and a user's PATH may not look
LONGEST = 120                                            # seconds of a test: a net under those that would hang, not a verdict


@pytest.fixture(autouse=True)
def bounded():
    """End a test that hangs, so that the others have their turn."""
    with gevent.Timeout(LONGEST, AssertionError(f"the test did not end within {LONGEST} s")):
        yield


@pytest.fixture
def require():
    """``require("nginx")`` is the path of a server's program. Without it, or the ``file`` it needs beside it, the test is skipped;
    with ``CI=true`` it fails."""

    def path_of(program: str, package: str = "", file: str = "/") -> str:
        found = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))
        if found is None or not os.path.exists(file):
            reason = f"{program} is not installed; on Debian: apt-get install {package or program}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return found

    return path_of
