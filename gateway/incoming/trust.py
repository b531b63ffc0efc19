"""Whom to believe about a client: the trusted proxies and their fields.

The peer's address decides. A peer in ``trust`` (networks, or ``unix`` for unix sockets) is a proxy: its X-Forwarded-For is walked
from the right over the trusted addresses, and the address at which the walk ends is the client's. Proto, Host and Port are read at
the same distance from the right. Without X-Forwarded-* the standard Forwarded (RFC 7239) is read in the same way. ``request.chain``
is the one of the two that was believed: the other may be anybody's, and goes no further. Of any other peer these fields are
ignored, and never reach an upstream. An IPv4-mapped IPv6 address (``::ffff:10.0.0.1``, as a listener on ``[::]`` sees it) is that
IPv4 address.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address, ip_network

from ..http.fields import Kinds
from ..message import Request
from .host import HOST

MOST_ADDRESSES = 4096           # addresses
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}      # a proxy may name a WebSocket's own
PAIR = r"""[\w!#$%&'*+.^`|~-]+=(?:[\w!#$%&'*+.^`|~:\[\]-]|"(?:[^"\\]|\\.)*")*"""
FORWARDED_FIELD = re.compile(rf"[,; \t]*(?:{PAIR}(?:[,; \t]+{PAIR})*[,; \t]*)?", re.ASCII)
PROXY_FIELDS = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded")
FIELD_KINDS = Kinds({name: kind for kind, name in enumerate(PROXY_FIELDS, 1)})


class Trust:
    """Is an address a trusted proxy? ``judge`` gives (the address in its normal form, the answer), ``verdicts`` caches it: the
    peers are few and always the same."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self.unix = "unix" in networks
        self.networks = [ip_network(network, strict=False) for network in networks if network != "unix"]
        self.verdicts: dict[str, tuple[str, bool]] = {}

    def __contains__(self, address: str) -> bool:
        return self.judge(address)[1]

    def judge(self, address: str) -> tuple[str, bool]:
        verdict = self.verdicts.get(address)
        if verdict is None:
            verdict = self._look(address)
            if len(self.verdicts) >= MOST_ADDRESSES:
                self.verdicts.clear()
            self.verdicts[address] = verdict
        return verdict

    def _look(self, address: str) -> tuple[str, bool]:
        if not address:
            return address, self.unix
        try:
            ip = ip_address(address)
        except ValueError:
            return address, False
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
            address = str(ip)
        return address, any(ip in network for network in self.networks)

    def believe(self, request: Request) -> None:
        """Take client, scheme, host and port from a trusted proxy's fields."""
        fields = [field for field in request.headers if FIELD_KINDS[field[0]]]
        if not fields:
            return
        values_by_kind: list[list[str]] = [[], [], [], [], [], []]
        for name, value in fields:
            values_by_kind[FIELD_KINDS[name]].append(value)
        chain, protos, hosts, ports = [_items(values) for values in values_by_kind[1:5]]
        name, values = "X-Forwarded-For", values_by_kind[1]
        if not (chain or protos or hosts or ports):
            name, values = "Forwarded", values_by_kind[5]
            chain, protos, hosts = _elements(values)
        if chain:
            request.chain = name, ", ".join(values)
        distance = 1
        for distance, address in enumerate(reversed(chain), 1):
            request.client, is_proxy = self.judge(bare_address(address))
            if not is_proxy:
                break
        port = _at(ports, distance)
        if port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536:
            request.port = port
        request.scheme = SCHEMES.get(_at(protos, distance).lower(), request.scheme)
        host = _at(hosts, distance).removesuffix(":")
        if HOST.fullmatch(host):
            request.host = host

    def __repr__(self) -> str:
        return f"Trust({', '.join(map(str, self.networks)) or 'nobody'}{', unix' if self.unix else ''})"


def bare_address(value: str) -> str:
    """An address without port and brackets: ``[::1]:80`` and ``"[::1]:80"`` are ``::1``, ``10.0.0.1:80`` is ``10.0.0.1``."""
    value = value.strip('" ')
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0] if value.count(":") == 1 else value


def _items(values: list[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def _elements(values: list[str]) -> tuple[list[str], list[str], list[str]]:
    """for, proto and host of each element of Forwarded (RFC 7239 section 4), empty where missing; nothing when the field does not
    follow the grammar."""
    chains: tuple[list[str], list[str], list[str]] = ([], [], [])
    if not FORWARDED_FIELD.fullmatch(", ".join(values)):     # an open quote would swallow what is added behind it
        return chains
    for element in _items(values):
        pairs = dict(pair.strip().partition("=")[::2] for pair in element.split(";"))
        parameters = {name.lower(): value.strip('"') for name, value in pairs.items()}
        for chain, name in zip(chains, ("for", "proto", "host")):
            chain.append(parameters.get(name, ""))
    return chains


def _at(values: list[str], distance: int) -> str:
    """The value ``distance`` places from the right, or the leftmost."""
    return values[-distance] if len(values) >= distance else values[0] if values else ""
