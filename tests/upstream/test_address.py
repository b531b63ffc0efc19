"""Instances as they are written in a configuration."""

from __future__ import annotations

import pytest

from gateway.upstream.address import parse_instance


@pytest.mark.parametrize("url, parts, authority", [
    ("http://10.0.0.5:8000", ("http", "10.0.0.5", 8000, None), "10.0.0.5:8000"),
    ("http://orders", ("http", "orders", 80, None), "orders"),
    ("http://orders:80", ("http", "orders", 80, None), "orders"),
    ("http://orders:443", ("http", "orders", 443, None), "orders:443"),
    ("https://orders.internal", ("https", "orders.internal", 443, None), "orders.internal"),
    ("https://orders:8443/", ("https", "orders", 8443, None), "orders:8443"),
    ("HTTP://Orders_2", ("http", "Orders_2", 80, None), "Orders_2"),
    ("http://[::1]:80", ("http", "::1", 80, None), "[::1]"),
    ("http://[::1]:8080", ("http", "::1", 8080, None), "[::1]:8080"),
    ("http://[fe80::1%25eth0]", ("http", "fe80::1%eth0", 80, None), "[fe80::1]"),
    ("unix:/run/app.sock", ("http", "localhost", 0, "/run/app.sock"), "localhost"),
    ("unix:///run/app.sock", ("http", "localhost", 0, "/run/app.sock"), "localhost"),
])
def test_an_instance_is_taken_apart(url, parts, authority):
    address = parse_instance(url)
    assert tuple(address) == parts
    assert address.authority == authority


@pytest.mark.parametrize("url, says", [
    ("", "write http://"),
    ("orders:80", "write http://"),
    ("ftp://orders", "write http://"),
    ("http:/orders", "write http://"),
    ("http://", "no host"),
    ("http://:80", "no host"),
    ("http://user:secret@orders", "user name"),
    ("http://orders/api", "a path"),
    ("http://orders?x=1", "a query"),
    ("http://orders#top", "a fragment"),
    ("http://orders:", "'' is not a port"),
    ("http://orders:0", "'0' is not a port"),
    ("http://orders:65536", "not a port"),
    ("http://orders:http", "not a port"),
    ("http://orders:١", "not a port"),
    ("http://::1", "not a host"),
    ("http://or ders", "not a host"),
    ("http://.orders", "not a host"),
    ("http://orders\r\nX: y", "not a host"),
    ("unix:app.sock", "absolute path"),
    ("unix:", "absolute path"),
    ("unix:/run/", "absolute path"),
    ("unix:/" + "x" * 107, "107 bytes"),
])
def test_a_mistake_is_explained(url, says):
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        parse_instance(url)
