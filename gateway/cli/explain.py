"""What ``gateway explain`` says of a request beside its route and steps: what the cache makes of it, and where it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .admin_client import call_admin

if TYPE_CHECKING:
    from ..aggregate.part import PreparedPart
    from ..app import Gateway
    from ..cache.entry import Variants
    from ..config import Config, Route
    from ..message import Request
    from ..pipeline import Pipeline


def cache_lines(config: Config, pipeline: Pipeline, route: Route, request: Request) -> list[str]:
    """What the route's cache decides about the request, and what is stored for it, as far as this process can see."""
    from ..cache.step import CacheStep
    from ..headers import EditHeaders
    for step in pipeline.steps(route):
        if isinstance(step, EditHeaders) and step.request is not None:
            request.headers = step.request(request.headers)
        if isinstance(step, CacheStep):
            lines, key = step.explain(request), step.lookup_key(request)
            if key is not None:
                variants, where = stored_variants(config, pipeline, key)
                lines += [f"stored: {where}", *(step.explain(request, variants) if variants else ())]
            return ["cache, for this request:", *(f"  {line}" for line in lines)]
    return []


def stored_variants(config: Config, pipeline: Pipeline, key: str) -> tuple[Variants | None, str]:
    """What a running instance has stored, else what the shared tiers have; and which of the two it is."""
    from time import time
    from urllib.parse import quote

    from ..cache.entry import Variants
    from ..cache.explanation import entry_of_admin
    where = "gateway.admin is not set"
    if config.gateway.admin:
        try:
            status, answer = call_admin(config, "GET", f"/cache?key={quote(key, safe='')}")
            variants = Variants(entry_of_admin(each, time()) for each in answer["entries"]) if status == 200 else None
            return variants, f"{'' if variants else 'nothing '}in the worker that answers at {config.gateway.admin}"
        except click.ClickException as error:
            where = error.message
    variants = pipeline.store.inspect(key)
    shared = ", ".join(tier.name for tier in pipeline.store.tiers)
    return variants, f"{'' if variants else 'nothing '}in {shared} ({where})" if shared else f"not known ({where})"


def destinations(app: Gateway, pipeline: Pipeline, route: Route, request: Request) -> list[str]:
    """The calls to upstreams that the target makes, or the endpoint of a view. Raises InvalidTarget and BadRequest."""
    from ..aggregate.target import Aggregate
    from ..forward import Forward
    from ..views import View, endpoint_of
    target = pipeline.target(route)
    upstreams = pipeline.config.upstreams
    if isinstance(target, Forward):
        instances = upstreams[target.upstream].instances
        return addresses(f'upstream "{target.upstream}"', request.method, instances, target.target(request))
    if isinstance(target, Aggregate):
        return [line for part in target.parts for line in part_lines(part, upstreams[part.upstream].instances, request)]
    return [f"endpoint: {endpoint_of(app.url_map, request)}"] if isinstance(target, View) else []


def part_lines(part: PreparedPart, instances: tuple[str, ...], request: Request) -> list[str]:
    """The call of one part of a composition. Raises BadRequest when the request lacks what a required part needs."""
    from ..errors import BadRequest
    what = f'part "{part.name}"{", optional" if part.optional else ""}, upstream "{part.upstream}"'
    try:
        return addresses(what, part.method, instances, part.target_for(request))
    except BadRequest as error:
        if not part.optional:
            raise
        return [f"{what}:", f"  not asked: {error}"]


def addresses(what: str, method: str, instances: tuple[str, ...], target: str) -> list[str]:
    """A headline, and below it the address at each instance."""
    return [f"{what}{', one of' if len(instances) > 1 else ''}:",
            *(f"  {method} {target} over {url}" if url.startswith("unix:") else f"  {method} {url.rstrip('/')}{target}"
              for url in instances)]
