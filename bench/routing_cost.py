"""What finding a route costs, and that it does not grow with the number of routes: ``python bench/routing_cost.py``.

Two tables: the work done for a request, counted (nodes of the tree entered, conditions read), which is the same on every
machine; and the time of one ``match``, the best of some rounds, which is not. Takes a few seconds.
"""

from __future__ import annotations

import sys
from time import perf_counter

from rich.console import Console
from rich.table import Table as Printed

from gateway.config import Route
from gateway.message import Request
from gateway.routing import table as routing

SIZES = (10, 100, 1000, 10_000)
CASES = {
    "static": ("/service-{n}/orders", "/service-{last}/orders", {}),
    "parameter": ("/service-{n}/orders/{{id:int}}/lines", "/service-{last}/orders/12345/lines", {}),
    "two parameters": ("/service-{n}/{{kind}}/{{id}}", "/service-{last}/orders/a7f3", {}),
    "wildcard": ("/service-{n}/*", "/service-{last}/a/b/c", {}),
    "text with a parameter": ("/service-{n}-{{id}}.json", "/service-{last}-7.json", {}),
    "parameter in the middle": ("/service-{n}/{{rest:path}}/edit", "/service-{last}/a/b/c/edit", {}),
    "encoded": ("/service-{n}/orders", "/service-{last}/%6frders", {}),
    "host and header": ("/service-{n}/orders", "/service-{last}/orders", {"host": "shop-{n}.test", "header": {"X-Beta": "1"}}),
}
ROUNDS, CALLS = 7, 3000


def table_of(pattern: str, more: dict, size: int) -> routing.Table[int]:
    def route(n: int) -> Route:
        given = dict(more)
        if "host" in given:
            given["host"] = given["host"].format(n=n)
        return Route(path=pattern.format(n=n), **given)

    return routing.Table(((route(n), n) for n in range(size)), folds=True)


def request_of(path: str, more: dict, size: int) -> Request:
    headers = [("User-Agent", "bench"), ("Accept", "*/*"), ("X-Beta", "1")]
    return Request("GET", path.format(last=size - 1), headers, host=more.get("host", "shop.test").format(n=size - 1))


def seconds(table: routing.Table[int], request: Request) -> float:
    """One match, in the fastest round."""
    match, best = table.match, float("inf")
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(CALLS):
            match(request)
        best = min(best, perf_counter() - began)
    return best / CALLS


def steps(table: routing.Table[int], request: Request) -> int:
    """Calls of Python functions in one match: the work, whatever the machine."""
    table.match(request)                                 # imports and caches of the first call are not its work
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        table.match(request)
    finally:
        sys.setprofile(None)
    return count - 1                                     # the call that switches the profile off


def main() -> None:
    work = Printed("calls in one match", *map(str, SIZES), title="Work by number of routes")
    time = Printed("microseconds", *map(str, SIZES), "10,000 : 10", title="Time of one match by number of routes")
    for name, (pattern, path, more) in CASES.items():
        counted, timed = [], []
        for size in SIZES:
            table, request = table_of(pattern, more, size), request_of(path, more, size)
            counted.append(steps(table, request))
            timed.append(seconds(table, request))
        work.add_row(name, *map(str, counted))
        time.add_row(name, *(f"{value * 1e6:.2f}" for value in timed), f"{timed[-1] / timed[0]:.2f}")
    console = Console()
    console.print(work)
    console.print(time)


if __name__ == "__main__":
    main()
