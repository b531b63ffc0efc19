"""Which Python `make` takes, of several: scripts/choose-python with pretended ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "choose-python"
NEW, OLD, SLOW, BARE, FAST = "3.12.1 1 1", None, "3.11.7 0 1", "3.11.2 1 0", "3.11.2 1 1"


@pytest.fixture
def choose(tmp_path):
    """``choose({"python3": FAST}, "python3")``: the process, with these programs in PATH: version, optimized?, complete?"""
    def run(programs: dict[str, str | None], *candidates: str) -> subprocess.CompletedProcess[str]:
        for name, answer in programs.items():
            (tmp_path / name).write_text("#!/bin/sh\nexit 1\n" if answer is None else f"#!/bin/sh\necho {answer}\n")
            (tmp_path / name).chmod(0o755)
        (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")         # apt is not ours to ask
        (tmp_path / "id").chmod(0o755)
        return subprocess.run([SCRIPT, *candidates], env={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=60,
                              capture_output=True, text=True)

    return run


@pytest.mark.parametrize("programs, chosen", [
    ({"a": SLOW, "b": FAST}, "b"), ({"a": FAST, "b": SLOW}, "a"), ({"a": FAST, "b": NEW}, "a"), ({"a": SLOW, "b": SLOW}, "a"),
    ({"a": OLD, "b": SLOW}, "b"), ({"a": OLD, "b": FAST}, "b"), ({"b": SLOW}, "b"),
    ({"a": SLOW, "b": BARE}, "a"), ({"a": BARE, "b": SLOW}, "b"), ({"a": BARE, "b": OLD}, "a"), ({"a": BARE, "b": FAST}, "b"),
])
def test_the_best_build_wins_and_of_equals_the_first(choose, programs, chosen):
    found = choose(programs, "a", "b")
    assert (found.returncode, found.stdout) == (0, f"{chosen}\n")
    version, optimized, _ = programs[chosen].split()
    assert len(found.stderr.splitlines()) == 1
    assert f"Using {chosen} ({version}, built with{'' if optimized == '1' else 'out'} profile-guided" in found.stderr


@pytest.mark.parametrize("programs", [{}, {"a": OLD}, {"a": OLD, "b": OLD}])
def test_none_is_said_in_one_line(choose, programs):
    found = choose(programs, "a", "b")
    assert (found.returncode, found.stdout) == (1, "") and found.stderr.startswith("Python 3.11 or newer is needed")
    assert len(found.stderr.splitlines()) == 1


def test_without_names_it_looks_at_the_usual_ones(choose):
    assert choose({"python3": NEW}).stdout == "python3\n"
    assert choose({"python3": OLD, "python3.14": NEW}).stdout in ("python3.14\n", "/usr/bin/python3\n")


def test_this_python_is_understood(choose):
    found = choose({}, sys.executable)
    assert found.stdout == f"{sys.executable}\n" and f"({'.'.join(map(str, sys.version_info[:3]))}, built with" in found.stderr
