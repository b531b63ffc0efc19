"""The part of ``gateway explain`` beside a request's route and steps: its treatment by the cache, and its destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .admin_client import call_admin

if TYPE_CHECKING:
    from ..cache.entry import Variants
    from ..config import Config, Route
    from ..message import NextHop, Request
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

    from ..cache.explanation import entry_of_admin
    where = "gateway.admin is not set"
    if config.gateway.admin:
        try:
            status, answer = call_admin(config, "GET", f"/cache?key={quote(key, safe='')}")
            variants = tuple(entry_of_admin(each, time()) for each in answer["entries"]) if status == 200 else None
            return variants, f"{'' if variants else 'nothing '}in the worker that answers at {config.gateway.admin}"
        except click.ClickException as error:
            where = error.message
    variants = pipeline.store.inspect(key)
    tier_names = ", ".join(tier.name for tier in pipeline.store.tiers)
    return variants, f"{'' if variants else 'nothing '}in {tier_names} ({where})" if tier_names else f"not known ({where})"


def destinations(pipeline: Pipeline, route: Route, request: Request) -> list[str]:
    """Where the targets of a route send the request. Raises InvalidTarget and BadRequest."""
    upstreams = pipeline.config.upstreams
    return [line for target in pipeline.targets_of(route) if hasattr(target, "destinations")
            for hop in target.destinations(request)
            for line in hop_lines(hop, upstreams[hop.upstream].instances if hop.upstream else ())]


def hop_lines(hop: NextHop, instances: tuple[str, ...]) -> list[str]:
    """A headline, and below it the address at each instance or why nothing is sent."""
    if not instances:
        return [hop.label]
    if hop.refusal:
        return [f"{hop.label}:", f"  {hop.refusal}"]
    return [f"{hop.label}{', one of' if len(instances) > 1 else ''}:",
            *(f"  {hop.method} {hop.target} over {url}" if url.startswith("unix:")
              else f"  {hop.method} {url.rstrip('/')}{hop.target}" for url in instances)]
