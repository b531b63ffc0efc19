"""setup.py: what it asks for and refuses. That it compiles, ``make wheel`` and ``make test BUILD=compiled`` show."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.build import LINE, OLDEST

ROOT = Path(__file__).parent.parent
ASK = "from setuptools import build_meta; print(build_meta.get_requires_for_build_wheel())"


@pytest.fixture
def setup(monkeypatch):
    """setup.py as a module, which sets nothing up."""
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("setup_of_wicketgate", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def python(tmp_path):
    """``python(arguments, **environ)`` runs in a copy of what setup.py reads."""
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "__init__.py").touch()

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env={**os.environ, **environ}, text=True,
                              capture_output=True)

    return run


def test_the_list_of_modules_is_in_order_and_each_is_there(setup):
    names = setup.COMPILED.split()
    assert [name for name in names if not (ROOT / f"gateway/{name}.py").is_file()] == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize("value, compiles", [("", False), ("0", False), ("1", True)])
def test_only_a_compiled_build_asks_for_a_compiler_of_python(python, setup, value, compiles):
    """Asked as pip does it: through the build backend, in an environment that has none of it."""
    done = python("-c", ASK, WICKETGATE_COMPILED=value)
    assert done.returncode == 0, done.stderr
    asked = eval(done.stdout.splitlines()[-1])
    assert asked == (setup.requirements() if compiles else [])
    assert {"mypy", "gevent", "types-requests"} <= {re.split("[ <>=]", each)[0] for each in setup.requirements()}
    assert not [each for each in setup.requirements() if each.startswith(("flake8", "coverage", "isort"))]


@pytest.mark.parametrize("value", ["yes", "true", "2", " 1", "pure"])
def test_an_unknown_value_is_refused(python, value):
    done = python("setup.py", "--version", WICKETGATE_COMPILED=value)
    assert done.returncode == 1
    assert done.stderr == f"WICKETGATE_COMPILED: {value!r} is neither 1 (compile) nor 0 (do not)\n"


def test_asking_for_metadata_compiles_and_installs_nothing(python, tmp_path):
    done = python("-W", "error", "setup.py", "--quiet", "egg_info", WICKETGATE_COMPILED="1", CC="/nowhere/cc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "build").exists() and not (tmp_path / ".eggs").exists()


@pytest.mark.parametrize("command", [("build_ext", "--inplace"), ("bdist_wheel",)])
def test_no_compiler_is_said_in_a_sentence_with_the_remedy(python, command):
    done = python("setup.py", *command, WICKETGATE_COMPILED="1", CC="/nowhere/cc -O2")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 3
    assert "copying" not in done.stdout
    assert done.stderr.startswith("wicketgate cannot be compiled: no C compiler (/nowhere/cc: No such file or directory).\n")
    assert "apt-get install gcc libc6-dev python3." in done.stderr and "Without WICKETGATE_COMPILED" in done.stderr


def test_no_headers_are_said_in_a_sentence_with_the_remedy(setup, monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho '<stdin>:1:10: fatal error: Python.h: No such file or directory' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(SystemExit, match="cannot use the headers of .*: <stdin>:1:10: fatal error: Python.h: No such file or"
                                         " directory\nOn Debian or Ubuntu: apt-get install "):
        setup.need_compiler()


def test_a_compiler_that_works_is_not_talked_about(setup, monkeypatch):
    monkeypatch.setenv("CC", "true")
    setup.need_compiler()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 11, 1), (3, 11, 2), (3, 14, 0)])
def test_a_python_that_crashes_in_compiled_modules_compiles_none(setup, version):
    if version >= OLDEST:
        return setup.need_python(version)
    with pytest.raises(SystemExit) as refusal:
        setup.need_python(version)
    first, second = str(refusal.value).splitlines()
    assert first.startswith("wicketgate cannot be compiled: Python 3.11.") and "3.11.2 or newer" in first
    assert second.startswith("Without WICKETGATE_COMPILED")


@pytest.mark.parametrize("command", ["CheckFirst", "Compile"])
def test_each_command_looks_at_the_version_of_python_first(setup, monkeypatch, command):
    def refuse() -> None:
        raise SystemExit("too old")
    monkeypatch.setattr(setup, "need_python", refuse)
    with pytest.raises(SystemExit, match="too old"):
        getattr(setup, command).run(None)


@pytest.mark.parametrize("inplace", [0, 1])
def test_what_was_compiled_before_goes(setup, monkeypatch, tmp_path, inplace):
    monkeypatch.chdir(tmp_path)
    names = [f"{folder}gateway/{name}" for folder in ("", "lib/") for name in (
        f"a/former{EXTENSION_SUFFIXES[0]}", Path(setup.RECORD).name, "a/former.cpython-27-other.so", "a/former.py")]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    setup.Compile.remove_former(SimpleNamespace(build_lib="lib", inplace=inplace))
    gone = [name for name in names if not Path(name).exists()]
    assert gone == [name for name in names if not name.endswith(("-other.so", ".py")) and (inplace or name.startswith("lib/"))]


@pytest.mark.parametrize("inplace", [0, 1])
def test_the_record_has_every_source_and_marks_what_was_compiled(setup, monkeypatch, tmp_path, inplace):
    monkeypatch.chdir(tmp_path)
    for name in ("gateway/a/b.py", "gateway/c.py", "lib/gateway/c.py", "tests/d.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    setup.Compile.record(SimpleNamespace(build_lib="lib", inplace=inplace), {"gateway/c.py"})
    record = Path(setup.RECORD if inplace else f"lib/{setup.RECORD}").read_text()
    assert [line[64:] for line in record.splitlines()] == ["  gateway/a/b.py", " *gateway/c.py"]
    assert record[:64] == hashlib.sha256(b"gateway/a/b.py").hexdigest()
    assert all(LINE.fullmatch(line) for line in record.splitlines(keepends=True))


def test_missing_libraries_are_named_with_the_command_that_brings_them(setup, monkeypatch):
    monkeypatch.setattr(setup, "requirements", lambda: ["packaging >= 1", "no-such-thing >= 2.4", "nor-this"])
    with pytest.raises(SystemExit, match="missing no-such-thing>=2.4, nor-this.\n.* -m pip install"
                                         " 'no-such-thing>=2.4' nor-this\n"):
        setup.need_requirements()
