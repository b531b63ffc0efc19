"""The fixture that fails a test which leaves something behind: does it?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAD = "import gevent, socket, pytest\nkept = []\n"


@pytest.mark.parametrize("body, outcome", [
    ("def test_it():\n    kept.append(gevent.spawn(gevent.sleep, 60))\n", "leaked greenlets {<Greenlet"),
    ("def test_it():\n    kept.append(socket.socket())\n", "socket:["),
    ("@pytest.mark.leaks_allowed\ndef test_it():\n    kept.append(socket.socket())\n", ""),
    ("def test_it():\n    gevent.spawn(gevent.sleep, 0).join()\n    socket.socket().close()\n", "")])
def test_what_is_left_behind_fails(tmp_path, body, outcome):
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\nmarkers = leaks_allowed: for this test\n")
    (tmp_path / "test_it.py").write_text(HEAD + body)
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)], cwd=tmp_path,
                         capture_output=True, text=True, timeout=60)
    assert run.returncode == (1 if outcome else 0), run.stdout
    assert outcome in run.stdout
