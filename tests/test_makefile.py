"""The Makefile: what is copied for the tests of the compiled build, and when something is compiled again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from gateway.build import GROUP, RECORD

ROOT = Path(__file__).parent.parent
EXTENSION = EXTENSION_SUFFIXES[0]
PYTHON = f"""#!/bin/sh
case "$1" in
    -c) printf 'true\\n%s\\npython3\\n' "$0";;
    -P) exec {sys.executable} "$@";;
    setup.py)
        echo compiling
        touch gateway/message{EXTENSION} {GROUP}{EXTENSION}
        sha256sum --binary gateway/message.py > gateway/{RECORD};;
    *) exit 9;;
esac
"""     # as the Makefile calls it: what the compiler is, what build.py says, and compiling, which takes no time here


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the Makefile and little else, whose Python compiles nothing."""
    for name in [name for name in os.environ if name.startswith(("MAKE", "MFLAGS", "GATEWAY_"))]:
        monkeypatch.delenv(name)
    for name in ("Makefile", "setup.py", "setup.cfg", "pyproject.toml", "gateway/build.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "gateway" / "message.py").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(PYTHON)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / ".venv" / "stamps").mkdir()
    for name in ("venv", "run", "lint", "test"):
        (tmp_path / ".venv" / "stamps" / name).touch()
    return tmp_path


def make(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiles(checkout: Path) -> bool:
    return "compiling" in make(checkout, "compiled")


def test_what_is_compiled_and_complete_is_not_compiled_again(checkout):
    assert [compiles(checkout) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("lost", [f"gateway/message{EXTENSION}", f"gateway/{RECORD}", GROUP + EXTENSION])
def test_what_was_deleted_by_hand_is_compiled_again(checkout, lost):
    assert compiles(checkout)
    (checkout / lost).unlink()
    assert [compiles(checkout), compiles(checkout)] == [True, False]


def test_an_edited_source_is_compiled_again_though_its_time_is_an_old_one(checkout):
    assert compiles(checkout)
    (checkout / "gateway" / "message.py").write_text("# another one\n")
    os.utime(checkout / "gateway" / "message.py", (0, 0))
    assert [compiles(checkout), compiles(checkout)] == [True, False]


def test_pure_removes_what_was_compiled(checkout):
    before = {path for path in checkout.rglob("*") if path.is_file()}
    assert compiles(checkout)
    make(checkout, "pure")
    assert {path for path in checkout.rglob("*") if path.is_file() and "__pycache__" not in path.parts} == before
    assert compiles(checkout)


COPIED = ["tests/test_build.py", "tests/e2e/test_builds.py", "gateway/build.py", "deploy/dist/a.txt", "scripts/build-wheels"]
KEPT = [".venv/bin/python", ".venv/stamps/compiled", "build/temp/a.o", f"gateway/a/message{EXTENSION}", f"gateway/{RECORD}",
        GROUP + EXTENSION, "wicketgate.egg-info/PKG-INFO"]


def test_the_copy_has_the_files_of_the_checkout_and_no_others(checkout):
    """What was compiled in it, and its environment, stay; what the checkout has of these does not come."""
    for name in (*COPIED, *KEPT):
        for folder, text in ((checkout, "new"), (checkout / "build" / "compiled", "old")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    copy = checkout / "build" / "compiled"
    for name in COPIED:
        (copy / f"{name}-former").write_text("a file that the checkout has no more")
    make(checkout, "copy", "BUILD=compiled")
    files = {str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*") if path.is_file()}
    assert [name for name in COPIED if files.pop(name, None) != "new"] == []
    assert [name for name in KEPT if files.pop(name, None) != "old"] == []
    assert files.keys() == {"Makefile", "setup.py", "setup.cfg", "pyproject.toml", "gateway/message.py"}
