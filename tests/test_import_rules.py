"""Who may import what: read from the source, so that imports inside functions count too.

A *unit* is a file at the top of the package, a family of them, or a room (folder). A unit imports what is on a lower level, and
itself. Features (level 2, whatever the table does not name) know nothing of each other: the pipeline joins them. Level 1 is what
several features share; its files may use each other. Imports for type checkers alone do not count. Third parties have doors: the
files through which they come in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"

FEATURE = 2
LEVELS = {
    "errors": 0,
    "board": 1, "chunked": 1, "conditions": 1, "config": 1, "crew": 1, "deadline": 1, "disconnect": 1, "fields": 1, "message": 1,
    "notation": 1, "outbox": 1, "pattern": 1, "prepared": 1, "problem": 1, "ranges": 1, "readable": 1, "rundir": 1, "spelling": 1,
    "tasks": 1, "template": 1, "values": 1,
    "pipeline": 3,
    "admin": 4, "app": 4, "master": 4, "worker": 4,
    "__init__": 5, "gunicorn_conf": 5, "probe": 5, "demo": 6, "cli": 7,
}

FAMILIES = {                                        # one feature, several files
    "admin_cache": "admin", "configcheck": "configfile", "mistakes": "configfile", "partcheck": "configfile",
    "handover": "nginx", "partanswer": "aggregate", "segmenttree": "routing",
    "clients": "worker", "connections": "worker", "fastlane": "worker", "reader": "worker", "writer": "worker",
}

DOORS = {
    "flask": {"app", "admin", "admin_cache", "cache/store"},
    "werkzeug": {"app", "admin", "admin_cache", "views"},
    "flask_caching": {"cache/store"},
    "redis": {"cache/redis_pool", "cache/redis_tier"},
    "pymemcache": {"cache/memcached_tier"},
    "requests": {"upstream/requests_adapter", "upstream/requests_hooks", "upstream/requests_redirects",
                 "upstream/requests_shortcuts"},
    "urllib3": {"upstream/requests_adapter", "upstream/requests_call", "upstream/requests_hooks", "upstream/requests_response"},
    "gevent": {"crew", "tasks", "websocket", "disconnect", "outbox", "readable", "upstream/alarm", "upstream/connecting",
               "upstream/dns", "upstream/pool",
               "upstream/sending", "upstream/transport", "telemetry/log", "admin", "worker", "clients", "connections",
               "gunicorn_conf"},
    "gunicorn": {"worker", "clients", "connections", "fastlane", "probe", "reader", "writer", "gunicorn_conf", "master"},
    "pydantic": {"config", "configfile", "mistakes", "values"},
    "jinja2": {"nginx"},
    "click": {"cli"},
    "rich": {"cli"},
}
IN_FUNCTIONS_ONLY = {("flask", "tasks")}            # used where it is loaded anyway, and never loaded by it at start
APPLICATIONS = {"demo/services", "demo/views"}      # code of users, as an example: it imports what users import

WAITING = {"asyncio", "concurrent", "gevent", "http", "multiprocessing", "queue", "random", "requests", "select", "selectors",
           "socket", "ssl", "subprocess", "threading", "time", "urllib3"}
PURE = ("cache/asked", "cache/conditional", "cache/directives", "cache/entry", "cache/explain", "cache/fields", "cache/flags",
        "cache/invalidate", "cache/key", "cache/report", "cache/rules", "cache/tee", "conditions", "config", "errors", "headers",
        "message", "notation", "pattern", "rewrite", "routing", "segmenttree", "spelling", "template",
        "upstream/backoff", "upstream/balancer", "upstream/framing", "upstream/head", "upstream/retry", "values")


class Import(NamedTuple):
    """``file`` is like ``upstream/pool``, ``name`` like ``gateway.errors`` or ``flask``; ``lazy`` is inside a function."""

    file: str
    line: int
    name: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.file}.py:{self.line} imports {self.name}"


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, absolute, down to the module where that can be told."""
    package = ["gateway", *file.split("/")][:-1]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) + 1 - node.level] if node.level else [])
            module = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names if module == "gateway" or node.module is None else [None]:
                yield Import(file, node.lineno, f"{module}.{alias.name}" if alias else module, lazy)
        for child in children:
            yield from visit(child, lazy)

    return visit(ast.parse(source), False)


def unit_of(name: str) -> str:
    """The unit of ``gateway.upstream.pool`` is ``upstream``; what the package itself offers is in ``__init__``."""
    parts = name.split(".")
    unit = parts[1] if len(parts) > 1 else "__init__"
    return FAMILIES.get(unit, unit) if (PACKAGE / f"{unit}.py").exists() or (PACKAGE / unit).is_dir() else "__init__"


def level_of(unit: str) -> int:
    return LEVELS.get(unit, FEATURE)


def too_high(found: Import) -> bool:
    """Does it import what is not below it? A room may import itself, and level 1 its like."""
    if found.name.split(".")[0] != "gateway":
        return False
    here, there = unit_of("gateway." + found.file.replace("/", ".")), unit_of(found.name)
    return here != there and level_of(there) >= level_of(here) and not level_of(there) == level_of(here) == 1


def past_the_door(found: Import) -> bool:
    library = found.name.split(".")[0]
    if library not in DOORS or found.file in APPLICATIONS or found.file in DOORS[library]:
        return False
    return not (found.lazy and (library, found.file) in IN_FUNCTIONS_ONLY)


FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = [found for file, source in FILES.items() for found in imports_of(source, file)]


def test_every_import_goes_down():
    assert "\n".join(map(str, filter(too_high, IMPORTS))) == ""


def test_third_parties_come_in_through_their_doors():
    assert "\n".join(map(str, filter(past_the_door, IMPORTS))) == ""


@pytest.mark.parametrize("file", PURE)
def test_pure_files_import_nothing_that_waits(file):
    assert [str(found) for found in IMPORTS if found.file == file and found.name.split(".")[0] in WAITING] == []


def test_nothing_imports_in_a_circle():
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.name.startswith("gateway.") and not found.lazy:
            graph.setdefault(found.file, set()).add(target_file(found.name))
    for file, others in graph.items():
        others.discard(file)
    tuple(TopologicalSorter(graph).static_order())                      # raises CycleError


def target_file(name: str) -> str:
    """The file of ``gateway.upstream.pool``: ``upstream/pool``; of a name in a package, the package's ``__init__``."""
    path = "/".join(name.split(".")[1:])
    return path if path in FILES else f"{path}/__init__" if f"{path}/__init__" in FILES else path.rpartition("/")[0] or "__init__"


def test_the_tables_name_files_that_exist():
    units = {file.split("/")[0] for file in FILES}
    assert sorted((set(LEVELS) | set(FAMILIES)) - units) == []
    used = {(found.name.split(".")[0], found.file) for found in IMPORTS}
    assert sorted({(library, file) for library, files in DOORS.items() for file in files} - used) == []
    assert sorted((set(PURE) | APPLICATIONS) - set(FILES)) == []


@pytest.mark.parametrize("file, source, forbidden", [
    ("forward", "from .errors import GatewayError\nfrom .message import Request", []),
    ("forward", "from .aggregate import Aggregate", ["gateway.aggregate"]),
    ("forward", "from . import aggregate, errors", ["gateway.aggregate"]),
    ("forward", "import gateway.pipeline", ["gateway.pipeline"]),
    ("forward", "def f():\n    from gateway import pipeline", ["gateway.pipeline"]),
    ("forward", "from gateway import gather", ["gateway.gather"]),
    ("forward", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .pipeline import Pipeline", []),
    ("upstream/pool", "from .limit import Limit\nfrom ..errors import GatewayError", []),
    ("upstream/pool", "from ..telemetry.log import RequestLog", ["gateway.telemetry.log"]),
    ("upstream/pool", "from .. import forward", ["gateway.forward"]),
    ("config", "from .values import Size", []),
    ("config", "from .nginx import render", ["gateway.nginx"]),
    ("errors", "from .message import Request", ["gateway.message"]),
    ("pipeline", "from .forward import Forward\nfrom .app import create_app", ["gateway.app"]),
    ("demo/start", "from ..pipeline import Pipeline\nfrom .services import seed", []),
])
def test_the_rule_of_levels(file, source, forbidden):
    assert [found.name for found in imports_of(source, file) if too_high(found)] == forbidden


@pytest.mark.parametrize("file, source, forbidden", [
    ("forward", "import gevent", ["gevent"]),
    ("forward", "from gevent.event import Event", ["gevent.event"]),
    ("tasks", "import gevent", []),
    ("tasks", "import flask", ["flask"]),
    ("tasks", "def f():\n    import flask", []),
    ("telemetry/metrics", "def f():\n    import flask", ["flask"]),
    ("upstream/requests_adapter", "import requests", []),
    ("demo/views", "import requests", []),
    ("forward", "import json", []),
])
def test_the_rule_of_doors(file, source, forbidden):
    assert [found.name for found in imports_of(source, file) if past_the_door(found)] == forbidden
