"""The measurement: ``make bench``, or ``python -m bench.run`` in an environment with bench/requirements.txt.

Each round takes every case, and in it every server in turn, each started for it and ended after it: what changes on the machine
meanwhile meets all alike. The server has a core of its own; the load generator and the upstream have another. A sample with any
error of wrk, or of a server whose answer is not the right one, does not count and is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import report
from .cases import CASES, Case
from .machine import Failed, cores, description, raise_open_files
from .servers import SERVERS, run, shown
from .upstream import Upstream, start

RESULTS = Path(__file__).with_name("results")


def main() -> int:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: told to end"))     # and not without ending what was started
    raise_open_files()
    machine = description()
    os.sched_setaffinity(0, {cores().load})                  # off the server's core
    RESULTS.mkdir(exist_ok=True)
    written = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    results = measure(options, machine, written)
    print()
    print(report.summary(results))
    print(f"\nwritten: {written}")
    if options.publish:
        report.publish(results)
    return 1 if results["failures"] else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measure the gateway and its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each measurement takes, after one second of warming (4)")
    parser.add_argument("--only", type=names_of(CASES), default=list(CASES), metavar="CASE,CASE", help=", ".join(CASES))
    parser.add_argument("--servers", type=names_of(SERVERS), default=list(SERVERS), metavar="A,B", help=", ".join(SERVERS))
    parser.add_argument("--quick", action="store_true", help="one round of one second: does it work?")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md, its plots and docs/performance.json")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    if options.rounds < 1 or options.seconds < 1:
        parser.error("at least one round of one second")
    return options


def names_of(table: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in table]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(table)}")
        return found
    return names


def measure(options: argparse.Namespace, machine: dict[str, Any], written: Path) -> dict[str, Any]:
    """All the rounds. The file ``written`` has those that are complete."""
    results: dict[str, Any] = {
        "machine": machine, "rounds": options.rounds, "seconds": options.seconds, "began": time.strftime("%Y-%m-%d %H:%M"),
        "commands": {}, "samples": {}, "starts": {}, "failures": []}
    plan = [(CASES[case], server) for case in options.only for server in CASES[case].servers if server in options.servers]
    count = len(plan) * options.rounds
    print(f"{count} samples, about {1 + count * (options.seconds + 3) // 60} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        upstream = start(Path(folder))
        with upstream.process:
            for number in range(options.rounds):
                for at, (case, server) in enumerate(plan):
                    one(results, case, server, Path(folder, f"{number}-{at}"), upstream, options.seconds, number)
                written.write_text(json.dumps(results, indent=1) + "\n")
    return results


def one(results: dict[str, Any], case: Case, name: str, place: Path, upstream: Upstream, seconds: float, number: int) -> None:
    """One sample of one case and server."""
    label = f"round {number + 1}  {case.name:14} {name:22}"
    try:
        with run(SERVERS[name], place, upstream) as running:
            results["commands"].setdefault(name, shown(running))
            time.sleep(0.3)                                  # what a server still does after its first answer
            results["starts"].setdefault(name, []).append({"seconds": running.started, "memory": running.process.memory()})
            case.check(running)
            sample = {"round": number + 1, **case.measure(running, seconds)}
            case.check(running)
    except Failed as error:
        results["failures"].append({"round": number + 1, "case": case.name, "server": name, "why": str(error)})
        print(f"{label} DOES NOT COUNT: {error}", file=sys.stderr, flush=True)
        return
    finally:
        clean(place)
    results["samples"].setdefault(case.name, {}).setdefault(name, []).append(sample)
    print(label + "  ".join(f"{key} {value:,.2f}" for key, value in sample.items() if key != "round"), flush=True)


def clean(place: Path) -> None:
    """The request log of one sample may have hundreds of megabytes."""
    for path in place.glob("*.log"):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
