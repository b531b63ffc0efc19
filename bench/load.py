"""The load: wrk on its core. What it could not do counts as a failure of the whole measurement."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from .machine import Failed, busy_seconds, command, cores
from .servers import Running

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT = 10                                                 # seconds an answer may take


def wrk(port: int, path: str, *, seconds: float, connections: int, method: str = "GET", body: Path | None = None,
        routes: int = 0) -> dict[str, Any]:
    """Load for some seconds: what load.lua prints. Raises Failed when there was an error of any kind."""
    length = max(1, round(seconds))
    arguments = [command("taskset"), "-c", str(cores().load), command("wrk"), "-t1", f"-c{connections}", f"-d{length}s",
                 f"--timeout={TIMEOUT}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}{path}", "--", method,
                 str(body or "-"), str(routes)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=length + TIMEOUT + 20)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise Failed(f"wrk ended with {result.returncode}: {result.stderr.strip() or result.stdout.strip()}")
    found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    if errors := {name: count for name, count in found["errors"].items() if count}:
        raise Failed("wrk: " + ", ".join(f"{count} {name} errors" for name, count in errors.items())
                     + f" in {found['requests']} requests")
    if not found["requests"]:
        raise Failed("wrk: not one answer")
    return found


def measured(running: Running, path: str, **load: Any) -> dict[str, float]:
    """Requests a second and latency under load, what a request cost the server in CPU time, and how busy its cores were.

    ``others`` is how many cores were busy with anything that is not part of the measurement: it should be next to none.
    """
    begun, used, ours, all_of_it = time.perf_counter(), running.process.cpu_seconds(), our_seconds(running), busy_seconds()
    found = wrk(running.port, path, **load)
    used, ours, all_of_it = running.process.cpu_seconds() - used, our_seconds(running) - ours, busy_seconds() - all_of_it
    seconds = time.perf_counter() - begun                    # a little more than wrk counts: it starts and ends
    return {"rate": found["requests"] / found["microseconds"] * 1e6, "p50_ms": found["p50"] / 1000, "p99_ms": found["p99"] / 1000,
            "cpu_us": used / found["requests"] * 1e6, "busy": used / seconds / running.server.cores,
            "others": max(0.0, (all_of_it - used - ours) / seconds)}


def our_seconds(running: Running) -> float:
    """CPU time of the load and of the upstream so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return running.upstream.process.cpu_seconds() + time.process_time() + children.ru_utime + children.ru_stime
