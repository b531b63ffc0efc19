"""How a Redis is found, and what is shown of its address."""

from __future__ import annotations

import pytest

from gateway.remote.redis_pool import address_of, without_credentials


@pytest.mark.parametrize("url, shown", [
    ("redis://user:pass@host:1/0", "redis://host:1/0"), ("redis://host", "redis://host"),
    ("redis+sentinel://:p%40ss@a:1,b:2/m", "redis+sentinel://a:1,b:2/m"), ("unix:///run/redis.sock", "unix:///run/redis.sock")])
def test_no_password_is_shown(url, shown):
    assert without_credentials(url) == shown


@pytest.mark.parametrize("text, address", [("a", ("a", 5)), ("a:1", ("a", 1)), ("[::1]", ("::1", 5)), ("[::1]:7", ("::1", 7)),
                                           ("10.0.0.1:26379", ("10.0.0.1", 26379))])
def test_addresses(text, address):
    assert address_of(text, 5) == address
