"""The cache on the admin listener: what it holds and does, an entry's header, and purging.

``GET /cache``          tiers, bytes, requests by outcome, the hottest keys: JSON, or a page for a browser. Memory is that of the
                        worker that answers; the counts are of all workers.
``GET /cache?key=...``  the entries under one key, with their header fields
``POST /cache/purge``   ``{"url"|"prefix"|"tag": "...", "soft": false}`` or ``{"everything": true}``, as application/json

A web page of somebody else can make a browser send a POST to this machine, but not one of JSON without asking first, which is
refused as every OPTIONS is. So anything but JSON is 415; and what says that it comes from another site is 403.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from flask import render_template, request
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, UnsupportedMediaType

from ..cache.entry import Entry, Variants, flag_names
from ..cache.storage.store import HttpStore
from ..loop.native_threads import run_in_thread
from ..telemetry.exposition import Exposition
from ..telemetry.metrics import Registry

HOTTEST = 50
PURGES = {"url": str, "prefix": str, "tag": str, "everything": bool, "soft": bool}


def cache_page(store: HttpStore, registry: Registry, wants_html: Callable[[str], bool]) -> Any:
    """The answer to ``GET /cache``."""
    key = request.args.get("key")
    if key is not None:
        content: dict[str, Any] = {"key": key, "entries": entries_of(store, key)}
    else:
        numbers = run_in_thread(numbers_of, registry)
        content = {"pid": os.getpid(), "summary": headline(numbers, store), "tiers": tiers_of(store), "purges": purges_of(store),
                   "numbers": numbers, "hottest": hottest_of(store)}
    if wants_html(request.headers.get("Accept", "")):
        return render_template("admin_cache.html.j2", **content)
    return content


def tiers_of(store: HttpStore) -> list[dict[str, Any]]:
    memory = store.memory
    return [{"name": "memory", "entries": len(memory), "bytes": memory.bytes, "limit": memory.limit},
            *({"name": tier.name, "state": repr(tier)} for tier in store.tiers)]


def purges_of(store: HttpStore) -> dict[str, Any]:
    channels = [*filter(None, [store.purger.generation]), *store.bus.transports]
    return {"heard": store.marks.number, "channels": [repr(channel) for channel in channels], "waiting": store.bus.backlog()}


def headline(numbers: dict[str, list[dict[str, Any]]], store: HttpStore) -> str:
    """Hit ratio and bytes, in words."""
    outcomes = Counter[str]()
    for sample in numbers.get("requests", ()):
        outcomes[sample["outcome"]] += sample["value"]
    total = outcomes.total()
    usage = f"The memory of this worker holds {size_text(store.memory.bytes)} of {size_text(store.memory.limit)}."
    if not total:
        return f"No request has asked the cache yet. {usage}"
    hits = outcomes["hit"]
    return f"{hits / total:.0%} of {total:.0f} requests were hits. {usage}"


def size_text(size: float) -> str:
    """Bytes for people: ``812 B``, ``1.4 KB``, ``64 MB``."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            break
        size, unit = size / 1024, {"B": "KB", "KB": "MB", "MB": "GB"}[unit]
    return f"{size:.3g} {unit}"


def numbers_of(registry: Registry) -> dict[str, list[dict[str, Any]]]:
    """The cache's metrics over all workers, by name, with their labels. Runs in a native thread."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for metric in Exposition(registry).collect():
        if metric.name.startswith("gateway_cache_"):
            samples[metric.name.removeprefix("gateway_cache_")] = [
                {**sample.labels, "value": sample.value} for sample in metric.samples if sample.value]
    return samples


def hottest_of(store: HttpStore) -> list[dict[str, Any]]:
    return [{"key": node.key, "hits": node.hits, "bytes": node.size, "entries": len(node.value)}
            for node in run_in_thread(store.memory.hottest, HOTTEST) if node.hits]


def entries_of(store: HttpStore, key: str) -> list[dict[str, Any]]:
    """The entries under a key. Raises NotFound."""
    variants: Variants | None = store.inspect(key)
    if variants is None:
        raise NotFound("Nothing is stored under this key, or not here: the memory of another worker is not seen.")
    now = store.clock()
    return [entry_json(entry, now) for entry in variants]


def entry_json(entry: Entry, now: float) -> dict[str, Any]:
    """One entry, as a page shows it. Times are seconds from now, negative for the past."""
    return {"status": entry.status, "url": entry.url, "bytes": len(entry.body), "age": round(now - entry.born, 1),
            "fresh_for": round(entry.expires - now, 1), "stale_while_revalidate": round(entry.stale_while_revalidate - now, 1),
            "stale_if_error": round(entry.stale_if_error - now, 1), "flags": flag_names(entry.flags), "tags": sorted(entry.tags),
            "vary": [list(field) for field in entry.vary], "headers": [list(field) for field in entry.headers]}


def purge(store: HttpStore) -> dict[str, Any]:
    """The answer to ``POST /cache/purge``."""
    refuse_other_sites()
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Send application/json.")
    selection = request.get_json(silent=True)
    if not isinstance(selection, dict) or any(type(value) is not PURGES.get(name) for name, value in selection.items()):
        raise BadRequest("Send a JSON object with one of url, prefix, tag (texts) or everything (true), and perhaps soft (true).")
    try:
        workers = store.purger.purge(**selection)
    except ValueError as error:
        raise BadRequest(f"{error}.") from None
    nginx = {"nginx": store.purger.generation.can_step} if store.purger.generation is not None else {}
    return {"purged": selection, "told": workers, "waiting": store.bus.backlog(), **nginx}


def refuse_other_sites() -> None:
    """Refuse a request that another site's page has made the browser send."""
    origin = request.headers.get("Origin")
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden("Another site sends this.")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise Forbidden("Another site sends this.")
