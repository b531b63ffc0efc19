"""A step and a target for declared routes: ``own_parts.toml`` names them. A view would do for many of them; these take no Flask."""

import json
import logging

from gateway import Handler, Request, Response, errors

log = logging.getLogger("shop.audit")

PRICES = {"apple": 120, "pear": 180}


class Audit:
    """Write down who has changed something, and how that ended."""

    def __init__(self, next: Handler, methods: list[str]) -> None:
        self.next = next
        self.methods = frozenset(methods)

    def __call__(self, request: Request) -> Response:
        if request.method not in self.methods:
            return self.next(request)
        try:
            response = self.next(request)
        except errors.GatewayError as error:
            log.warning("%s %s by %s: %s", request.method, request.path, request.client, error.code)
            raise
        log.warning("%s %s by %s: %s", request.method, request.path, request.client, response.status)
        return response

    def __repr__(self) -> str:
        return f"audit of {', '.join(sorted(self.methods))}"


def price(request: Request) -> Response:
    """A target: the price of ``{sku}``."""
    sku = request.params["sku"]
    if sku not in PRICES:
        return Response(404, [("Content-Type", "application/json")], b'{"error":"no such article"}')
    return Response(200, [("Content-Type", "application/json")], json.dumps({"sku": sku, "cents": PRICES[sku]}).encode())
