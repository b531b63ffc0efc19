"""Whom we believe: certificates of every kind, judged by stock ``requests``, by ours and by a configured upstream. They agree."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from raw import Service, get

from gateway.config import Tls
from gateway.config import UpstreamSettings as Settings
from gateway.errors import GatewayError
from gateway.upstream import dns
from gateway.upstream.client import Upstream
from gateway.upstream.requests.adapter import govern_requests

AUTHORITY = """
[ca]
default_ca = d
[d]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = p
unique_subject = no
[p]
commonName = optional
"""
LEAF = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
AUTHORITATIVE = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"


class Case(NamedTuple):
    """A certificate for the ``host`` asked for. ``names`` are its subjectAltName, ``more`` further extensions."""

    host: str = "shop.test"
    names: str = "DNS:shop.test"
    subject: str = "/CN=server"
    more: str = ""
    begins: str = "20200101000000Z"
    ends: str = "20991231235959Z"
    key: str = "ec"
    digest: str = "sha256"
    issuer: str = "ca"
    chain: bool = True                                   # the server sends the intermediate certificate
    trusts: str = "ca"                                   # "ca", "own" (the certificate itself), "middle", or "" for the usual
    verify: bool = True
    versions: tuple[ssl.TLSVersion, ...] = ()


V = ssl.TLSVersion
CASES = {
    "right": Case(), "right, an address": Case("127.0.0.1", "IP:127.0.0.1"),
    "several names": Case(names="DNS:a.test,DNS:shop.test"),
    "upper case": Case(names="DNS:SHOP.TEST"), "asked for in upper case": Case("SHOP.test"),
    "common name only": Case(names="", subject="/CN=shop.test"),
    "common name only, wildcard": Case("a.shop.test", "", "/CN=*.shop.test"),
    "common name only, an address": Case("127.0.0.1", "", "/CN=127.0.0.1"),
    "common name right, alternative names wrong": Case(names="DNS:other.test", subject="/CN=shop.test"),
    "common name right, only an address beside": Case(names="IP:127.0.0.1", subject="/CN=shop.test"),
    "common name right, only a mail address beside": Case(names="email:a@shop.test", subject="/CN=shop.test"),
    "no name at all": Case(names="", subject="/"), "another name": Case(names="DNS:other.test"),
    "a name below": Case("a.shop.test"), "a name above": Case("shop.test", "DNS:a.shop.test"),
    "wildcard": Case("a.shop.test", "DNS:*.shop.test"), "wildcard, its base": Case(names="DNS:*.shop.test"),
    "wildcard, two labels": Case("b.a.shop.test", "DNS:*.shop.test"), "wildcard of a top level": Case(names="DNS:*.test"),
    "wildcard alone": Case(names="DNS:*"), "wildcard in a label": Case("foo.shop.test", "DNS:f*.shop.test"),
    "wildcard not in front": Case("a.b.shop.test", "DNS:a.*.shop.test"),
    "wildcard for an address": Case("127.0.0.1", "DNS:*.0.0.1"),
    "an address as a name": Case("127.0.0.1", "DNS:127.0.0.1"), "another address": Case("127.0.0.1", "IP:127.0.0.2"),
    "a URI": Case(names="URI:https://shop.test/"),
    "IDNA": Case("xn--mnchen-3ya.test", "DNS:xn--mnchen-3ya.test"),
    "IDNA, wildcard": Case("xn--mnchen-3ya.shop.test", "DNS:*.shop.test"),
    "IDNA, wildcard in the label": Case("xn--mnchen-3ya.test", "DNS:xn--*.test"),
    "expired": Case(ends="20200201000000Z"), "not yet valid": Case(begins="20990101000000Z"),
    "unknown issuer": Case(issuer="other"), "not trusted": Case(trusts=""),
    "issued by itself": Case(issuer="self"), "issued by itself, and trusted": Case(issuer="self", trusts="own"),
    "trusted by itself": Case(trusts="own"),
    "with intermediate": Case(issuer="middle"), "without intermediate": Case(issuer="middle", chain=False),
    "intermediate trusted": Case(issuer="middle", trusts="middle"),
    "for clients": Case(more="extendedKeyUsage=clientAuth\n"), "for servers": Case(more="extendedKeyUsage=serverAuth\n"),
    "not to sign": Case(more="keyUsage=critical,keyAgreement\n"),
    "an authority": Case(more="basicConstraints=critical,CA:TRUE\n"),
    "an unknown critical extension": Case(more="1.2.3.4=critical,ASN1:UTF8:x\n"),
    "SHA-1": Case(digest="sha1"), "a short key": Case(key="rsa:1024"), "RSA": Case(key="rsa:2048"),
    "TLS 1.0": Case(versions=(V.TLSv1, V.TLSv1)), "TLS 1.1": Case(versions=(V.TLSv1_1, V.TLSv1_1)),
    "TLS 1.2": Case(versions=(V.TLSv1_2, V.TLSv1_2)), "TLS 1.3": Case(versions=(V.TLSv1_3, V.TLSv1_3)),
    "unverified, another name": Case(names="DNS:other.test", verify=False),
    "unverified, expired": Case(ends="20200201000000Z", verify=False),
    "unverified, issued by itself": Case(issuer="self", verify=False),
    "unverified, TLS 1.1": Case(versions=(V.TLSv1_1, V.TLSv1_1), verify=False),
    "unverified, a short key": Case(key="rsa:1024", verify=False),
}
REFUSED = {"common name only", "common name right, only an address beside", "expired", "not trusted", "TLS 1.1"}
BELIEVED = {"right", "right, an address", "wildcard", "with intermediate", "TLS 1.2", "TLS 1.3", "unverified, another name"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """A folder with authorities: ca, middle (issued by it) and other."""
    folder = tmp_path_factory.mktemp("authority")
    (folder / "ca.cnf").write_text(AUTHORITY)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("1000\n")
    for name, issuer in (("ca", "self"), ("other", "self"), ("middle", "ca")):
        issue(folder, name, issuer, Case(subject=f"/CN={name}"), AUTHORITATIVE)
    return folder


def issue(folder: Path, name: str, issuer: str, case: Case, extensions: str) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", case.key] if case.key != "ec" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    (folder / f"{name}.ext").write_text(extensions)
    openssl("req", "-new", *key, "-nodes", "-subj", case.subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
    signer = ["-cert", f"{issuer}.pem", "-keyfile", f"{issuer}.key"]
    if issuer == "self":
        signer = ["-selfsign", "-keyfile", f"{name}.key"]
    openssl("ca", "-batch", "-config", "ca.cnf", *signer, "-in", f"{name}.csr", "-out", f"{name}.pem", "-notext", "-extfile",
            f"{name}.ext", "-startdate", case.begins, "-enddate", case.ends, "-md", case.digest)


@pytest.fixture
def names(monkeypatch):
    """Every name leads to this machine."""
    native = dns.getaddrinfo

    def here(host, port, *args, **kwargs):
        return native("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setattr(dns, "getaddrinfo", here)


@pytest.fixture
def served(authority, serve, names):
    """``served(case)`` is the port of a server with that certificate."""
    def start(case: Case) -> int:
        extensions = LEAF + case.more + (f"subjectAltName={case.names}\n" if case.names else "")
        issue(authority, "leaf", case.issuer, case, extensions)
        chain = (authority / "leaf.pem").read_text()
        if case.issuer == "middle" and case.chain:
            chain += (authority / "middle.pem").read_text()
        (authority / "chain.pem").write_text(chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")           # it would show anything
        if case.versions:
            context.minimum_version, context.maximum_version = case.versions
        context.load_cert_chain(authority / "chain.pem", authority / "leaf.key")

        def accept(sock, address) -> None:
            try:
                secured = context.wrap_socket(sock, server_side=True)
            except OSError:                              # the client did not believe us: what is looked at is the client
                sock.close()
                return
            Service()(secured, address)

        return serve(accept)

    return start


def verdict(call) -> str:
    try:
        return str(call())
    except (requests.RequestException, GatewayError) as error:
        return type(error).__name__


def by_requests(url: str, verify) -> str:
    return verdict(lambda: requests.get(url, verify=verify, timeout=20).status_code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_certificate_is_judged_as_stock_judges_it(authority, served, name):
    case = CASES[name]
    port = served(case)
    trusted = {"ca": authority / "ca.pem", "own": authority / "leaf.pem", "middle": authority / "middle.pem"}.get(case.trusts)
    verify = False if not case.verify else True if trusted is None else str(trusted)
    url = f"https://{case.host}:{port}/"
    stock = by_requests(url, verify)
    govern_requests()
    assert by_requests(url, verify) == stock
    tls = Tls(verify=case.verify, ca=str(trusted) if trusted is not None else requests.certs.where())
    one = Upstream("shop", Settings(instances=(url.rstrip("/"),), tls=tls))
    ours = verdict(lambda: one.send(get(seconds=20)).status)
    one.close()
    assert (ours == "200") is (stock == "200"), ours
    assert stock in ("200", "SSLError", "ConnectionError")
    assert name not in REFUSED | BELIEVED or (stock == "200") is (name in BELIEVED), "the table does not try what it says"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE folder"])
@pytest.mark.parametrize("verify", [True, None, False])
def test_certificates_named_by_the_environment_are_those_of_stock(authority, served, monkeypatch, variable, verify):
    port = served(Case())
    monkeypatch.setenv(variable.partition(" ")[0], str(authority if "folder" in variable else authority / "ca.pem"))
    url = f"https://shop.test:{port}/"
    stock = by_requests(url, verify)
    govern_requests()
    assert by_requests(url, verify) == stock
