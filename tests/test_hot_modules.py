"""What is compiled is what is hot: the list in setup.py against what a real worker counts (bench/hot.py), request by request."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.hot import CASES, measure
from tests.compiled import COMPILED

SETUP = Path(__file__).parent.parent / "setup.py"
HOT = 0.02                                               # of a case's calls: a module with more is compiled, or says why not
CALLED = 0.9                                             # calls in a request: one with less is not compiled, or says why
pytestmark = pytest.mark.skipif(COMPILED, reason="what is compiled calls no profiler; the pure build has the same calls")

# Hot, and yet interpreted: why.
INTERPRETED = {
    "app": "a class of Flask, whose application it is",
    "async_views": "gives a coroutine to the loop and waits; what takes time is asyncio",
    "errors": "classes of exceptions, which say what they are and do nothing",
    "loop/asyncio_loop": "a class of asyncio, loaded when something imports that",
    "loop/coroutines": "as asyncio_loop",
    "loop/hub_selector": "as asyncio_loop",
    "loop/loop_greenlet": "a class of gevent",
    "loop/monotonic_clock": "stands for time: simulations put another clock in its place",
    "server/client_socket": "its socket is gevent's, and most of its time is spent there",
    "server/gunicorn_request": "a class of Gunicorn's parser",
    "server/worker": "a class of Gunicorn's worker",
    "tasks": "runs functions of the user's, in context variables and greenlets",
    "upstream/requests/adapter": "a class of requests",
    "upstream/requests/response": "a class of urllib3",
    "upstream/requests/shortcuts": "metaclasses, and functions that stand in for those of requests",
}
# Compiled, though a request of none of the cases calls them: when one does.
RARE = {
    "bodylimit": "a body that is larger than it may be",
    "cache/purging/purge_index": "each hit and each store, once there was a purge",
    "cache/storage/codec": "each miss with a tier that is shared",
    "cache/storage/lookups": "each miss with a tier that is shared",
    "incoming/host": "a host that has not been met before",
    "routing/spelling": "a path with escapes or dots in it",
    "telemetry/slot_memory": "each request of an instance with several workers",
    "upstream/connecting": "a new connection",
    "upstream/dns": "a new connection to a name",
    "upstream/requests/destinations": "a call to a host that has not been met before",
    "upstream/retry": "an attempt that failed",
    "upstream/tls": "a new connection with TLS",
}


@pytest.fixture(scope="module")
def calls():
    return measure()


def compiled():
    found = re.search(r'COMPILED = """(.*?)"""', SETUP.read_text(), re.DOTALL)
    assert found is not None
    return found[1].split()


def shares(calls):
    """The largest share of each module in the calls of a case."""
    totals = {case: sum(found.values()) for case, found in calls.items()}
    return {name: max(found.get(name, 0) / totals[case] for case, found in calls.items())
            for name in {name for found in calls.values() for name in found}}


def test_the_list_names_files_once():
    assert len(compiled()) == len(set(compiled()))
    for name in compiled():
        assert (SETUP.parent / "gateway" / f"{name}.py").is_file(), name


def test_every_case_is_counted(calls):
    for case in CASES:
        assert calls[case]["server/connection"] >= 1 and sum(calls[case].values()) > 30, case


def test_nothing_hot_is_missing(calls):
    hot = {name for name, share in shares(calls).items() if share >= HOT}
    assert sorted(hot - {*compiled(), *INTERPRETED}) == [], "compile it (setup.py), or say in INTERPRETED why not"


def test_what_is_compiled_is_run_through(calls):
    """Those between the two are called by hot ones, which do so directly when both are compiled."""
    called = {name for found in calls.values() for name, number in found.items() if number >= CALLED}
    assert sorted({*compiled()} - called - {*RARE}) == [], "take it off the list in setup.py, or say in RARE why it is there"


def test_no_reason_outlives_what_it_is_about(calls):
    hot = {name for name, share in shares(calls).items() if share >= HOT / 2}      # a busy machine adds calls of timers
    assert sorted({*INTERPRETED} - hot | {*INTERPRETED} & {*compiled()}) == []
    called = {name for found in calls.values() for name, number in found.items() if number >= CALLED}
    assert sorted({*RARE} & called | {*RARE} - {*compiled()}) == []
