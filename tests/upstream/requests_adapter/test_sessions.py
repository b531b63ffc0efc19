"""Which sessions and adapters are governed, and that nothing of one user reaches another."""

from __future__ import annotations

import pickle
import ssl

import gevent
import pytest
import requests
from odd_service import answer
from requests.adapters import HTTPAdapter
from scenarios import upstream

from gateway import gather
from gateway.upstream.requests.adapter import LazyAdapter, govern_requests, governor, ungovern_requests


def test_every_session_is_governed_and_stock_comes_back(service):
    one, stock, before = service(), HTTPAdapter.send, requests.Session()
    url = one.base + "/plain"
    govern_requests()
    govern_requests()
    direct = HTTPAdapter()
    prepared = requests.Request("GET", url).prepare()
    answers = [requests.get(url), before.get(url), requests.Session().get(url), direct.send(prepared),
               requests.Session().send(prepared)]
    assert [each.content for each in answers] == [b"hello"] * 5
    assert one.connections == 1
    ungovern_requests()
    ungovern_requests()
    assert HTTPAdapter.send is stock and requests.sessions.HTTPAdapter is HTTPAdapter
    with requests.Session() as after:
        assert type(after.get_adapter(url)) is HTTPAdapter
        assert after.get(url).content == b"hello"
    assert one.connections == 2


def test_a_session_made_while_governed_goes_on_without(service):
    one = service()
    govern_requests()
    with requests.Session() as client:
        client.get(one.base + "/plain")
        ungovern_requests()
        assert [client.get(one.base + "/plain").content for _ in range(2)] == [b"hello"] * 2
        assert one.connections == 2


def test_a_new_session_makes_no_pools_until_they_are_asked_for():
    govern_requests()
    adapter = requests.Session().get_adapter("http://x/")
    adapter.close()
    assert "poolmanager" not in vars(adapter) and isinstance(adapter, HTTPAdapter)
    assert adapter.poolmanager.connection_pool_kw == HTTPAdapter().poolmanager.connection_pool_kw
    assert vars(adapter.max_retries) == vars(HTTPAdapter().max_retries)
    adapter.close()
    with pytest.raises(AttributeError):
        adapter.nothing
    assert type(pickle.loads(pickle.dumps(adapter))) is HTTPAdapter


class Pinned(LazyAdapter):
    """What a program gets that derives from ``requests.sessions.HTTPAdapter``."""


def changed(change) -> HTTPAdapter:
    adapter = requests.sessions.HTTPAdapter()
    change(adapter)
    return adapter


@pytest.mark.parametrize("make", [
    lambda: HTTPAdapter(max_retries=1),
    lambda: HTTPAdapter(pool_connections=1),
    lambda: HTTPAdapter(pool_block=True),
    lambda: requests.sessions.HTTPAdapter(pool_maxsize=1),
    lambda: Pinned(),
    lambda: changed(lambda adapter: setattr(adapter, "max_retries", HTTPAdapter(max_retries=2).max_retries)),
    lambda: changed(lambda adapter: adapter.init_poolmanager(10, 10, ssl_context=ssl.create_default_context())),
    lambda: changed(lambda adapter: adapter.poolmanager.connection_pool_kw.update(source_address=("127.0.0.1", 0))),
    lambda: changed(lambda adapter: setattr(adapter, "build_response", lambda *given: HTTPAdapter.build_response(adapter, *given))),
])
def test_an_adapter_with_a_will_of_its_own_is_left_alone(make, service, stock_calls):
    one = service()
    govern_requests()
    with requests.Session() as client:
        client.mount("http://", make())
        assert client.get(one.base + "/plain").content == b"hello"
    assert len(stock_calls) == 1


def test_who_patches_send_in_tests_still_wins(monkeypatch):
    govern_requests()
    monkeypatch.setattr(HTTPAdapter, "send", lambda self, request, **kwargs: "mocked")
    assert requests.Session().get_adapter("http://x/").send(None) == "mocked"
    ungovern_requests()
    assert HTTPAdapter.send(None, None) == "mocked"


@pytest.mark.parametrize("variable, value", [("http_proxy", "{}"), ("HTTP_PROXY", "{}"), ("All_Proxy", "{}")])
def test_a_proxy_of_the_environment_is_used(variable, value, service, stock_calls, monkeypatch):
    proxy = service()
    monkeypatch.setenv(variable, value.format(proxy.base))
    govern_requests()
    assert requests.get("http://shop.test/echo").status_code == 404
    assert proxy.requests[0].target == "http://shop.test/echo" and len(stock_calls) == 1


def test_unverified_https_is_warned_of(web):
    govern_requests()
    with pytest.warns(requests.packages.urllib3.exceptions.InsecureRequestWarning, match="localhost"):
        requests.get(web.tls + "/plain", verify=False)


# -- nothing of one user reaches another

def test_no_cookie_crosses_between_users(service):
    one = service()
    one.extra["/login"] = lambda record: answer(b"in", f"Set-Cookie: sid={record.target.partition('?')[2]}; Path=/")
    one.extra["/who"] = lambda record: answer((record.header("Cookie") or "nobody").encode())
    govern_requests({"shop": upstream("shop", one.base)})

    def visit(user, base):
        def run():
            first = requests.get(f"{base}/login?{user}")
            bare = requests.get(f"{base}/who").text
            with requests.Session() as own:
                own.get(f"{base}/login?{user}")
                gevent.sleep(0)
                return first.cookies["sid"], bare, own.get(f"{base}/who").text, requests.get(f"{base}/who").text
        return run

    for base in (one.base, "http://shop"):
        found = gather(*[visit(f"user{number}", base) for number in range(40)])
        assert found == [(f"user{number}", "nobody", f"sid=user{number}", "nobody") for number in range(40)]
    governor.destinations().names["shop"].upstream.close()
