"""asyncio's loops become those of the hub when asyncio is imported, and not before; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = "from gevent import monkey; monkey.patch_all()\nimport sys\n"
LOADED = "assert 'asyncio' not in sys.modules, 'loaded too early'\n"
CHECK = """
import asyncio
from importlib.machinery import SourceFileLoader
loop = asyncio.new_event_loop()
assert type(loop).__name__ == "HubLoop", loop
loop.close()
assert type(asyncio.__spec__.loader) is type(asyncio.__loader__) is SourceFileLoader
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("gateway")]
"""


@pytest.mark.parametrize("source", [
    "import gateway; gateway.enable_asyncio()\n" + LOADED,
    "import gateway; gateway.enable_asyncio(); gateway.enable_asyncio()\n" + LOADED,
    "import asyncio, gateway; gateway.enable_asyncio()\n",
    "import gateway; gateway.enable_asyncio()\nimport asyncio.subprocess\n",
    "from gateway import create_app; from gateway.config import Config; create_app(Config())\n" + LOADED,
    "import gateway.app, gateway.server.worker, gateway.gunicorn_conf\n" + LOADED + "import gateway; gateway.enable_asyncio()\n"])
def test_asyncio_makes_loops_on_the_hub(source):
    run = subprocess.run([sys.executable, "-W", "error", "-c", HEAD + source + CHECK], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_without_it_asyncio_is_as_it_was():
    run = subprocess.run([sys.executable, "-c", HEAD + "import gateway.app" + CHECK], capture_output=True, text=True)
    assert "AssertionError: <_UnixSelectorEventLoop" in run.stderr
