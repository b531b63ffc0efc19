"""Connections: shared, bounded, freed, and of one thread and process only."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import gevent
import pytest
import requests
from gevent.event import Event
from odd_service import answer
from raw import get
from scenarios import upstream

from gateway import gather
from gateway.deadline import Deadline
from gateway.errors import UpstreamTimeout
from gateway.message import Call
from gateway.upstream.limit import Limit
from gateway.upstream.requests.adapter import gateway_error, govern_requests, governor
from gateway.upstream.requests.destinations import Destinations
from tests.waiting import SAFETY, until

ROOT = Path(__file__).parents[3]


def test_connections_are_shared_by_all_sessions_and_kept(service):
    one = service()
    govern_requests()
    for number in range(10):
        requests.get(one.base + "/plain", timeout=SAFETY + number)
        requests.Session().post(one.base + "/echo", data="x")
        requests.get(one.base + "/big-chunked")
    assert one.connections == 1


def test_calls_at_the_same_time_have_each_their_connection(service):
    one, meeting = service(), Event()

    def wait(record):
        if len(one.requests) == 5:
            meeting.set()
        assert meeting.wait(SAFETY)
        return answer(record.target.encode())

    one.extra["/meet"] = wait
    govern_requests()
    answers = gather(*[lambda number=number: requests.get(f"{one.base}/meet?{number}").text for number in range(5)])
    assert answers == [f"/meet?{number}" for number in range(5)]
    assert one.connections == 5


def test_tls_settings_do_not_share_connections(web, service):
    govern_requests()
    secure = service.all[2]
    requests.get(web.tls + "/plain", verify=False)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(web.tls + "/plain")
    requests.get(web.tls + "/plain", verify=web.ca)
    assert len(secure.requests) == 2 and secure.connections == 3


def test_the_place_called_longest_ago_is_closed(service):
    one, two, three = service(), service(), service()
    destinations = Destinations({}, limit=2)
    for each in (one, two, one, three, one, two):
        destination = destinations.foreign("http", each.base.removeprefix("http://"), True, None)
        assert destination is not None and destination.upstream.send(get("/plain")).status == 200
    assert [each.connections for each in (one, two, three)] == [1, 2, 1]
    assert repr(destinations) == "Destinations(0 named, 2 foreign)"
    destinations.close()


def test_an_unread_stream_holds_its_connection_until_closed_or_forgotten(service):
    one = service()
    govern_requests({"big": upstream("big", one.base, max_connections=1, pool_timeout="20ms")})
    held = requests.get("http://big/big", stream=True)
    with pytest.raises(requests.exceptions.ConnectTimeout) as excinfo:
        requests.get("http://big/plain")
    assert gateway_error(excinfo.value).status == 503
    held.close()
    assert requests.get("http://big/plain").text == "hello"
    requests.get("http://big/big", stream=True)          # nobody keeps it
    gc.collect()
    assert requests.get("http://big/plain").text == "hello"
    kept = requests.get("http://big/big-chunked", stream=True)
    pieces = kept.iter_content(10)
    next(pieces)
    pieces.close()                                       # as when a loop over it ends early
    assert requests.get("http://big/plain").text == "hello" and kept.raw.closed
    govern_requests({})


def test_a_killed_call_leaves_nothing_behind(service, stall):
    one = service()
    one.extra["/stall"] = stall()
    govern_requests({"one": upstream("one", one.base, max_connections=1)})
    call = gevent.spawn(requests.get, "http://one/stall")
    until(lambda: one.requests)
    call.kill()
    assert requests.get("http://one/plain").text == "hello"
    governor.destinations().names["one"].upstream.close()


def test_native_threads_have_connections_of_their_own(service):
    one = service()
    orders = upstream("orders", one.base)
    govern_requests({"orders": orders})
    urls = [one.base + "/plain", "http://orders/plain"] * 3

    def calls():
        return [requests.get(url).text for url in urls]

    assert calls() == ["hello"] * 6
    assert one.connections == 2
    assert gevent.get_hub().threadpool.apply(calls) == ["hello"] * 6
    assert one.connections == 4
    assert calls() == ["hello"] * 6
    assert one.connections == 4
    orders.close()


PROGRAM = """
from gevent import monkey; monkey.patch_all()
import os, sys, requests
from gateway import govern_requests
govern_requests()
texts = [requests.get(sys.argv[1]).text]
if os.fork() == 0:
    print(requests.get(sys.argv[1]).text, flush=True)
    os._exit(0)
os.wait()
print(requests.get(sys.argv[1]).text, "flask" in sys.modules, flush=True)
"""


def test_alone_in_a_program_and_never_on_a_connection_of_the_parent(service):
    one = service()
    done = subprocess.run([sys.executable, "-c", PROGRAM, one.base + "/plain"], cwd=ROOT, text=True, capture_output=True,
                          timeout=SAFETY)
    assert (done.stdout, done.stderr) == ("hello\nhello False\n", "")
    assert one.connections == 2 and len(one.requests) == 3


def test_times_of_calls_share_the_connections_of_their_place(service):
    one = service()
    govern_requests()
    for number in range(1, 40):
        requests.get(one.base + "/plain", timeout=(SAFETY + number, SAFETY))
    assert one.connections == 1


def test_the_time_for_the_answer_begins_with_the_connection(service):
    one = service()
    instance = upstream("one", one.base).instances[0]
    limit = Limit(Deadline(SAFETY), 5.0, UpstreamTimeout)
    call = Call("GET", "/", [], deadline=limit.deadline, connect_timeout=SAFETY)
    limit.until -= 4.0                                   # name and connection took most of the time for the answer
    connection = instance.connection(call, limit, fresh=True, careful=True, patient=True)
    assert limit.left() > 4.0
    connection.close()
    instance.pool.drop()
