"""What a route's ``cache`` means for its targets. Pure.

A target may say what counts for the key, each with a default:

===================  ==========================================================================================================
``sees_cookies``     do the client's cookies reach what makes the answer? (True) If not, none counts. Else a cookie keeps the
                     answer out of the cache, unless the route says which cookies count
``key_headers``,     fields and cookies of the request on which the answer depends without naming them in Vary (none): a
``key_cookies``      composition's, for example
``says_no_store``    it says ``no-store``, for caches that would store it although nobody configures that (False). With a ``ttl``
                     of the route somebody does, and the route's word goes before
===================  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable

from ..config import CacheSettings
from ..message import Handler

NOT_IN_KEY = frozenset({"cookie", "authorization"})      # the rules look after these two


def policy_of(cache: CacheSettings, targets: Iterable[Handler]) -> CacheSettings:
    """``cache`` as it holds for a route with these targets."""
    targets = [*targets]
    headers = {name.lower(): name for target in targets for name in getattr(target, "key_headers", ())}
    new_headers = headers.keys() - {name.lower() for name in cache.key.headers} - NOT_IN_KEY
    cookies = cache.key.cookies
    if cookies is None and not any(getattr(target, "sees_cookies", True) for target in targets):
        cookies = ()
    if cookies is not None:
        new_cookies = {name for target in targets for name in getattr(target, "key_cookies", ())} - set(cookies)
        cookies = (*cookies, *sorted(new_cookies))
    if new_headers or cookies != cache.key.cookies:
        key = cache.key.model_copy(update={
            "headers": (*cache.key.headers, *(headers[name] for name in sorted(new_headers))), "cookies": cookies})
        cache = cache.model_copy(update={"key": key})
    if cache.ttl is not None and any(getattr(target, "says_no_store", False) for target in targets):
        cache = cache.model_copy(update={"respect": "policy"})
    return cache
