"""The tests' own runner: processes that share the files, one verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PASSES = "def test_{name}():\n    pass\n"
FAILS = "def test_{name}():\n    assert False\n"
ONCE = """
from pathlib import Path

def test_{name}():
    seen = Path('seen').exists()
    Path('seen').touch()
    assert seen
"""
IN_SETUP = "import pytest\n\n@pytest.fixture\ndef it():\n    raise OSError\n\ndef test_{name}(it):\n    pass\n"
ENDS = "import os\n\ndef test_{name}():\n    os._exit(3)\n"
HANGS = "import time\n\ndef test_{name}():\n    time.sleep(600)\n"
NOTE = "\ndef test_note_{name}():\n    open('notes', 'a').write('{name}\\n')\n"


@pytest.fixture
def run(tmp_path):
    """``run(jobs, text, ...)`` runs files of these texts: (status, lines printed, the files that have run)."""

    def start(jobs: int, *texts: str, limit: int = 60) -> tuple[int, list[str], list[str]]:
        (tmp_path / "tests").mkdir()
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\ntestpaths = tests\n")
        for number, text in enumerate(texts):
            (tmp_path / f"tests/test_{number}.py").write_text(text.format(name=number) + NOTE.format(name=number))
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "LIMIT": str(limit)}
        done = subprocess.run([sys.executable, str(ROOT / "scripts/run-tests"), str(jobs)], cwd=tmp_path, env=environ, text=True,
                              capture_output=True)
        assert not done.stderr, done.stderr
        notes = tmp_path / "notes"
        return done.returncode, done.stdout.splitlines(), sorted(notes.read_text().split() if notes.exists() else [])

    return start


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_each_file_runs_once(run, jobs):
    status, lines, ran = run(jobs, PASSES, PASSES, PASSES)
    assert status == 0 and ran == ["0", "1", "2"]
    assert " 6 passed in " in lines[-1] and lines[-1].startswith("==")
    files = sorted(line.split()[0] for line in lines if line.startswith("tests/"))
    assert files == ["tests/test_0.py", "tests/test_1.py", "tests/test_2.py"]


@pytest.mark.parametrize("text, words", [(FAILS, " 1 failed, 3 passed in "), (IN_SETUP, " 3 passed, 1 error in ")])
def test_a_failure_is_told_and_tried_again(run, text, words):
    status, lines, _ = run(2, PASSES, text)
    assert status == 1 and words in lines[-1]
    assert "tests/test_1.py::test_1: fails by itself" in lines
    assert sum(line.startswith("E  ") for line in lines) >= 2, "the report of each"


def test_what_passes_the_second_time_is_named(run):
    status, lines, _ = run(2, ONCE, PASSES)
    assert status == 0 and " 4 passed in " in lines[-1] and "tests/test_0.py::test_0: passes by itself" in lines


@pytest.mark.parametrize("text, words, limit", [(ENDS, "has ended with status 3", 60), (HANGS, "has not ended within 4 s", 4)])
def test_a_process_that_does_not_come_to_its_end_is_a_failure(run, text, words, limit):
    status, lines, _ = run(2, text, PASSES, limit=limit)
    assert status == 1 and any(words in line for line in lines)


def test_no_tests_are_a_failure(run):
    status, lines, _ = run(2)
    assert status == 1 and " no tests ran in " in lines[-1]
