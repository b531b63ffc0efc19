"""aiohttp, server and client, on uvloop.

https://docs.aiohttp.org/en/stable/web_quickstart.html, web_advanced.html#cleanup-context and client_quickstart.html
"""

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, TCPConnector, web

from bench.peers.payload import HELLO, UPSTREAM

SESSION = web.AppKey("session", ClientSession)


async def hello(request):
    return web.Response(text=HELLO)


async def proxy(request):
    data = await request.read() if request.can_read_body else None
    headers = {"Content-Type": request.headers["Content-Type"]} if data else None
    async with request.app[SESSION].request(request.method, UPSTREAM + request.path_qs, data=data, headers=headers) as answer:
        return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)


async def fetch(session, name):
    async with session.get(f"{UPSTREAM}/{name}") as answer:
        return await answer.json()


async def compose(request):
    session = request.app[SESSION]
    user, orders, team = await asyncio.gather(fetch(session, "user"), fetch(session, "orders"), fetch(session, "team"))
    return web.json_response({"user": user, "orders": orders, "team": team})


async def client(app):
    async with ClientSession(connector=TCPConnector(limit=0)) as app[SESSION]:
        yield


app = web.Application()
app.cleanup_ctx.append(client)
app.add_routes([web.get("/hello", hello), web.get("/compose", compose), web.route("*", "/{path:.*}", proxy)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), loop=uvloop.new_event_loop(), print=None)
