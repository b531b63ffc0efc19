"""A Flask blueprint as a team writes it: plain synchronous code with ``requests``. Nothing is asynchronous, nothing is declared.

``http://users/...`` names an upstream of the configuration. ``gather`` runs the calls at the same time.
"""

from __future__ import annotations

import time
from typing import Any

import requests
from flask import Blueprint, abort

from gateway import gather

shop = Blueprint("shop", __name__)


@shop.get("/views/profile/<int:user_id>")
def profile(user_id: int) -> dict[str, Any]:
    """A user with the latest orders: two services, asked at once."""
    began = time.monotonic()
    user, orders = gather(lambda: requests.get(f"http://users/api/users/{user_id}"),
                          lambda: requests.get(f"http://orders/api/orders?user_id={user_id}&limit=3"))
    if user.status_code == 404:
        abort(404)
    seconds = [answer.elapsed.total_seconds() for answer in (user, orders)]
    return {"user": user.json(), "orders": orders.json(),
            "milliseconds": {"together": round(1000 * (time.monotonic() - began)),
                             "one_after_the_other": round(1000 * sum(seconds))}}
