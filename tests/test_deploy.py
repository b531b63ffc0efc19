"""deploy/: what its files name exists, and is what the rest of the project says."""

from __future__ import annotations

import configparser
import email
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
COMPILERS = ("gcc", "libc6-dev", "python3-dev")


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage: (``RUN``, what it runs)."""
    found: list[list[tuple[str, str]]] = []
    for line in CONTAINERFILE.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append((word, rest))
    return found


def given(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_a_wheel_is_built_for_each_python_that_is_supported(setup):
    settings = tomllib.loads((ROOT / "deploy" / "cibuildwheel.toml").read_text())["tool"]["cibuildwheel"]
    versions = re.findall(r":: (3)\.(\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    assert settings["build"] == [f"cp{major}{minor}-manylinux_*" for major, minor in versions]
    assert settings["environment"] == {"WICKETGATE_COMPILED": "1"}
    program, script, build = settings["test-command"].split()
    assert (program, build) == ("python", "compiled") and (ROOT / script.removeprefix("{project}/")).is_file()


def test_the_first_stage_gets_what_an_installation_reads(stages, setup):
    copied = [path for rest in given(stages[0], "COPY") for path in rest.split()[:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "gateway", setup["metadata"]["license_files"],
              setup["metadata"]["long_description"].removeprefix("file: "),
              *setup["options.data_files"]["share/wicketgate"].split()}
    assert needed <= set(copied)


def copy_instructions(stage: list[tuple[str, str]], folder: Path) -> None:
    """Do in ``folder`` what COPY does before the package is installed: files into a folder, a folder as another one."""
    order = [number for number, (_, rest) in enumerate(stage) if "pip install" in rest]
    for rest in given(stage[:order[0]], "COPY"):
        *sources, target = rest.split()
        assert target.endswith("/") or len(sources) == 1
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, folder / target)


def test_what_the_first_stage_copies_makes_the_whole_wheel(stages, tmp_path):
    """Built uncompiled, which takes less time: the same files go into it."""
    source = tmp_path / "source"
    source.mkdir()
    copy_instructions(stages[0], source)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
                           "--wheel-dir", tmp_path, source], env={**os.environ, "WICKETGATE_COMPILED": "0"}, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("wicketgate-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [path] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(path))
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "gateway").rglob("*.py")} <= names
    assert [name for name in names if name.endswith(".data/data/share/wicketgate/gateway.toml")]
    assert [name for name in names if name.endswith("/LICENSE")]
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    [install] = [rest for rest in given(stages[0], "RUN") if "pip install" in rest]
    extras = re.search(r"'\.\[(.*)\]'", install)[1].split(",")
    assert set(extras) <= set(metadata.get_all("Provides-Extra"))


def test_the_first_stage_compiles_and_tries_it(stages, setup):
    install, trial = given(stages[0], "RUN")[1:]
    assert "WICKETGATE_COMPILED=1 " in install
    extras = re.search(r"'\.\[(.*)\]'", install)[1].split(",")
    assert set(extras) <= set(setup["options.extras_require"]) - {"test", "lint"}
    assert trial.split()[1:] == ["scripts/smoke-test", "compiled"] and (ROOT / trial.split()[1]).is_file()
    assert set(COMPILERS) <= set(given(stages[0], "RUN")[0].split())


def test_the_second_stage_has_no_compiler_no_source_and_no_root(stages):
    first, second = stages
    assert given(first, "FROM")[0].split()[0] == given(second, "FROM")[0], "the same Python"
    packages = given(second, "RUN")[0].split("&&")[1].split()
    assert not set(COMPILERS) & set(packages) and "python3" in packages
    assert given(second, "COPY") == ["--from=build /opt/wicketgate /opt/wicketgate"]
    [user] = given(second, "USER")
    assert user == given(second, "RUN")[1].split()[-1] != "root"
    order = [name for name, _ in second]
    assert order.index("USER") < order.index("CMD") and "RUN" not in order[order.index("USER"):]


def test_the_image_runs_the_command_of_the_documentation(stages):
    [command], [environment] = given(stages[1], "CMD"), given(stages[1], "ENV")
    page = (ROOT / "docs" / "operating.md").read_text()
    assert shlex.join(json.loads(command)).replace("'", "") in page.replace("'", "")
    names = {pair.partition("=")[0] for pair in environment.split()} - {"PATH"}
    assert names and [name for name in names if f"| `{name}` |" not in page] == []
    assert "GATEWAY_BUILD=compiled" in environment.split()


def test_the_commands_in_their_heads_are_in_the_documentation_too():
    page = (ROOT / "docs" / "compiled.md").read_text()
    for name in ("Containerfile", "cibuildwheel.toml"):
        text = (ROOT / "deploy" / name).read_text()
        commands = re.findall(r"^#   (\S.*)$", text, re.MULTILINE)
        assert commands and [command for command in commands if command not in page] == []
