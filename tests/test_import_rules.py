"""Who may import what: read from the source (imports.py), so that imports inside functions and for type checkers count too.

A *unit* is a file at the top of the package, a family of them, or a room (folder). A unit imports what is on a lower level, and
itself. Features (level 2, whatever the table does not name) know nothing of each other: the pipeline joins them. Level 1 is what
several features share; its files may use each other. An import for type checkers alone has to go down too, up to level 3. Inside a
room that INSIDE names, a part imports parts of earlier rows. Third parties have doors: the files through which they come in; a
library without a door comes in nowhere. A file whose docstring says "Pure." waits for nothing, asks no clock and no operating
system, nor does anything that it imports. What can import by a computed name counts as an import of anything, and only LOADERS
may use it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.imports import ANY, Import, imports_anything, imports_of

PACKAGE = Path(__file__).parent.parent / "gateway"

FEATURE = 2
LEVELS = {
    "build": 0, "errors": 0,
    "backoff": 1, "breaker": 1, "bus": 1, "config": 1, "deadline": 1, "http": 1, "local": 1, "loop": 1, "message": 1, "remote": 1,
    "request_body_file": 1, "request_copies": 1, "routing": 1, "tasks": 1, "template": 1, "values": 1, "wsgi": 1,
    "pipeline": 3,
    "admin": 4, "app": 4, "server": 4,
    "__init__": 5, "gunicorn_conf": 5, "demo": 6, "cli": 7,
}
FAMILIES = {"view_cache": "cache"}               # one feature, several files
# Inside a room: rows of its parts (files and folders); a part imports from earlier rows, never from its own.
INSIDE = {
    "bus": "change_stamp clock notice < group_commit log_compaction redis_stream < bus journal",
    "cache": "entry predictor reasons syntax < response_directives < purging < storage < coalesce key < request_directives"
             " < conditional < decide < explanation fetch_context rules < cache_status < admission < origin < fetch < step",
    "cache/purging": "invalidation nginx_generation purge_index < purger",
    "cache/storage": "codec lookups memory plain_values tiers < file_tier memcached_tier redis_tier write_behind < lease < store"
                     " < construction",
    "local": "board move_aside shared_memory < run_directory",
    "server": "draining gunicorn_request master succession < reader < client_socket < keepalive writer < fastlane"
              " < request_handler < connection < worker",
    "telemetry": "slot_memory < metrics < exposition log < observe",
    "upstream": "balancer dns framing head limit rendering retry < transport < pool sending stream tls < connecting exchange"
                " < instance < client < requests",
    "upstream/requests": "call destinations exceptions hooks urllib3_connect < response < redirects shortcuts < governor < adapter",
}
ROWS = {room: [row.split() for row in rows.split("<")] for room, rows in INSIDE.items()}

DOORS = {
    "flask": {"app", "admin/listener", "admin/cache_page", "view_cache"},
    "werkzeug": {"app", "admin/listener", "admin/cache_page", "views"},
    "flask_caching": {"view_cache"},
    "redis": {"remote/redis_client", "remote/redis_pool"},
    "pymemcache": {"cache/storage/memcached_tier"},
    "requests": {"upstream/requests/adapter", "upstream/requests/exceptions", "upstream/requests/governor",
                 "upstream/requests/hooks", "upstream/requests/redirects", "upstream/requests/shortcuts"},
    "urllib3": {"upstream/requests/adapter", "upstream/requests/call", "upstream/requests/exceptions", "upstream/requests/governor",
                "upstream/requests/hooks", "upstream/requests/response", "upstream/requests/urllib3_connect"},
    "certifi": {"upstream/requests/destinations"},
    "greenlet": {"loop/greenlet_pool"},
    "gevent": {"loop/alarm", "loop/asyncio_loop", "loop/coroutines", "loop/disconnect", "loop/greenlet_pool", "loop/hub_selector",
               "loop/interruption", "loop/loop_greenlet", "loop/monotonic_clock", "loop/native_threads", "loop/readiness",
               "loop/send_queue", "loop/time_limit", "tasks", "upstream/connecting",
               "upstream/dns", "upstream/pool", "upstream/sending", "upstream/transport", "telemetry/log", "websocket",
               "admin/listener", "server/worker", "server/client_socket", "server/connection", "server/keepalive",
               "server/request_handler", "gunicorn_conf"},
    "gunicorn": {"server/worker", "server/client_socket", "server/connection", "server/fastlane", "server/gunicorn_request",
                 "server/reader", "server/writer", "server/master", "server/request_handler", "cli/example_request",
                 "gunicorn_conf"},
    "mypy_extensions": {"message"},
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
# Import by name: modules of users, what the process has loaded, or asyncio when somebody imports it.
LOADERS = {"__init__", "app", "build", "extension", "gunicorn_conf", "loop/asyncio_import"}

WAITING = {"asyncio", "concurrent", "gevent", "http", "multiprocessing", "os", "pathlib", "posix", "queue", "random", "requests",
           "sched", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading",
           "time", "urllib3"}
CLOCKS = {"deadline"}                               # asks the clock, for whoever holds one; pure files pass it on

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
    here, there = unit_of(found.file), unit_of(file_of(found.name))
    if not is_ours(found) or here == there or found.typing and level_of(here) > 3:
        return False
    return level_of(there) >= level_of(here) and not level_of(there) == level_of(here) == 1


def against_the_room(found: Import) -> bool:
    """Does a part of a room import one that does not come before it?"""
    target = file_of(found.name) if is_ours(found) else ""
    for room, rows in ROWS.items():
        if found.file.startswith(f"{room}/") and target.startswith(f"{room}/"):
            here, there = part_of(found.file, room), part_of(target, room)
            if here != there and row_of(there, rows) >= row_of(here, rows):
                return True
    return False


def part_of(file: str, room: str) -> str:
    """The part of ``upstream`` that ``upstream/requests/call`` belongs to is ``requests``."""
    return file.removeprefix(f"{room}/").split("/")[0]


def row_of(part: str, rows: list[list[str]]) -> int:
    """Which row a part stands in; ``__init__`` comes after all of them."""
    return next((number for number, row in enumerate(rows) if part in row), len(rows))


def past_the_door(found: Import) -> bool:
    library = found.name.split(".")[0]
    if imports_anything(found):
        return found.file not in LOADERS
    if library == "gateway" or library in sys.stdlib_module_names or found.file in APPLICATIONS:
        return False
    if found.file in DOORS.get(library, ()):
        return False
    return not (found.lazy and (library, found.file) in IN_FUNCTIONS_ONLY)


def is_pure(source: str) -> bool:
    """Does the docstring of a file say so?"""
    return re.search(r"\bPure[.,:;]", ast.get_docstring(ast.parse(source)) or "") is not None


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
            elif imports_anything(each) or each.name.split(".")[0] in WAITING and not re.match(r"os\.path\b", each.name):
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


@pytest.mark.parametrize("room", INSIDE)
def test_each_part_of_a_room_stands_in_one_row(room):
    parts = {part_of(file, room) for file in FILES if file.startswith(f"{room}/")} - {"__init__"}
    assert sorted(part for row in ROWS[room] for part in row) == sorted(parts)


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
    ("forward", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .pipeline import Pipeline",
     ["gateway.pipeline.Pipeline"]),
    ("bus/bus", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..cache.step import CacheStep",
     ["gateway.cache.step.CacheStep"]),
    ("admin/listener", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..app import Application", []),
    ("admin/listener", "from ..app import Application", ["gateway.app.Application"]),
    ("upstream/pool", "from .limit import Limit\nfrom ..errors import GatewayError", []),
    ("upstream/pool", "from ..telemetry.log import RequestLog", ["gateway.telemetry.log.RequestLog"]),
    ("upstream/pool", "from .. import forward", ["gateway.forward"]),
    ("config", "from .values import Size", []),
    ("bus/bus", "from ..cache.purging.purge_index import Marks", ["gateway.cache.purging.purge_index.Marks"]),
    ("bus/redis_stream", "from ..remote.redis_client import RedisClient", []),
    ("config", "from .nginx.configuration import render", ["gateway.nginx.configuration.render"]),
    ("errors", "from .message import Request", ["gateway.message.Request"]),
    ("pipeline", "from .forward import Forward\nfrom .app import create_app", ["gateway.app.create_app"]),
    ("demo/start", "from ..pipeline import Pipeline\nfrom .services import seed", []),
])
def test_a_planted_import_that_goes_up_is_caught(file, source, forbidden):
    assert [found.name for found in imports_of(source, file) if too_high(found)] == forbidden


@pytest.mark.parametrize("file, source, caught", [
    ("bus/journal", "from .notice import Notice", False),
    ("bus/notice", "from .journal import Journal", True),
    ("bus/bus", "from .journal import Journal", True),
    ("cache/step", "from .storage.store import HttpStore", False),
    ("cache/rules", "from .fetch_context import FetchContext", True),
    ("cache/decide", "from . import fetch", True),
    ("cache/rules", "from . import Cache", True),
    ("cache/storage/memory", "from ..entry import Entry", False),
    ("cache/storage/memory", "from ..step import CacheStep", True),
    ("cache/storage/memory", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..fetch import Fetch", True),
    ("cache/storage/store", "from ..rules import Rules", True),
    ("cache/storage/store", "def f():\n    from ..fetch_context import FetchContext", True),
    ("cache/storage/store", "from ..purging.purger import Purger", False),
    ("cache/purging/purger", "from ..storage.lookups import Lookups", True),
    ("cache/purging/purge_index", "from .purger import Purger", True),
    ("local/run_directory", "from .board import Board", False),
    ("local/board", "from .run_directory import RunDir", True),
    ("server/worker", "from .connection import ConnectionHandler", False),
    ("server/reader", "from .fastlane import Lane", True),
    ("telemetry/metrics", "import gateway.telemetry.observe", True),
    ("upstream/pool", "from .transport import Transport", False),
    ("upstream/pool", "from .requests.call import Call", True),
    ("upstream/client", "from .requests.adapter import Adapter", True),
    ("upstream/requests/adapter", "from ..client import Upstream", False),
    ("upstream/requests/adapter", "from .call import Call", False),
    ("upstream/requests/call", "from .adapter import Adapter", True),
    ("forward", "from .upstream.client import Upstream", False),
])
def test_a_planted_import_against_the_direction_of_a_room_is_caught(file, source, caught):
    assert any(map(against_the_room, imports_of(source, file))) is caught


@pytest.mark.parametrize("file, source, forbidden", [
    ("forward", "import gevent", ["gevent"]),
    ("forward", "from gevent.event import Event", ["gevent.event.Event"]),
    ("forward", "import six", ["six"]),
    ("forward", "def f():\n    from numpy import array", ["numpy.array"]),
    ("forward", "import importlib\nimportlib.import_module('flask')", ["importlib", "flask"]),
    ("forward", "from importlib import import_module as load\nload(name)", ["importlib.import_module"]),
    ("forward", "from importlib import util\nutil.find_spec(name)", ["importlib.util"]),
    ("forward", "import importlib.util as tools\ntools.find_spec(name)", ["importlib.util"]),
    ("forward", "import runpy\nrunpy.run_module(name)", ["runpy"]),
    ("forward", "from pkgutil import resolve_name", ["pkgutil.resolve_name"]),
    ("forward", "import builtins", ["builtins"]),
    ("forward", "load = __import__\nload(name)", [ANY]),
    ("forward", "exec('import flask')", [ANY]),
    ("forward", "eval(text)", [ANY]),
    ("forward", "redis.eval(text)", []),
    ("forward", "import sys\nsys.modules['flask']", ["sys.modules"]),
    ("forward", "from sys import modules", ["sys.modules"]),
    ("forward", "import sys as system\nsystem.modules['flask']", ["sys.modules"]),
    ("forward", "import sys\nsys.version_info", []),
    ("telemetry/exposition", "from importlib.metadata import version", []),
    ("cache/__init__", "from pkgutil import iter_modules", []),
    ("app", "from importlib import import_module\ndef f(name):\n    import_module(name)", []),
    ("app", "import sys\nsys.modules[name]", []),
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
    ({"rewrite": "def f():\n    from time import sleep"}, ["rewrite > time.sleep"]),
    ({"rewrite": "from .values import quoted", "values": "import socket"}, ["rewrite > values > socket"]),
    ({"rewrite": "from . import values", "values": "from .config import Route", "config": "import gevent"},
     ["rewrite > values > config > gevent"]),
    ({"rewrite": "from .deadline import Deadline", "deadline": "import time"}, []),
    ({"rewrite": "import importlib\nimportlib.import_module('random')"}, ["rewrite > importlib", "rewrite > random"]),
    ({"rewrite": "from importlib import import_module as load\nload(name)"}, ["rewrite > importlib.import_module"]),
    ({"rewrite": "exec(text)"}, [f"rewrite > {ANY}"]),
    ({"rewrite": "from datetime import datetime\ndatetime.fromisoformat(text)"}, []),
    ({"rewrite": "from datetime import datetime\ndatetime.now()"}, ["rewrite > time"]),
    ({"rewrite": "import datetime\nclock = datetime.datetime.utcnow"}, ["rewrite > time"]),
    ({"rewrite": "from datetime import date\ndef f():\n    return date.today()"}, ["rewrite > time"]),
    ({"rewrite": "from . import values", "values": "from datetime import date\ndate.today()"}, ["rewrite > values > time"]),
    ({"rewrite": "import os\nos.popen('date')"}, ["rewrite > os"]),
    ({"rewrite": "import os.path\nos.popen('date')"}, ["rewrite > os"]),
    ({"rewrite": "from os import popen"}, ["rewrite > os.popen"]),
    ({"rewrite": "from os import path"}, []),
    ({"rewrite": "import os.path as path"}, []),
    ({"rewrite": "from os.path import join"}, []),
    ({"rewrite": "open('/dev/random')"}, ["rewrite > os.open"]),
])
def test_a_planted_wait_is_caught_however_far_away(planted, way):
    assert impurities("rewrite", [found for file, source in planted.items() for found in imports_of(source, file)]) == way


@pytest.mark.parametrize("text, pure", [
    ('"""Which route answers. Pure."""', True),
    ('"""Which route answers. Pure: it decides, others act."""', True),
    ('"""Which route answers. Pure; nothing here raises."""', True),
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
