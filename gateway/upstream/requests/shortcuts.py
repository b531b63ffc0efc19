"""Shortcuts for what ``requests`` finds out anew for every call, though it is nearly always the same.

Each shortcut stands in the place of one function of ``requests``, which it follows for plain arguments; with all others it calls
that function. So whoever overrides one of them, or wraps or replaces it, before or after, meets what he would meet without us, and
no result differs. What a bare ``requests.get`` of 1 KB saves by each, in microseconds, of 270 in all without its exchange::

    get_environ_proxies        an environment that does not speak of a proxy has none                        87
    build_response,            a plain answer has no cookies, and nobody looks at ``raw``, which then need
      extract_cookies_to_jar   not be made (WholeResponse)                                                   36
    SupportsItems, -Read       a dict has items and cannot be read: Python before 3.12 examines that anew    30
    prepare_url                a URL of letters, digits and harmless signs is already what it would become   14
    merge_setting              a call without settings of its own has the session's, or none                 10
    cookiejar_from_dict,       a new jar is empty, which need not be looked up in it, and an empty one has
      merge_cookies            nothing to merge                                                               9
    get_cookie_header          an empty jar gives no cookies                                                  8
    get_netrc_auth             nobody has a password in a file that is not there                              7
    prepare_headers            the four header fields of every session are valid                              5
    get_auth_from_url          a URL without @ has no password                                                2
    get_encoding_from_headers  a Content-Type met before has the same charset                                 2

They hold for the versions of ``requests`` in VERSIONS, and where nobody has replaced the function before; a shortcut that does not
hold is left out, which is logged.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import OrderedDict
from functools import lru_cache
from http.cookiejar import CookieJar
from types import FunctionType
from typing import Any, NamedTuple
from urllib.request import getproxies_environment

import requests
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict

from .response import RawResponse

log = logging.getLogger("gateway")

VERSIONS = ("2.32.", "2.33.", "2.34.")
sessions: Any = requests.sessions
models: Any = requests.models
adapters: Any = requests.adapters
utils: Any = requests.utils
cookie_functions: Any = requests.cookies

# Of these prepare_url makes the same again: the host in lower case, a port that is one, no dot segments, nothing to encode.
PLAIN_URL = re.compile(r"https?://[a-z0-9][a-z0-9._-]*(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?"
                       r"(?:/(?!\.\.?(?:[/?]|\Z))[A-Za-z0-9_.~!$&'()*+,;=:@-]*)+(?:\?[A-Za-z0-9_.~!$&'()*+,;=:@/?-]+)?")
HTTP = ("http://", "https://")
NETRC = (".netrc", "_netrc")

stock_merge_setting = sessions.merge_setting
stock_netrc_auth = sessions.get_netrc_auth
stock_environ_proxies = sessions.get_environ_proxies
stock_extract_cookies = sessions.extract_cookies_to_jar
stock_cookie_header = models.get_cookie_header
stock_jar_from_dict = sessions.cookiejar_from_dict
stock_merge_cookies = sessions.merge_cookies
stock_auth_from_url = models.get_auth_from_url
stock_encoding = adapters.get_encoding_from_headers
stock_build_response = HTTPAdapter.build_response
stock_prepare_url = PreparedRequest.prepare_url
stock_prepare_headers = PreparedRequest.prepare_headers
SupportsItems: Any = getattr(utils, "_SupportsItems", None)       # since 2.34
SupportsRead: Any = getattr(models, "_SupportsRead", None)

# What every session sends, checked once: to find nothing wrong is to return None.
USUAL = frozenset(field for field in sessions.default_headers().items() if utils.check_header_validity(field) is None)


def merge_setting(request_setting: Any, session_setting: Any, dict_class: Any = OrderedDict) -> Any:
    if session_setting is None:
        return request_setting
    if request_setting is None:
        return session_setting
    if type(request_setting) is dict and not request_setting:
        kind = type(session_setting)
        if kind is dict and not session_setting:
            return dict_class()
        if kind is CaseInsensitiveDict and dict_class is CaseInsensitiveDict:
            store = session_setting._store
            for _, value in store.values():
                if value is None:                        # takes a field away
                    break
            else:
                return fields_of(store.copy())
    return stock_merge_setting(request_setting, session_setting, dict_class)


def fields_of(store: OrderedDict[str, tuple[str, Any]]) -> CaseInsensitiveDict[Any]:
    """Header fields as ``requests`` keeps them: by the name in lower case, the name and the value."""
    fields: Any = CaseInsensitiveDict.__new__(CaseInsensitiveDict)
    fields._store = store
    return fields


HAS_ITEMS: dict[Any, bool] = {dict: True, OrderedDict: True, CaseInsensitiveDict: True,
                              list: False, tuple: False, str: False, bytes: False}
NO_READ: set[Any] = {dict, OrderedDict, list, tuple}


class QuickItems(type):
    """``isinstance(x, SupportsItems)``, where the type alone says it."""

    def __instancecheck__(cls, instance: Any) -> bool:
        verdict = HAS_ITEMS.get(type(instance))
        return isinstance(instance, SupportsItems) if verdict is None else verdict


class QuickRead(type):
    """``isinstance(x, SupportsRead)``, where neither the type nor the object has something to read with."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if type(instance) in NO_READ and not hasattr(instance, "read"):
            return False
        return isinstance(instance, SupportsRead)


def prepare_url(self: PreparedRequest, url: Any, params: Any) -> None:
    if (not params and (params is None or type(params) in (dict, OrderedDict)) and type(url) is str
            and PLAIN_URL.fullmatch(url) and type(self) is PreparedRequest):
        self.url = url
    else:
        stock_prepare_url(self, url, params)


def prepare_headers(self: PreparedRequest, headers: Any) -> None:
    if type(headers) is not CaseInsensitiveDict:
        return stock_prepare_headers(self, headers)
    store: OrderedDict[str, tuple[str, Any]] = OrderedDict()
    self.headers = fields_of(store)
    source: Any = headers
    for lower, field in source._store.items():
        name, value = field
        if type(name) is not str:
            return stock_prepare_headers(self, headers)
        if type(value) is not str or field not in USUAL:
            models.check_header_validity(field)
        store[lower] = field


def get_netrc_auth(url: Any, raise_errors: bool = False) -> tuple[str, str] | None:
    environ = os.environ
    if type(url) is str and "NETRC" not in environ and utils.NETRC_FILES == NETRC and (home := environ.get("HOME")):
        home = home.rstrip("/")
        if not os.access(f"{home}/.netrc", os.F_OK) and not os.access(f"{home}/_netrc", os.F_OK):
            return None
    return stock_netrc_auth(url, raise_errors)


def get_environ_proxies(url: Any, no_proxy: Any = None) -> Any:
    names = getattr(os.environ, "_data", None)           # as bytes, to be looked through in one go
    if names is not None and utils.getproxies is getproxies_environment and b"_proxy" not in b"\0".join(names).lower():
        return {}
    return stock_environ_proxies(url, no_proxy=no_proxy)


def build_response(self: HTTPAdapter, req: PreparedRequest, resp: Any) -> requests.Response:
    if not isinstance(resp, RawResponse):
        return stock_build_response(self, req, resp)
    store: OrderedDict[str, tuple[str, str]] = OrderedDict()
    for name, value in resp.fields:
        lower = name.lower()
        if lower in store:
            name, before = store[lower]
            value = f"{before}, {value}"
        store[lower] = name, value
    response = requests.Response()
    response.status_code = resp.status
    response.headers = fields_of(store)
    response.encoding = adapters.get_encoding_from_headers(response.headers)
    response.raw = resp
    response.reason = resp.reason  # type: ignore[assignment]
    url: Any = req.url
    response.url = url.decode("utf-8") if isinstance(url, bytes) else url
    if resp.sets_cookies:
        adapters.extract_cookies_to_jar(response.cookies, req, resp)
    response.request = req
    response.connection = self
    return response


def get_encoding_from_headers(headers: Any) -> str | None:
    value = headers.get("content-type")
    return encoding_of(value) if type(value) is str else stock_encoding(headers)


@lru_cache(maxsize=64)
def encoding_of(content_type: str) -> str | None:
    return stock_encoding(CaseInsensitiveDict({"content-type": content_type}))


def get_cookie_header(jar: CookieJar, request: PreparedRequest) -> str | None:
    if type(jar) is RequestsCookieJar and not jar._cookies and parses(request.url):  # type: ignore[attr-defined]
        return None
    return stock_cookie_header(jar, request)


def cookiejar_from_dict(cookie_dict: Any, cookiejar: Any = None, overwrite: bool = True) -> Any:
    if cookiejar is None and (cookie_dict is None or type(cookie_dict) is dict and not cookie_dict):
        return cookie_functions.RequestsCookieJar()
    return stock_jar_from_dict(cookie_dict, cookiejar, overwrite)


def merge_cookies(cookiejar: Any, cookies: Any) -> Any:
    if type(cookiejar) is type(cookies) is RequestsCookieJar and not vars(cookies)["_cookies"]:
        return cookiejar
    return stock_merge_cookies(cookiejar, cookies)


def extract_cookies_to_jar(jar: CookieJar, request: PreparedRequest, response: Any) -> None:
    if isinstance(response, RawResponse) and not response.sets_cookies and type(jar) is RequestsCookieJar:
        return
    stock_extract_cookies(jar, request, response)


def get_auth_from_url(url: str) -> tuple[str, str]:
    if parses(url) and "@" not in url:
        return "", ""
    return stock_auth_from_url(url)


def parses(url: Any) -> bool:
    """Is it a URL which ``urlparse``, that stock would ask, is sure not to refuse?"""
    return type(url) is str and url.startswith(HTTP) and url.isascii() and "[" not in url and "]" not in url


class Shortcut(NamedTuple):
    """``quick`` in the place of ``stock``, which is ``owner.name``, and which belongs to the module ``home``."""

    owner: Any
    name: str
    stock: Any
    quick: Any
    home: str

    @property
    def stands(self) -> bool:
        return vars(self.owner).get(self.name) is self.quick

    @property
    def holds(self) -> bool:
        """Is it the one of ``requests`` that is there? A wrapper, whatever its name, has the globals of another module."""
        there = vars(self.owner).get(self.name)
        if isinstance(there, FunctionType):
            return there is self.stock and there.__globals__["__name__"] == self.home
        return there is not None and there is self.stock and there.__module__ == self.home


SHORTCUTS: tuple[Shortcut, ...] = (
    Shortcut(sessions, "merge_setting", stock_merge_setting, merge_setting, "requests.sessions"),
    Shortcut(sessions, "get_netrc_auth", stock_netrc_auth, get_netrc_auth, "requests.utils"),
    Shortcut(sessions, "get_environ_proxies", stock_environ_proxies, get_environ_proxies, "requests.utils"),
    Shortcut(sessions, "extract_cookies_to_jar", stock_extract_cookies, extract_cookies_to_jar, "requests.cookies"),
    Shortcut(sessions, "cookiejar_from_dict", stock_jar_from_dict, cookiejar_from_dict, "requests.cookies"),
    Shortcut(models, "cookiejar_from_dict", stock_jar_from_dict, cookiejar_from_dict, "requests.cookies"),
    Shortcut(sessions, "merge_cookies", stock_merge_cookies, merge_cookies, "requests.cookies"),
    Shortcut(models, "get_cookie_header", stock_cookie_header, get_cookie_header, "requests.cookies"),
    Shortcut(models, "get_auth_from_url", stock_auth_from_url, get_auth_from_url, "requests.utils"),
    Shortcut(adapters, "get_encoding_from_headers", stock_encoding, get_encoding_from_headers, "requests.utils"),
    Shortcut(HTTPAdapter, "build_response", stock_build_response, build_response, "requests.adapters"),
    Shortcut(PreparedRequest, "prepare_url", stock_prepare_url, prepare_url, "requests.models"),
    Shortcut(PreparedRequest, "prepare_headers", stock_prepare_headers, prepare_headers, "requests.models"),
)
if sys.version_info < (3, 12) and SupportsItems is not None and SupportsRead is not None:
    SHORTCUTS += (
        Shortcut(utils, "_SupportsItems", SupportsItems, QuickItems("SupportsItems", (), {}), "requests._types"),
        Shortcut(models, "_SupportsRead", SupportsRead, QuickRead("SupportsRead", (), {}), "requests._types"),
    )
active: list[Shortcut] = []
past_messages: set[str] = set()


def install() -> None:
    """Put in place the shortcuts that hold."""
    if not requests.__version__.startswith(VERSIONS):
        log_once(f"requests {requests.__version__} is not known, and left as it is: calls take longer")
        return
    for shortcut in SHORTCUTS:
        if shortcut in active:
            continue
        if shortcut.stands or shortcut.holds:
            setattr(shortcut.owner, shortcut.name, shortcut.quick)
            active.append(shortcut)
        else:
            log_once(f"requests: somebody has replaced {shortcut.name}, which is left as it is: calls take longer")


def log_once(text: str) -> None:
    """Log it once."""
    if text not in past_messages:
        past_messages.add(text)
        log.info(text)


def remove() -> None:
    """What has been replaced meanwhile is left to whoever did it, and goes on as stock."""
    while active:
        shortcut = active.pop()
        if shortcut.stands:
            setattr(shortcut.owner, shortcut.name, shortcut.stock)
