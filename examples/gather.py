"""Three slow calls at once, in a program of its own: plain ``requests``, our connections, no application and no configuration.

Run it: ``python examples/gather.py``. It starts the slow service itself.
"""

from gevent import monkey

monkey.patch_all()

import time  # noqa: E402

import requests  # noqa: E402
from gevent import sleep  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from gateway import gather, govern_requests  # noqa: E402


def slow(environ, start_response):
    """Answers after 100 ms."""
    sleep(0.1)
    body = environ["PATH_INFO"].encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def main():
    server = WSGIServer(("127.0.0.1", 0), slow, log=None)
    server.start()
    base = f"http://127.0.0.1:{server.server_port}"
    govern_requests()

    begun = time.perf_counter()
    user, orders, team = gather(
        lambda: requests.get(f"{base}/user").text,
        lambda: requests.get(f"{base}/orders").text,
        lambda: requests.get(f"{base}/team").text,
        timeout=2)
    print(f"{user} {orders} {team}: three calls of 100 ms in {(time.perf_counter() - begun) * 1000:.0f} ms")

    try:
        gather(lambda: requests.get(f"{base}/user").text, timeout=0.05)
    except TimeoutError as error:
        print(f"given 50 ms: {error}")


if __name__ == "__main__":
    main()
