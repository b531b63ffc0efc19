"""Which build runs: by GATEWAY_BUILD, and by whether what was compiled is what the sources say."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.reloader import Reloader

import gateway
from gateway import gunicorn_conf
from gateway.build import RECORD, RUNNING, Build, Impossible, decide, edited_files, outdated

ROOT = Path(__file__).parent.parent
EXTENSION = "message" + EXTENSION_SUFFIXES[0]
GROUP = "../wicketgate__mypyc" + EXTENSION_SUFFIXES[0]
ALL = (RECORD, EXTENSION, GROUP, "http/" + EXTENSION)
COMPILED = re.search(r'COMPILED = """(.*?)"""', (ROOT / "setup.py").read_text(), re.DOTALL)[1].split()
WHICH = "import sys, gateway.build; print(gateway.build.RUNNING.name); import gateway.message; print(gateway.message.__file__)"


@pytest.fixture
def package(tmp_path):
    """``package(*names)``: the folder of a package with two compiled sources and another one, which has lost these files."""

    def make(*lost: str) -> Path:
        folder = tmp_path / "gateway"
        (folder / "http").mkdir(parents=True)
        for name in ("__init__.py", "build.py"):
            shutil.copy(ROOT / "gateway" / name, folder)
        lines = []
        for name, mark in {"message.py": "*", "http/message.py": "*", "wsgi.py": " "}.items():
            (folder / name).write_text(f"# {name}\n")
            lines.append(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()} {mark}gateway/{name}\n")
        (folder / RECORD).write_text("".join(lines))
        for name in (EXTENSION, "http/" + EXTENSION, GROUP):
            (folder / name).write_text("no machine code")
        for name in lost:
            (folder / name).unlink()
        return folder

    return make


def python(folder: Path, build: str, code: str = WHICH) -> subprocess.CompletedProcess:
    environ = {**os.environ, "GATEWAY_BUILD": build, "PYTHONPATH": str(folder.parent)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder.parent, env=environ, capture_output=True, text=True)


@pytest.mark.parametrize("wanted, lost, build", [
    ("", (), "compiled"), ("compiled", (), "compiled"), ("pure", (), "pure"),
    ("", ALL, "pure"), ("pure", ALL, "pure"), ("pure", (RECORD,), "pure")])
def test_what_is_compiled_runs_unless_pure_is_wanted(package, wanted, lost, build):
    assert decide(wanted, str(package(*lost))) == Build(build)


@pytest.mark.parametrize("names, words", [
    (["message.py"], "gateway/message.py changed since"),
    (["message.py", "wsgi.py"], "gateway/message.py, gateway/wsgi.py changed since")])
def test_a_source_that_has_changed_runs_itself_and_says_so(package, names, words):
    folder = package()
    for name in names:
        (folder / name).write_text("# changed\n")
    build = decide("", str(folder))
    assert build.name == "pure" and build.notice.startswith(words) and "make compiled" in build.notice
    assert decide("pure", str(folder)) == Build("pure"), "who wants it need not be told why"


def refused(folder: Path) -> str:
    """Why the sources of the package run, as GATEWAY_BUILD unset says and GATEWAY_BUILD=compiled too."""
    build, done = decide("", str(folder)), python(folder, "compiled")
    assert (build.name, done.returncode, done.stdout) == ("pure", 2, "")
    problem = build.notice.removesuffix(": the sources run")
    assert done.stderr == f"gateway: GATEWAY_BUILD: {problem}\n"
    assert python(folder, "").stdout.splitlines() == ["pure", str(folder / "message.py")] or not (folder / "message.py").exists()
    return problem


@pytest.mark.parametrize("lost, words", [
    (["wsgi.py"], "gateway/wsgi.py changed"), (["http/message.py"], "gateway/http/message.py changed"),
    ([RECORD], f"not complete: {RECORD}: No such file"), ([RECORD, EXTENSION], f"not complete: {RECORD}: No such file"),
    ([EXTENSION], f"not complete: see gateway/{EXTENSION};"), ([GROUP], "not complete: see wicketgate__mypyc."),
    (["http/" + EXTENSION], f"not complete: see gateway/http/{EXTENSION};"),
    ([EXTENSION, "http/" + EXTENSION, GROUP],
     f"not complete: see gateway/http/{EXTENSION}, gateway/{EXTENSION}, wicketgate__mypyc.")])
def test_what_is_not_complete_does_not_run(package, lost, words):
    assert words in refused(package(*lost))


def test_an_extension_module_of_another_build_does_not_run(package):
    folder = package()
    (folder / ("wsgi" + EXTENSION_SUFFIXES[0])).touch()
    assert f"not complete: see gateway/wsgi{EXTENSION_SUFFIXES[0]};" in refused(folder)


@pytest.mark.parametrize("text", [
    "", "\n", "what is this?", "a b c d\n", "0 *gateway/message.py\n", "\udcff", "{all}\n", "{all}{first}", "{pure}", "{old}"])
def test_a_record_that_is_none_is_said(package, text):
    folder = package()
    lines = (folder / RECORD).read_text().splitlines(keepends=True)
    text = text.format(all="".join(lines), first=lines[0][:-1], pure=lines[-1], old="".join(lines).replace(" *", "  "))
    (folder / RECORD).write_bytes(text.encode(errors="surrogateescape"))
    assert refused(folder).startswith(f"the compiled modules are not complete: {RECORD} is not one of this version; ")


def test_many_changes_are_counted(package):
    folder = package()
    with (folder / RECORD).open("a") as record:
        record.writelines(f"{number:064}  gateway/{number}.py\n" for number in range(5))
    assert outdated(str(folder)).startswith("gateway/0.py, gateway/1.py, gateway/2.py and 2 more changed")


@pytest.mark.parametrize("wanted, lost, words", [
    ("compiled", ALL, "was not compiled for Python"), ("compiled", (RECORD,), "not complete"),
    ("compiled", ("message.py",), "gateway/message.py changed"), ("Pure", (), "'Pure' is neither"), ("1", (), "'1' is neither")])
def test_what_cannot_be_is_refused(package, wanted, lost, words):
    folder = package(*lost)
    with pytest.raises(Impossible, match=words):
        decide(wanted, str(folder))
    done = python(folder, wanted)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("gateway: GATEWAY_BUILD: ") and words in done.stderr


@pytest.mark.parametrize("version, runs", [((3, 11, 0), False), ((3, 11, 1), False), ((3, 11, 2), True), ((3, 12, 0), True)])
def test_a_python_that_crashes_in_compiled_modules_runs_the_sources(package, version, runs):
    folder = str(package())
    assert decide("pure", folder, version) == Build("pure")
    if runs:
        assert decide("", folder, version) == decide("compiled", folder, version) == Build("compiled")
        return
    assert decide("", folder, version).name == "pure"
    assert decide("", folder, version).notice.startswith("Python 3.11.%d may crash in compiled modules" % version[2])
    with pytest.raises(Impossible, match="may crash in compiled modules"):
        decide("compiled", folder, version)


def test_a_python_that_would_crash_has_nothing_to_say_where_nothing_was_compiled(package):
    assert decide("", str(package(*ALL)), (3, 11, 1)) == Build("pure")


def test_pure_passes_over_what_is_compiled(package):
    folder = package()
    assert python(folder, "pure").stdout.splitlines() == ["pure", str(folder / "message.py")]
    assert "ImportError" in python(folder, "").stderr, "the file in its place is no extension module"
    (folder / "message.py").write_text("# changed\n")
    assert python(folder, "").stdout.splitlines() == ["pure", str(folder / "message.py")]


@pytest.mark.skipif(RUNNING.name != "compiled", reason="the record is that of the compiled build")
def test_the_record_has_every_source_and_marks_what_was_compiled():
    record = dict(reversed(line[65:].split("/", 1)) for line in (ROOT / "gateway" / RECORD).read_text().splitlines())
    sources = {path.relative_to(ROOT / "gateway").as_posix() for path in (ROOT / "gateway").rglob("*.py")}
    assert record.keys() == sources
    assert {name for name, mark in record.items() if mark == "*gateway"} == {f"{name}.py" for name in COMPILED}


def test_compiled_modules_find_the_code_beside_their_own_package(package, tmp_path):
    """Not that of a checkout which happens to be the current directory."""
    folder, elsewhere = package(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in (folder.parent, elsewhere):
        (place / ("wicketgate__mypyc" + EXTENSION_SUFFIXES[0])).touch()
    code = (f"import sys; sys.path.insert(1, {str(folder.parent)!r}); sys.path.insert(0, {str(elsewhere)!r})\n"
            "import gateway, importlib.util; print(importlib.util.find_spec('wicketgate__mypyc').origin)")
    assert Path(python(folder, "compiled", code).stdout.strip()).parent == folder.parent
    assert Path(python(folder, "pure", code).stdout.strip()).parent == elsewhere


def test_sources_that_come_later_are_found(package):
    code = ("import importlib, pathlib, gateway\n"
            "try:\n    import gateway.later\nexcept ModuleNotFoundError:\n    pass\n"
            "pathlib.Path(gateway.__file__).with_name('later.py').touch()\n"
            "importlib.invalidate_caches()\nimport gateway.later\nprint(gateway.later.__name__)")
    assert python(package(), "pure", code).stdout == "gateway.later\n"


@pytest.mark.parametrize("build, problem, warnings", [
    ("compiled", "gateway/x.py changed", ["gateway/x.py changed; until the instance is started again what was compiled runs"]),
    ("compiled", "", []), ("pure", "gateway/x.py changed", [])])
def test_a_worker_says_that_a_source_has_changed_since_the_start(build, problem, warnings):
    said = []
    log = SimpleNamespace(warning=lambda text, *values: said.append(text % values))
    gunicorn_conf.warn_of_changes(log, Build(build), lambda: problem)
    assert said == warnings


def test_reload_watches_the_sources_of_what_was_compiled(package):
    folder = str(package())
    assert edited_files(Build("compiled"), folder) == [f"{folder}/http/message.py", f"{folder}/message.py"]
    assert edited_files(Build("pure"), folder) == []


def test_reload_watches_the_source_of_every_module_that_is_loaded():
    """On both builds. Gunicorn itself looks at the file that was loaded."""
    watched = {os.path.realpath(path) for path in Reloader(extra_files=gunicorn_conf.reload_extra_files).get_files()}
    names = {name.replace(".", "/") for name in sys.modules if name.startswith("gateway.")}
    sources = [ROOT / f"{name}.py" if (ROOT / f"{name}.py").exists() else ROOT / name / "__init__.py" for name in names]
    assert ROOT / "gateway" / "message.py" in sources
    assert [path for path in sources if str(path.resolve()) not in watched] == []


def test_this_process_runs_what_it_says():
    """GATEWAY_BUILD=compiled runs all tests on the compiled build: then every module has to be, here and in processes."""
    modules = ["gateway." + name.replace("/", ".") for name in COMPILED]
    code = f"import importlib\nfor name in {modules}:\n    print(importlib.import_module(name).__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {path.endswith(EXTENSION_SUFFIXES[0]) for path in found} == {RUNNING.name == "compiled"}
    assert {Path(gateway.__file__).parent} == {Path(path).parents[len(Path(name).parts) - 1] for path, name in zip(found, COMPILED)}
    version = subprocess.run([Path(sys.executable).with_name("gateway"), "--version"], capture_output=True, text=True, check=True)
    assert f"({RUNNING.name} build, " in version.stdout
    assert RUNNING.name == (os.environ.get("GATEWAY_BUILD") or RUNNING.name)
