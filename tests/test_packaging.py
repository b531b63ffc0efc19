"""What is installed: the metadata, the libraries it asks for, and the files in the wheel."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from importlib.metadata import distribution as installed
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gateway
from gateway.config import Config
from gateway.configfile.load import load
from gateway.nginx.configuration import render

ROOT = Path(__file__).parent.parent
NOT_IMPORTED = {"packaging"}                # gunicorn's gevent worker imports it without asking for it
USED_EXTRAS = ("redis", "memcached")        # imported only where the configuration asks for them
PARTS = {"pydantic-core": "pydantic"}       # comes with exactly one version of the other
SHIPPED = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "gateway.toml", *(ROOT / "examples").glob("*.toml")])
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def listed(value: str) -> list[str]:
    return [line for line in value.strip().splitlines() if line and not line.startswith("#")]


def distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[ <>=;\[]", requirement, maxsplit=1)[0]).lower()


def imported(folder: str) -> set[str]:
    """The distributions that the code in a folder imports, the standard library and the project itself left out."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    owners = packages_distributions()
    own = {path.stem for path in (ROOT / folder).rglob("*.py")} | {folder, "gateway", "bench"}
    found = {distribution(owners.get(name, [name])[0]) for name in names - sys.stdlib_module_names - own}
    return {PARTS.get(name, name) for name in found}


def test_pyproject_is_the_build_system_and_nothing_else():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert len(lines) == 3 and lines[0] == "[build-system]"


def test_what_the_package_imports_is_what_it_asks_for(setup):
    wanted = {distribution(each) for each in listed(setup["options"]["install_requires"])}
    wanted |= {distribution(each) for extra in USED_EXTRAS for each in listed(setup["options.extras_require"][extra])}
    assert imported("gateway") | NOT_IMPORTED == wanted


def test_what_the_tests_import_is_in_their_extra(setup):
    installed = {distribution(each) for each in listed(setup["options"]["install_requires"])}
    wanted = {distribution(each) for each in listed(setup["options.extras_require"]["test"])}
    assert imported("tests") - installed - {"odd-service"} <= wanted
    unused = wanted - imported("tests") - imported("gateway")          # what the package can use, tests may have it use
    assert unused == {"django", "setuptools"}     # an application of tests/e2e/test_legacy.py; pip builds the wheel with the other


def test_nothing_was_compiled_here():
    """A bare Debian has no compiler, so everything that runs or tests this comes as a wheel that was built for all (PEP 600)."""
    wanted, seen, compiled = [("wicketgate", {"redis", "memcached", "test", "lint"})], set(), []
    while wanted:
        name, extras = wanted.pop()
        try:
            found = installed(name)
        except PackageNotFoundError:                                   # of another extra, or another system
            continue
        compiled += [f"{name}: {tag}" for tag in re.findall(r"^Tag: (.*-linux_\w+)$", found.read_text("WHEEL") or "", re.MULTILINE)]
        for requirement in map(Requirement, found.requires or ()):
            marker = requirement.marker
            key = canonicalize_name(requirement.name), *sorted(requirement.extras)
            if key not in seen and (marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})):
                seen.add(key)
                wanted.append((requirement.name, requirement.extras))
    assert {"gevent", "pytest"} <= {name for name, *_ in seen} and compiled == []


def test_every_requirement_has_a_lower_bound(setup):
    extras = [each for extra in setup["options.extras_require"].values() for each in listed(extra)]
    assert [each for each in [*listed(setup["options"]["install_requires"]), *extras] if ">=" not in each] == []


def test_the_version_is_one(setup):
    assert setup["metadata"]["version"] == gateway.__version__
    assert f"## {gateway.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_has_all_that_runs(tmp_path):
    """Built from a copy, so that nothing is left behind here."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__"))
    result = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
                             "--wheel-dir", tmp_path, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [wheel] = tmp_path.glob("wicketgate-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        [entry_points] = [name for name in files if name.endswith("entry_points.txt")]
        assert "gateway = gateway.cli:main" in archive.read(entry_points).decode()
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "gateway").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".sha256")}
    assert package <= files and not [name for name in files if name.endswith((".so", ".sha256"))]
    data = {name.partition(".data/data/")[2] for name in files if ".data/data/" in name}
    assert data == {"share/wicketgate/gateway.toml"}
    assert not [name for name in files if name.startswith(("tests/", "bench/", "docs/"))]


@pytest.mark.parametrize("path", SHIPPED)
def test_every_configuration_that_is_shipped_is_valid(path):
    assert isinstance(load(ROOT / path, {}), Config)


def test_the_checked_in_nginx_configuration_is_that_of_the_demo():
    assert (ROOT / "nginx" / "wicketgate.conf").read_text() == render(load(ROOT / "gateway.toml", {})), \
        "render it again: gateway nginx > nginx/wicketgate.conf"


def test_the_readme_shows_the_example_as_it_is():
    example = (ROOT / "examples" / "legacy_front.toml").read_text()
    assert f"```toml\n{example}```\n" in (ROOT / "README.md").read_text()
    assert len(example.splitlines()) == 20


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Relative links, in the documents for people."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not ((ROOT / page).parent / link).exists()] == []


def test_the_environment_is_described_once_and_completely():
    tables = {page: set(re.findall(r"^\| `(GATEWAY_\w+)`", (ROOT / page).read_text(), re.MULTILINE)) for page in PAGES}
    own = {"GATEWAY_ADMIN_FD", "GATEWAY_INSTANCE_DIR"}                 # what a master hands on to its successor and its workers
    read = {name for path in (ROOT / "gateway").rglob("*.py") for name in re.findall(r'"(GATEWAY_[A-Z_]+)"', path.read_text())}
    assert {page: found for page, found in tables.items() if found} == {"docs/operating.md": read - own}


def test_every_page_of_the_documentation_is_in_its_index():
    index = (ROOT / "docs" / "README.md").read_text()
    assert [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md" and f"({path.name})" not in index] == []
