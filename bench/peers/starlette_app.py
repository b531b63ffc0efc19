"""Starlette, with aiohttp as the client, on uvicorn.

https://www.starlette.io/, /lifespan/ and https://docs.aiohttp.org/en/stable/client_quickstart.html
"""

import asyncio
import contextlib

from aiohttp import ClientSession, TCPConnector
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bench.peers.payload import HELLO, UPSTREAM


async def hello(request):
    return PlainTextResponse(HELLO)


async def proxy(request):
    data = await request.body()
    headers = {"Content-Type": request.headers["Content-Type"]} if data else None
    async with request.state.session.request(request.method, UPSTREAM + request.url.path, data=data or None,
                                             headers=headers) as answer:
        return Response(await answer.read(), answer.status, media_type=answer.headers["Content-Type"])


async def fetch(session, name):
    async with session.get(f"{UPSTREAM}/{name}") as answer:
        return await answer.json()


async def compose(request):
    session = request.state.session
    user, orders, team = await asyncio.gather(fetch(session, "user"), fetch(session, "orders"), fetch(session, "team"))
    return JSONResponse({"user": user, "orders": orders, "team": team})


@contextlib.asynccontextmanager
async def lifespan(app):
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        yield {"session": session}


app = Starlette(lifespan=lifespan, routes=[
    Route("/hello", hello), Route("/compose", compose), Route("/{path:path}", proxy, methods=["GET", "POST"])])
