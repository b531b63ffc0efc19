"""Whose redirects may use an upstream's name, and which ones stay at the same upstream."""

from __future__ import annotations

import pickle

import pytest
import requests
from odd_service import answer, redirect
from requests.auth import HTTPDigestAuth
from scenarios import upstream

from gateway.upstream.requests.adapter import govern_requests


@pytest.fixture
def users(service):
    """Two upstreams, ``users`` and ``orders``, and a server that is none of them: the services, by name."""
    found = {name: service() for name in ("users", "orders", "foreign")}
    made = {name: upstream(name, found[name].base) for name in ("users", "orders")}
    govern_requests(made)
    yield found
    for each in made.values():
        each.close()


def leads(users, name: str, location: str) -> None:
    users[name].extra["/go"] = lambda record: redirect(location)


# -- names are for the application's own calls

SPELLINGS = [
    "http://users/secret", "HTTP://USERS/secret", "http://Users/secret", "http://a:b@users/secret", "//users/secret",
    "http://%75sers/secret", "http://us\ters/secret", "http://users/secret#f", "http://users?x",
    "http://users", " http://users/secret", "http:////users/secret",
    "http:/\\users/secret", "http://users:80/secret", "http://users:/secret", "http://users\\@foreign/",
    "http://users./secret", "http://xn--users/secret", "http:users/secret", "http:/users/secret",
]


@pytest.mark.parametrize("method", ["follow", "by hand", "own session", "pickled"])
@pytest.mark.parametrize("location", SPELLINGS)
def test_a_foreign_redirect_never_enters_a_named_upstream(location, method, users):
    leads(users, "foreign", location)
    start = users["foreign"].base + "/go"
    try:
        if method == "follow":
            requests.get(start, timeout=20)
        elif method == "own session":
            OwnRules().get(start, timeout=20)
        else:
            following = requests.get(start, allow_redirects=False).next
            if method == "pickled":
                following = pickle.loads(pickle.dumps(following))
            requests.Session().send(following, timeout=20)
    except requests.RequestException:
        pass                                             # a host of that name is nowhere
    assert users["users"].requests == []


class OwnRules(requests.Session):
    """A session that decides on redirects itself, all of them."""

    def get_redirect_target(self, resp):
        return resp.headers.get("Location") if resp.is_redirect else None

    def rebuild_auth(self, prepared_request, response):
        prepared_request.prepare_url(prepared_request.url, None)

    def rebuild_proxies(self, prepared_request, proxies):
        return proxies or {}

    def should_strip_auth(self, old_url, new_url):
        return False


def test_a_redirect_does_not_lead_from_one_upstream_into_another(users):
    leads(users, "orders", "http://users/secret")
    with pytest.raises(requests.ConnectionError):
        requests.get("http://orders/go")
    assert users["users"].requests == []


def test_nor_by_way_of_a_foreign_server_back_into_the_first(users):
    leads(users, "orders", users["foreign"].base + "/go")
    leads(users, "foreign", "http://orders/echo")
    with pytest.raises(requests.ConnectionError):
        requests.get("http://orders/go")
    assert [record.target for record in users["orders"].requests] == ["/go"]


def test_a_host_reached_by_a_redirect_stays_a_host(users):
    """It has the name of an upstream, which DNS may know as well, and redirects to itself."""
    first = requests.Request("GET", users["foreign"].base).prepare()
    for url in ("http://users/go", "http://users/secret", "http://users/secret"):
        first = first.copy()
        first.url = url
    with pytest.raises(requests.ConnectionError):
        requests.Session().send(first)
    assert users["users"].requests == []


@pytest.mark.parametrize("location", [
    "/echo?x=1", "echo?x=1", "http://orders/echo?x=1", "HTTP://ORDERS/echo?x=1", "//orders/echo?x=1"])
def test_an_upstream_that_redirects_to_its_own_name_stays_there(location, users):
    leads(users, "orders", location)
    got = requests.get("http://orders/go", auth=("ann", "pw"))
    assert got.json()["target"] == "/echo?x=1"
    assert [record.header("Authorization") is not None for record in users["orders"].requests] == [True, True]


def test_the_applications_own_call_with_what_a_foreign_server_said_is_its_own(users):
    leads(users, "foreign", "http://users/echo")
    location = requests.get(users["foreign"].base + "/go", allow_redirects=False).headers["Location"]
    assert requests.get(location).json()["target"] == "/echo"


def test_digest_authentication_asks_an_upstream_twice(users):
    assert requests.get("http://orders/digest", auth=HTTPDigestAuth("ann", "pw")).status_code == 200


# -- a service that redirects to itself by its own address

def itself(setting: str, path: str, port: int) -> str:
    """What a service makes a Location of: the Host that it was asked with."""
    return f"http://{ {'upstream': f'127.0.0.1:{port}', 'preserve': 'public.test'}.get(setting, setting)}{path}"


@pytest.mark.parametrize("setting", ["upstream", "preserve", "shop.internal", "shop.internal:8080", "[::1]:81"])
def test_a_redirect_to_the_host_that_was_asked_with_is_the_same_upstream(setting, orders, in_request):
    for each in (services := orders(host=setting)):
        each.extra["/api/users"] = lambda record: redirect(
            f"http://{record.header('Host')}/api/users/?page=1", "Set-Cookie: visit=1", status="301 Moved Permanently")
        each.extra["/api/users/"] = lambda record: answer(
            f"{record.header('Authorization')} {record.header('Cookie')}".encode())
    in_request()
    session = requests.Session()
    session.cookies.set("sid", "7", domain="orders.local")
    for _ in range(4):
        got = session.get("http://orders/api/users#there", headers={"Authorization": "Bearer x"})
        assert got.url == "http://orders/api/users/?page=1#there"
        assert sorted(got.text.removeprefix("Bearer x ").split("; ")) == ["sid=7", "visit=1"]
    assert [len(each.requests) for each in services] == [4, 4], "each call is balanced"


@pytest.mark.parametrize("location, same", [
    ("http://SHOP.internal/echo", True), ("http://shop.internal:80/echo", True), ("//shop.internal/echo", True),
    ("http://shop.internal", True), ("http://shop.internal?x=1", True), ("http://shop.internal//evil.test/x", True),
    ("https://shop.internal/echo", False), ("http://shop.internal:81/echo", False), ("http://a@shop.internal/echo", False),
    ("http://shop.internal.evil.test/echo", False), ("http://evil.test/shop.internal", False),
    ("http://shop.internal:x/", False), ("ftp://shop.internal/", False), ("mailto:shop.internal", False),
])
def test_an_address_is_compared_as_uris_are(location, same, orders):
    for each in orders(host="shop.internal"):
        each.extra["/go"] = lambda record: redirect(location)
    answered = requests.get("http://orders/go", allow_redirects=False)
    assert answered.headers["Location"] == location
    target = requests.Session().get_redirect_target(answered)
    assert target.startswith("http://orders") is same
    if not same:
        assert target == location


def test_another_instances_address_is_the_same_upstream(orders):
    one, two = orders()
    one.extra["/go"] = lambda record: redirect(two.base + "/echo")
    two.extra["/go"] = lambda record: redirect(one.base + "/echo")
    got = requests.get("http://ann@orders/go", auth=("ann", "pw"))
    assert got.url == "http://ann@orders/echo" and "authorization" in str(got.json()).lower()


def test_a_foreign_servers_location_stays_as_it_is(orders, service):
    one, _ = orders()
    foreign = service()
    foreign.extra["/go"] = lambda record: redirect(one.base + "/echo")
    assert requests.get(foreign.base + "/go").url == one.base + "/echo"
