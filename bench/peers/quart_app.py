"""Quart, with aiohttp as the client, on hypercorn with uvloop.

https://quart.palletsprojects.com/, /how_to_guides/startup_shutdown.html and https://hypercorn.readthedocs.io/
"""

import asyncio

from aiohttp import ClientSession, TCPConnector
from quart import Quart, Response, request

from bench.peers.payload import HELLO, UPSTREAM

app = Quart(__name__)


@app.while_serving
async def client():
    async with ClientSession(connector=TCPConnector(limit=0)) as app.session:
        yield


@app.get("/hello")
async def hello():
    return Response(HELLO, mimetype="text/plain")


async def fetch(name):
    async with app.session.get(f"{UPSTREAM}/{name}") as answer:
        return await answer.json()


@app.get("/compose")
async def compose():
    user, orders, team = await asyncio.gather(fetch("user"), fetch("orders"), fetch("team"))
    return {"user": user, "orders": orders, "team": team}


@app.get("/view")
async def view():
    return {"from": "view", "items": (await fetch("json"))["items"]}


@app.route("/<path:path>", methods=["GET", "POST"])
async def proxy(path):
    data = await request.get_data()
    headers = {"Content-Type": request.content_type} if data else None
    async with app.session.request(request.method, f"{UPSTREAM}/{path}", data=data or None, headers=headers) as answer:
        return Response(await answer.read(), answer.status, content_type=answer.headers["Content-Type"])
