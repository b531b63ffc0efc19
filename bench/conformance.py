"""How the cache does in the public suite of HTTP caches, https://github.com/http-tests/cache-tests.

``python -m bench.conformance FOLDER``: a checkout of the suite after its own ``npm install``; node is needed. It runs as it is,
against a gateway with one cached route to the suite's origin, and takes a minute. Said are the numbers for each kind of test, and
what each of the others got. A test counts when it passes and so do those that it depends on, as the suite says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .machine import Failed, Process, command, cores, free_port

CONFIG = """
[upstreams.origin]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "origin"
cache = {{ share_cookies = {share_cookies} }}
"""
LIST = "import('./tests/index.mjs').then(suites => console.log(JSON.stringify(suites.default)))"
SECONDS = 300
KINDS = {"required": "required", "optimal": "optional", "check": "behaviour, neither right nor wrong"}


def main() -> None:
    options = parsed()
    suites, results = run(options.folder.resolve(), not options.no_cookies)
    tests = {test["id"]: test for suite in suites for test in suite["tests"] if not test.get("browser_only")}
    for kind, title in KINDS.items():
        these = [test for test in tests.values() if test.get("kind", "required") == kind]
        passed = [test["id"] for test in these if counts(test["id"], tests, results)]
        print(f"{len(passed):4} of {len(these):4}  {title}")
        for test in these if kind != "check" else ():
            if test["id"] not in passed:
                print(f"              {test['id']}: {said(results.get(test['id']))}")


def counts(name: str, tests: dict[str, Any], results: dict[str, Any]) -> bool:
    """A test that is not there is one of browsers."""
    return name not in tests or results.get(name) is True and all(
        counts(other, tests, results) for other in tests[name].get("depends_on", ()))


def said(result: Any) -> str:
    return " ".join(map(str, result)) if isinstance(result, list) else "what it depends on failed" if result else "not run"


def run(folder: Path, share_cookies: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The suite's tests, and the result of each by its id: True, or a list that says what is wrong. Raises Failed."""
    engine = folder / "test-engine" if (folder / "test-engine").is_dir() else folder         # until 2024 it was at the top
    node, on = command("node"), [cores().server, cores().load]
    suites = json.loads(subprocess.run([node, "-e", LIST], cwd=folder, check=True, capture_output=True).stdout)
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        place, origin, port = Path(name), free_port(), free_port()
        (place / "gateway.toml").write_text(CONFIG.format(port=origin, share_cookies=str(share_cookies).lower()))
        served = {"npm_config_protocol": "http", "npm_config_port": str(origin), "npm_config_pidfile": str(place / "pid")}
        gateway = {"GATEWAY_CONFIG": str(place / "gateway.toml"), "GATEWAY_BIND": f"127.0.0.1:{port}", "GATEWAY_WORKERS": "1",
                   "GATEWAY_LOG": str(place / "requests.log"), "GATEWAY_ADMIN": f"127.0.0.1:{free_port()}",
                   "GATEWAY_RUN_DIR": str(place)}
        asking = {**os.environ, "npm_config_base": f"http://127.0.0.1:{port}", "npm_config_id": "", "npm_package_config_id": ""}
        behind = [command("env"), "-C", str(folder), node, str(engine / "server" / "server.mjs")]
        ours = [command("gunicorn"), "-c", "gunicorn.conf.py", "wsgi:application"]
        with Process(behind, on, place / "origin", served), Process(ours, on, place / "gateway", gateway) as process:
            process.wait_until_it_answers(port, "/")
            asked = subprocess.run([node, "--no-warnings", str(engine / "cli.mjs")], cwd=folder, env=asking, capture_output=True,
                                   timeout=SECONDS)
        if asked.returncode:
            raise Failed(f"the suite ended with {asked.returncode}: {asked.stderr.decode()[-1000:]}")
    return suites, json.loads(asked.stdout)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description="Run the public suite of HTTP caches.")
    parser.add_argument("folder", type=Path, help="a checkout of http-tests/cache-tests, after npm install")
    parser.add_argument("--no-cookies", action="store_true", help="with the default: answers with Set-Cookie are not shared")
    return parser.parse_args()


if __name__ == "__main__":
    main()
