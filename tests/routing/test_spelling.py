"""A narrow route is never passed by another spelling of its path: whatever a server behind may fold, the route chosen is the narrow
one, or the request is refused."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from werkzeug.test import Client

from gateway.config import Route
from gateway.configfile.load import load_text
from gateway.errors import InvalidTarget, MethodNotAllowed, NoRoute
from gateway.message import Request
from gateway.routing.spelling import MOST, RESPELLING, readings
from gateway.routing.table import Table


def chosen(table, target, method="GET", host="shop.test", headers=()):
    """The name of the route, or the status of a refusal."""
    try:
        return table.match(Request(method, target, list(headers), host=host))[0]
    except (InvalidTarget, MethodNotAllowed, NoRoute) as error:
        return error.status


def table_of(*routes, folds=True):
    made = [route if isinstance(route, Route) else Route(path=route, upstream="old") for route in routes]
    return Table(((route, route.name) for route in made), folds=folds)


SPELLINGS = """
    //x/admin/s          //x:80/admin;/s      //x%2Fadmin/s        //x/p/../admin/s     /;//x/admin/s        /.//x/admin/s
    //admin/s            /admin//s            ///admin///s         /./admin/s           /admin/./s           /././admin/s
    /p/../admin/s        /p/../../admin/s     /../admin/s          /admin/p/../s        /p/q/../../admin/s   /p//../admin/s
    /%2e/admin/s         /%2E/admin/s         /p/%2e%2e/admin/s    /p/%2E%2e/admin/s    /p/.%2e/admin/s      /p/%2e./admin/s
    /admin%2Fs           /admin%2fs           /%2Fadmin/s          /p%2F..%2Fadmin/s    /p/..%2fadmin/s      /p%2f../admin%2Fs
    /admin\\s            /admin%5Cs           /admin%5cs           /\\admin/s           /p\\..\\admin\\s     /p/..%5cadmin/s
    /admin;/s            /admin;x=1/s         /admin;a;b/s         /admin%3Bx/s         /admin/s;x           /;/admin/s
    /p/..;/admin/s       /p/..;x=1/admin/s    /.;/admin/s          /p/..%3B/admin/s     /p/%2e%2e;/admin/s   /;x/admin;y/s;z
    /%61dmin/s           /%61%64%6D%69%6e/s   /p/../%61dmin/s      //%61dmin/s          /admin/%73           /admin%3b%2fs
    /p//../admin;/s      /p/..;/admin/..%3B/..;/s                  /p//..//..//admin/s  /p%2F%2e%2e%5Cadmin;%2Fs
    /p/..;a=b%2Fadmin/s  /%2e;x//admin%5C;y/s /./p/.././admin//s   /x/..\\admin/s       /%5C%2e%2e%5Cadmin/s /..%2F..%2Fadmin/s
    /admin/s%00          /admin/s%00.png      /p/../admin/s%00/x   /admin/./s%00        /p/%00/../../admin/s /admin/x/..;/s
""".split()
BELOW = ["/p/../admin/..;/x/s", "/admin/s/.%00", "//admin/", "/p/..;/admin/", "/admin%2F", "/admin/..%3B/../..;/admin/"]

NARROW = {
    "respond": {"respond": {"status": 403}},
    "files": {"files": "."},
    "view": {"view": True},
    "upstream": {"upstream": "new"},
    "strip": {"upstream": "new", "strip_prefix": "/admin"},
    "rewrite": {"upstream": "new", "rewrite": "/v2/x"},
    "aggregate": {"aggregate": {"a": "new:/x"}},
    "host": {"respond": {"status": 403}, "host": "shop.test"},
    "method": {"respond": {"status": 403}, "methods": ["GET", "POST"]},
    "condition": {"upstream": "new", "header": {"X-Beta": "1"}},
    "cached": {"upstream": "new", "cache": {}},
}
PATTERNS = ["/admin/*", "/admin/s", "/admin/{x}", "/{a}/s", "/{r:path}/s", "/admin/{rest:path}", "/{a}min/s", "/admin/s{x}"]


@pytest.mark.parametrize("spelling", SPELLINGS + BELOW)
@pytest.mark.parametrize("kind", NARROW)
def test_a_narrow_route_is_not_passed_by_another_spelling(kind, spelling):
    narrow = Route(path="/admin/*", **NARROW[kind])
    assert chosen(table_of("/*", narrow), spelling, headers=[("X-Beta", "1")]) in (narrow.name, 400)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_nor_is_one_of_any_pattern(pattern, spelling):
    narrow = Route(path=pattern, respond={"status": 403})
    target = spelling.replace("/s", "/sx").replace("%2Fs", "%2Fsx") if pattern == "/admin/s{x}" else spelling
    reached = chosen(Table([(narrow, "narrow")]), "/admin/sx" if pattern == "/admin/s{x}" else "/admin/s")
    assert reached == "narrow"
    if "admin/sx" in target or pattern != "/admin/s{x}":
        assert chosen(table_of("/*", narrow), target) in (narrow.name, 400)


@pytest.mark.parametrize("spelling", [each for each in SPELLINGS if ".." not in each.replace("%2e", ".").replace("%2E", ".")])
def test_where_no_segment_climbs_a_refusal_is_that_of_the_narrow_route(spelling):
    """As nginx has it, for all that it folds: 403 and not 400."""
    assert chosen(table_of("/*", Route(path="/admin/*", respond={"status": 403})), spelling) == "/admin/*"


@pytest.mark.parametrize("target", ["/public/../s", "/public/%2e%2e/s", "/public/..;/s", "/public/..%2Fs", "/public%2F..%5cs",
                                    "/public/.%2e;x/s"])
@pytest.mark.parametrize("others", [[], ["/*"], [Route(path="/*", respond={"status": 403})]],
                         ids=["nothing", "upstream", "refusal"])
def test_nor_does_a_narrow_route_let_out_what_it_does_not_hold(target, others):
    """Where only some paths go through, no server that folds is led to the others."""
    assert chosen(table_of("/public/*", *others), target) in (400, 404, "/*")
    assert chosen(table_of("/public/*"), "/public/s") == "/public/*"


@pytest.mark.parametrize("target", ["//public/s", "/./public/s", "/public;x/s", "/public%2Fs", "/public%5cs"])
def test_a_route_that_answers_all_the_rest_by_itself_is_not_passed(target):
    """What the path as it came is refused by, no other reading admits."""
    assert chosen(table_of("/public/*", Route(path="/*", respond={"status": 403})), target) == "/*"


@pytest.mark.parametrize("target, expected", [
    ("/a/../b", "/*"), ("/a//b", "/*"), ("/a%2Fb", "/*"), ("/a;v=1/b", "/*"), ("/%00", "/*"), ("/a/./b/../c", "/*"),
    ("/users/a%2Fb", "/users/{id}"), ("/users/7;v=1", "/users/{id}"), ("/users/a%5Cb", "/users/{id}"),
    ("/users/a%00", "/users/{id}"), ("/users/7?x=/../;//", "/users/{id}"),
    ("/users/7%2Forders", "/users/{id}/orders"), ("/users/7%5Corders", "/users/{id}/orders"),
    ("/users/7/orders;x", "/users/{id}/orders"),
    ("//users/7", "/users/{id}"), ("/users//7", "/users/{id}"), ("/users;v=1/7", "/users/{id}"), ("/users/.", "/users/{id}"),
    ("/users/..", 400), ("/users/x/..", "/*"), ("/.well-known/x", "/*"), ("/a..b/..c", "/*"),
    ("/users/%252e%252e", "/users/{id}"), ("/x/%252e%252e/users/7", "/*"), ("/x%252F..%252Fusers/7", "/*"),
    ("/USERS/7", "/*"), ("/users/7/", "/*")])
def test_which_route_a_spelling_chooses(target, expected):
    assert chosen(table_of("/*", "/users/{id}", "/users/{id}/orders"), target) == expected


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_application_that_means_it_is_asked_by_the_path_as_it_came(spelling):
    table, wide = table_of("/*", "/admin/s", folds=False), table_of("/*", "/admin/s", folds=False)
    assert chosen(table, spelling) == chosen(wide, spelling) == ("/admin/s" if readings(spelling)[0] == ["admin", "s"] else "/*")


def test_parameters_are_those_of_the_reading_that_chose():
    table = table_of("/*", "/users/{id:int}", "/f/{rest:path}")
    assert table.match(Request("GET", "//users/7;v=1", [])) == ("/users/{id:int}", {"id": "7"})
    assert table.match(Request("GET", "/f/a%2Fb//c", [])) == ("/f/{rest:path}", {"rest": "a/b//c"})


@pytest.mark.parametrize("more", [{"strip_prefix": "/a"}, {"rewrite": "/v2/{rest}"}, {"files": "."}])
def test_who_takes_the_path_apart_gets_none_that_is_another(more):
    """Its slashes are not where the route has them."""
    route = Route(path="/a/{rest:path}", upstream=None if "files" in more else "new", **more)
    assert chosen(table_of("/*", route), "//a/b") == 400
    assert chosen(table_of("/*", route), "/a//b") == chosen(table_of(route), "/a/b;c") == "/a/{rest:path}"


# -- whatever the spelling

SLASHES = ["/", "/", "/", "%2F", "%2f", "\\", "%5C", "%5c", "//", "/./", "/%2e/", "/;x/", "/.;a=b/"]
CLIMBS = ["/q/../", "/q/%2e%2E/", "/q/..;/", "%2Fq%2F..%2F", "\\q\\..\\", "/q/..%3Bx/", "/..;/..;a/", "/q;x/.%2e%5c", "//q//..//"]


@st.composite
def a_spelling(draw):
    """Something that may be folded into /admin/s, by undoing what a server may do."""
    def text(word):
        written = "".join(draw(st.sampled_from([letter, letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"])) for letter in word)
        return written + draw(st.sampled_from(["", "", ";", ";x=1", "%3B", ";a%2E"]))

    first = draw(st.sampled_from(["/", "/", *(each for each in SLASHES + CLIMBS if each[0] == "/")]))
    between = draw(st.sampled_from(SLASHES + CLIMBS[:-1]))
    if between in CLIMBS and "q" not in between:
        between = "/"                                    # /admin/..;/..;/s is no spelling of it
    return first + text("admin") + between + text("s") + draw(st.sampled_from(["", "", "%00", "%00/../x"]))


@given(a_spelling(), st.sampled_from(sorted(NARROW)), st.sampled_from(PATTERNS[:6]))
@example("/%2e%2e;//admin%3b/s", "respond", "/admin/*")
@settings(max_examples=1500, deadline=None)
def test_no_inverse_folding_passes_a_narrow_route(spelling, kind, pattern):
    if kind in ("files", "strip", "rewrite") and pattern != "/admin/*":
        kind = "respond"
    narrow = Route(path=pattern, **NARROW[kind])
    assert chosen(table_of("/*", narrow), spelling, headers=[("X-Beta", "1")]) in (narrow.name, 400)


@given(st.lists(st.sampled_from(["/", "a", ".", "..", "%2e", "%2F", "%5c", "\\", ";", "%3b", "%41", "%2561", "%00"]), max_size=12))
@settings(max_examples=800, deadline=None)
def test_a_path_without_marks_has_one_reading(pieces):
    path = "/" + "".join(pieces)
    found = readings(path)
    assert len(found) == 1 or RESPELLING.search(path)
    assert len(set(map(tuple, found))) == len(found)


@given(st.lists(st.sampled_from(["/", "a", "admin", ".", "..", "%2e", "%2F", "%5c", "\\", ";", "%3b", "%00"]), max_size=10))
@settings(max_examples=800, deadline=None)
def test_any_chain_of_servers_is_covered(pieces):
    """Each folds what it likes, in its order, and passes the rest on; what the last one has is among the readings."""
    from gateway.routing.spelling import FOLDS, _decode
    path = "/" + "".join(pieces)
    dice = random.Random(path)
    for _ in range(5):
        segments, steps = tuple(path.split("/")[1:]), [*FOLDS, *dice.sample(FOLDS, len(FOLDS)), _decode]
        dice.shuffle(steps)
        for step in steps:
            segments = step(segments)
        assert list(segments) in readings(path)


@pytest.mark.parametrize("piece", ["/a;/..//%2e%2F\\;%5c", "/..", "/;", "//", "/x/..", "%2F", "\\", "/a;b%2F%5c", "/.", "%00"])
def test_the_longest_path_takes_bounded_room(piece):
    path = ("/" + piece * 8190)[:8190]
    tracemalloc.start()
    try:
        assert sum(map(len, readings(path))) <= MOST
    except InvalidTarget as error:
        assert "too many ways" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200 * MOST


# -- through everything

CONFIG = """
[gateway]
log = "off"
views = ["spelled_views"]
{more}
[[routes]]
path = "/admin/*"
respond = {{ status = 403 }}
[[routes]]
path = "/*"
view = true
"""


@pytest.fixture
def application(tmp_path, monkeypatch):
    from gateway.app import Gateway
    (tmp_path / "spelled_views.py").write_text(
        "from flask import Blueprint\nold = Blueprint('old', __name__)\n"
        "@old.route('/', defaults={'path': ''})\n@old.route('/<path:path>')\ndef show(path): return path\n")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda more="": Gateway(load_text(CONFIG.format(more=more), {}))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_through_the_whole_gateway(application, spelling):
    def status(gateway):
        return Client(gateway).open("/", environ_overrides={"RAW_URI": spelling, "PATH_INFO": spelling}).status_code

    assert status(application()) in (400, 403)
    assert status(application("literal_paths = true")) in (200, 308, 403, 404)


def test_explain_shows_the_readings():
    table = table_of("/*", Route(path="/admin/*", respond={"status": 403}))
    assert str(table.explain(Request("GET", "//admin/s", []))).splitlines() == [
        'route "/admin/*"', '  read as "//admin/s": /*', '  read as "/admin/s": /admin/*', '  read as "/s": /*',
        "  /admin/*: answers", "  /*: takes the path as it came"]
    assert str(table.explain(Request("GET", "/p/%2e%2e/admin/s", []))).splitlines() == [
        "no route: 400 the path can be read as one of another route", '  read as "/p/../admin/s": /*',
        '  read as "/admin/s": /admin/*', "  /*: takes the path as it came"]
    assert "read as" not in str(table.explain(Request("GET", "/a//b", [])))
