"""Flask with ``requests``, as both document themselves; one Session, which keeps connections to the upstream open.

https://flask.palletsprojects.com/quickstart/ and https://requests.readthedocs.io/user/advanced/#session-objects
"""

import requests
from flask import Flask, Response, request
from requests.adapters import HTTPAdapter

from bench.peers.payload import HELLO, UPSTREAM
from bench.peers.views import views

app = Flask(__name__)
app.register_blueprint(views)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=1000))


@app.get("/hello")
def hello():
    return Response(HELLO, mimetype="text/plain")


@app.get("/compose")
def compose():
    return {name: session.get(f"{UPSTREAM}/{name}", timeout=10).json() for name in ("user", "orders", "team")}


@app.route("/<path:path>", methods=["GET", "POST"])
def proxy(path):
    answer = session.request(request.method, f"{UPSTREAM}/{path}", data=request.get_data() or None, timeout=10,
                             headers={"Content-Type": request.content_type} if request.content_type else None)
    return Response(answer.content, answer.status_code, content_type=answer.headers["Content-Type"])
