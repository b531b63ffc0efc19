"""The Flask view that the gateway and the Flask peers serve: the same file, with one plain ``requests.get``."""

import os

import requests
from flask import Blueprint

views = Blueprint("bench", __name__)
JSON = os.environ["BENCH_UPSTREAM"] + "/json"


@views.get("/view")
def view():
    data = requests.get(JSON, timeout=5).json()
    return {"from": "view", "items": data["items"]}
