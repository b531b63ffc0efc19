"""Who may import what: read from the source, so that imports inside functions and for type checkers count too.

A *unit* is a file at the top of the package, a family of them, or a room (folder). A unit imports what is on a lower level, and
itself. Features (level 2, whatever the table does not name) know nothing of each other: the pipeline joins them. Level 1 is what
several features share; its files may use each other. Third parties have doors: the files through which they come in; a library
without a door comes in nowhere. A file whose docstring says "Pure." waits for nothing and asks no clock, nor does anything that it
imports. An import by a name that is computed counts as an import of anything, and only the files that load code of users may do it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"

FEATURE = 2
LEVELS = {
    "errors": 0,
    "backoff": 1, "board": 1, "breaker": 1, "bus": 1, "config": 1, "deadline": 1, "http": 1, "loop": 1, "message": 1,
    "move_aside": 1, "remote": 1, "request_copies": 1, "routing": 1, "run_directory": 1, "shared_memory": 1, "tasks": 1,
    "template": 1, "values": 1, "wsgi": 1,
    "pipeline": 3,
    "admin": 4, "app": 4, "server": 4,
    "__init__": 5, "gunicorn_conf": 5, "demo": 6, "cli": 7,
}
FAMILIES = {"view_cache": "cache"}               # one feature, several files
# Inside a room: a folder or file, and what of its own room it may not know.
INSIDE = {
    "cache/storage": {"cache/step", "cache/fetch", "cache/origin", "cache/admission", "cache/coalesce"},
    "upstream/client": {"upstream/requests/adapter"},
}

DOORS = {
    "flask": {"app", "admin/listener", "admin/cache_page", "view_cache"},
    "werkzeug": {"app", "admin/listener", "admin/cache_page", "views"},
    "flask_caching": {"view_cache"},
    "redis": {"remote/redis_client", "remote/redis_pool"},
    "pymemcache": {"cache/storage/memcached_tier"},
    "requests": {"upstream/requests/adapter", "upstream/requests/hooks", "upstream/requests/redirects",
                 "upstream/requests/shortcuts"},
    "urllib3": {"upstream/requests/adapter", "upstream/requests/call", "upstream/requests/hooks",
                "upstream/requests/named_host", "upstream/requests/response"},
    "certifi": {"upstream/requests/destinations"},
    "greenlet": {"loop/greenlet_pool"},
    "gevent": {"loop/alarm", "loop/disconnect", "loop/greenlet_pool", "loop/interruption", "loop/monotonic_clock",
               "loop/native_threads", "loop/readiness", "loop/send_queue", "loop/time_limit", "tasks", "upstream/connecting",
               "upstream/dns", "upstream/pool", "upstream/sending", "upstream/transport", "telemetry/log", "websocket",
               "admin/listener", "server/worker", "server/client_socket", "server/connection", "server/keepalive",
               "server/request_handler", "gunicorn_conf"},
    "gunicorn": {"server/worker", "server/client_socket", "server/connection", "server/fastlane", "server/reader", "server/writer",
                 "server/master", "server/request_handler", "cli/example_request", "gunicorn_conf"},
    "orjson": {"aggregate/part", "aggregate/part_answer", "aggregate/target", "cache/storage/codec", "configfile/checks",
               "configfile/part_checks", "http/problem", "respond", "telemetry/log", "telemetry/slot_memory"},
    "prometheus_client": {"telemetry/exposition"},
    "pydantic": {"config", "configfile/load", "configfile/mistakes", "values"},
    "jinja2": {"nginx/configuration"},
    "click": {"cli/admin_client", "cli/commands", "cli/explain"},
    "rich": {"cli/terminal"},
}
IN_FUNCTIONS_ONLY = {("flask", "tasks")}            # used where it is loaded anyway, and never loaded by it at start
APPLICATIONS = {"demo/services", "demo/shop"}       # code of users, as an example: it imports what users import
LOADERS = {"__init__", "app", "extension"}                                   # import modules of users by their name
ANY = "any module at all"

WAITING = {"asyncio", "concurrent", "gevent", "http", "multiprocessing", "queue", "random", "requests", "select", "selectors",
           "socket", "ssl", "subprocess", "threading", "time", "urllib3"}
CLOCKS = {"deadline"}                               # asks the clock, for whoever holds one; pure files pass it on


class Import(NamedTuple):
    """``file`` is like ``upstream/pool``, ``name`` like ``gateway.errors`` or ``flask``; ``lazy`` is inside a function, ``typing``
    for type checkers alone."""

    file: str
    line: int
    name: str
    lazy: bool = False
    typing: bool = False

    def __str__(self) -> str:
        return f"{self.file}.py:{self.line} imports {self.name}"


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, absolute, down to the module where that can be told."""
    package = ["gateway", *file.split("/")][:-1]

    def visit(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, lazy, typing)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) + 1 - node.level] if node.level else [])
            module = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names if module.split(".")[0] == "gateway" else [None]:
                yield Import(file, node.lineno, f"{module}.{alias.name}" if alias else module, lazy, typing)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            literal = isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith(".")
            yield Import(file, node.lineno, first.value if literal else ANY, lazy, typing)    # type: ignore[union-attr]
        body = getattr(node, "body", ()) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else ()
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy, typing or child in body)

    return visit(ast.parse(source), False, False)


def called(node: ast.Call) -> str:
    """The last name of what is called: ``import_module`` of ``importlib.import_module(...)``."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def file_of(name: str) -> str:
    """The file of ``gateway.upstream.pool.Pool``: ``upstream/pool``; of a name in a package, the package's ``__init__``."""
    path = "/".join(name.split(".")[1:])
    while path:
        for candidate in (path, f"{path}/__init__"):
            if candidate in FILES:
                return candidate
        path = path.rpartition("/")[0]
    return "__init__"


def unit_of(file: str) -> str:
    """The unit of ``upstream/pool`` is ``upstream``."""
    unit = file.split("/")[0]
    return FAMILIES.get(unit, unit)


def level_of(unit: str) -> int:
    return LEVELS.get(unit, FEATURE)


def is_ours(found: Import) -> bool:
    return found.name.split(".")[0] == "gateway"


def too_high(found: Import) -> bool:
    """Does it import what is not below it? A room may import itself, and level 1 its like."""
    if not is_ours(found) or found.typing:
        return False
    here, there = unit_of(found.file), unit_of(file_of(found.name))
    return here != there and level_of(there) >= level_of(here) and not level_of(there) == level_of(here) == 1


def against_the_room(found: Import) -> bool:
    """Does a part of a room import what INSIDE keeps from it?"""
    if not is_ours(found):
        return False
    target = file_of(found.name)
    return any((found.file == part or found.file.startswith(f"{part}/")) and target in kept for part, kept in INSIDE.items())


def past_the_door(found: Import) -> bool:
    library = found.name.split(".")[0]
    if found.name == ANY:
        return found.file not in LOADERS
    if library == "gateway" or library in sys.stdlib_module_names or found.file in APPLICATIONS:
        return False
    if found.file in DOORS.get(library, ()):
        return False
    return not (found.lazy and (library, found.file) in IN_FUNCTIONS_ONLY)


def is_pure(source: str) -> bool:
    """Does the docstring of a file say so?"""
    return re.search(r"\bPure[.,:]", ast.get_docstring(ast.parse(source)) or "") is not None


def impurities(file: str, imports: Iterable[Import]) -> list[str]:
    """What waits, among all that a file imports, and what that imports, with the way to it."""
    found: list[str] = []
    edges: dict[str, list[Import]] = {}
    for each in imports:
        if not each.typing:
            edges.setdefault(each.file, []).append(each)
    ways = {file: file}
    queue = [file]
    for here in queue:
        for each in edges.get(here, ()):
            if is_ours(each):
                there = file_of(each.name)
                if there not in ways and there not in CLOCKS:
                    ways[there] = f"{ways[here]} > {there}"
                    queue.append(there)
            elif each.name == ANY or each.name.split(".")[0] in WAITING:
                found.append(f"{ways[here]} > {each.name}")
    return found


def circle(imports: Iterable[Import]) -> list[str]:
    """Files that import each other in a circle, also when only for type checkers."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        if is_ours(found) and not found.lazy and file_of(found.name) != found.file:
            graph.setdefault(found.file, set()).add(file_of(found.name))
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


IMPORTS = [found for file, source in FILES.items() for found in imports_of(source, file)]
PURE = [file for file, source in FILES.items() if is_pure(source)]


def test_every_import_goes_down():
    assert "\n".join(map(str, filter(too_high, IMPORTS))) == ""


def test_the_parts_of_a_room_keep_their_direction():
    assert "\n".join(map(str, filter(against_the_room, IMPORTS))) == ""


def test_third_parties_come_in_through_their_doors():
    assert "\n".join(map(str, filter(past_the_door, IMPORTS))) == ""


@pytest.mark.parametrize("file", PURE)
def test_pure_files_lead_to_nothing_that_waits(file):
    assert impurities(file, IMPORTS) == []


def test_nothing_imports_in_a_circle():
    assert circle(IMPORTS) == []


def test_the_tables_name_files_that_exist():
    units = {file.split("/")[0] for file in FILES}
    assert sorted((set(LEVELS) | set(FAMILIES)) - units) == []
    used = {(found.name.split(".")[0], found.file) for found in IMPORTS}
    assert sorted({(library, file) for library, files in DOORS.items() for file in files} - used) == []
    assert sorted((APPLICATIONS | LOADERS | CLOCKS) - set(FILES)) == []
    kept = {file for files in INSIDE.values() for file in files}
    assert sorted(kept - set(FILES)) == []


def test_contributing_says_the_same():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    for numbers, names in re.findall(r"^\| ([0-9, ]+) \| (.+?) \|", text, re.MULTILINE):
        levels = {int(number) for number in numbers.split(",")}
        expected = {unit for unit, level in LEVELS.items() if level in levels and unit != "__init__"}
        assert levels == {FEATURE} or set(re.findall(r"`(\w+)`", names)) == expected
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"`(\w+)/`", text.partition("called a *room*")[2].partition("The head of")[0])) >= rooms


@pytest.mark.parametrize("file, source, forbidden", [
    ("forward", "from .errors import GatewayError\nfrom .message import Request", []),
    ("forward", "from .aggregate import Aggregate", ["gateway.aggregate.Aggregate"]),
    ("forward", "from . import aggregate, errors", ["gateway.aggregate"]),
    ("forward", "import gateway.pipeline", ["gateway.pipeline"]),
    ("forward", "def f():\n    from gateway import pipeline", ["gateway.pipeline"]),
    ("forward", "from gateway import gather", ["gateway.gather"]),
    ("forward", "from importlib import import_module\nimport_module('gateway.pipeline')", ["gateway.pipeline"]),
    ("forward", "import importlib\ndef f():\n    importlib.import_module('gateway.cli')", ["gateway.cli"]),
    ("forward", "__import__('gateway.aggregate')", ["gateway.aggregate"]),
    ("forward", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .pipeline import Pipeline", []),
    ("upstream/pool", "from .limit import Limit\nfrom ..errors import GatewayError", []),
    ("upstream/pool", "from ..telemetry.log import RequestLog", ["gateway.telemetry.log.RequestLog"]),
    ("upstream/pool", "from .. import forward", ["gateway.forward"]),
    ("config", "from .values import Size", []),
    ("bus/bus", "from ..cache.storage.marks import Marks", ["gateway.cache.storage.marks.Marks"]),
    ("bus/redis_stream", "from ..remote.redis_client import RedisClient", []),
    ("config", "from .nginx.configuration import render", ["gateway.nginx.configuration.render"]),
    ("errors", "from .message import Request", ["gateway.message.Request"]),
    ("pipeline", "from .forward import Forward\nfrom .app import create_app", ["gateway.app.create_app"]),
    ("demo/start", "from ..pipeline import Pipeline\nfrom .services import seed", []),
])
def test_a_planted_import_that_goes_up_is_caught(file, source, forbidden):
    assert [found.name for found in imports_of(source, file) if too_high(found)] == forbidden


@pytest.mark.parametrize("file, source, caught", [
    ("cache/storage/memory", "from ..entry import Entry", False),
    ("cache/storage/memory", "from ..step import CacheStep", True),
    ("cache/storage/memory", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..fetch import Fetch", True),
    ("cache/step", "from .storage.store import HttpStore", False),
])
def test_a_planted_import_against_the_direction_of_a_room_is_caught(file, source, caught):
    assert any(map(against_the_room, imports_of(source, file))) is caught


@pytest.mark.parametrize("file, source, forbidden", [
    ("forward", "import gevent", ["gevent"]),
    ("forward", "from gevent.event import Event", ["gevent.event"]),
    ("forward", "import six", ["six"]),
    ("forward", "def f():\n    from numpy import array", ["numpy"]),
    ("forward", "import importlib\nimportlib.import_module('flask')", ["flask"]),
    ("forward", "from importlib import import_module\ndef f(name):\n    import_module(name)", [ANY]),
    ("app", "from importlib import import_module\ndef f(name):\n    import_module(name)", []),
    ("tasks", "import gevent", []),
    ("tasks", "import flask", ["flask"]),
    ("tasks", "def f():\n    import flask", []),
    ("telemetry/metrics", "def f():\n    import flask", ["flask"]),
    ("upstream/requests/adapter", "import requests", []),
    ("demo/shop", "import requests", []),
    ("forward", "import json", []),
])
def test_a_planted_import_past_the_door_is_caught(file, source, forbidden):
    assert [found.name for found in imports_of(source, file) if past_the_door(found)] == forbidden


@pytest.mark.parametrize("planted, way", [
    ({"rewrite": "import re"}, []),
    ({"rewrite": "import time"}, ["rewrite > time"]),
    ({"rewrite": "def f():\n    from time import sleep"}, ["rewrite > time"]),
    ({"rewrite": "from .values import quoted", "values": "import socket"}, ["rewrite > values > socket"]),
    ({"rewrite": "from . import values", "values": "from .config import Route", "config": "import gevent"},
     ["rewrite > values > config > gevent"]),
    ({"rewrite": "from .deadline import Deadline", "deadline": "import time"}, []),
    ({"rewrite": "import importlib\nimportlib.import_module('random')"}, ["rewrite > random"]),
    ({"rewrite": "from importlib import import_module\nimport_module(name)"}, [f"rewrite > {ANY}"]),
])
def test_a_planted_wait_is_caught_however_far_away(planted, way):
    assert impurities("rewrite", [found for file, source in planted.items() for found in imports_of(source, file)]) == way


@pytest.mark.parametrize("text, pure", [
    ('"""Which route answers. Pure."""', True),
    ('"""Which route answers. Pure: it decides, others act."""', True),
    ('"""Which route answers."""\n# Pure.', False),
    ('"""Purely by accident."""', False),
])
def test_a_file_is_pure_when_its_docstring_says_so(text, pure):
    assert is_pure(text) is pure


@pytest.mark.parametrize("planted, found", [
    ({"forward": "from .headers import edit_of", "headers": "from .message import Request"}, False),
    ({"forward": "from .headers import edit_of", "headers": "from .forward import Forward"}, True),
    ({"forward": "from .headers import edit_of",
      "headers": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .forward import Forward"}, True),
    ({"forward": "from .headers import edit_of", "headers": "def f():\n    from .forward import Forward"}, False),
])
def test_a_planted_circle_is_caught(planted, found):
    assert bool(circle([each for file, source in planted.items() for each in imports_of(source, file)])) is found
