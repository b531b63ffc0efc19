"""What is made of the numbers: a summary for the terminal, and docs/performance.md with its plots.

The page keeps what people wrote: only what stands between its two marks is written here. ``python -m bench.report FILE`` does
that from a result that is there already.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .cases import CASES, Case
from .machine import ROOT
from .plot import Bar, bars
from .servers import SERVERS
from .targets import TARGETS, middle, ratio, samples

PAGE = ROOT / "docs" / "performance.md"
PUBLISHED = ROOT / "docs" / "performance.json"
PLOTS = ROOT / "docs" / "performance"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = ("server", "requests/s", "lowest - highest", "p50, ms", "p99, ms", "CPU, µs/request", "its core busy", "Wicketgate to it")
QUIET = 0.1                                                  # cores that others may take before numbers say little
LIMITED = 0.9                                                # a server's core less busy than this was not what limited it


def publish(results: dict[str, Any]) -> None:
    """Write the page, the plots and the numbers themselves."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"bench: {PAGE} has not both {BEGIN} and {END}")
    PLOTS.mkdir(exist_ok=True)
    PUBLISHED.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text("\n".join([before + begin, "", *page(results), "", end + after]))
    print(f"written: {PAGE}, {PUBLISHED}, {PLOTS}")


def page(results: dict[str, Any]) -> list[str]:
    head = ("work", "against", "to reach", "measured", "single rounds", "")
    lines = ["## To reach", "", *table(head, verdicts(results), "lllrrl")]
    if results["failures"]:
        lines += ["", "## What does not count", ""]
        lines += [f"- {one_line(each)}" for each in results["failures"]]
    lines += ["", "## Each work"]
    for case in CASES.values():
        if case.name in results["samples"]:
            lines += ["", f"### {case.title[:1].upper()}{case.title[1:]}", "", *section(results, case)]
    lines += ["", "## Start and rest", "",
              "Seconds from the command to the first answer, and the memory of all its processes 0.3 seconds after it.", "",
              *table(("server", "start, s", "memory, MB"), starts(results), "lrr"),
              "", "## The machine, the versions, the commands", "", *surroundings(results)]
    return lines


def verdicts(results: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for target in TARGETS:
        found = ratio(results, target.value, target.other)
        if found is None:
            yield target.work, target.against, target.goal, "not measured", "", ""
        else:
            yield (target.work, target.against, target.goal, f"{found.value:.2f} x", f"{found.low:.2f} - {found.high:.2f}",
                   "reached" if target.reached(found.value) else "**missed**")


def section(results: dict[str, Any], case: Case) -> list[str]:
    if case.name == "idle":
        key = "bytes_each"
        return table(("server", "bytes for each", "lowest - highest"), (
            (SERVERS[name].title, f"{middle(results, case.name, name, key):,.0f}", spread(results, case, name, key))
            for name in ranked(results, case)), "lrr")
    if case.name == "bystanders":
        return bystanders(results, case)
    draw(results, case)
    lines = [f"![{plain(case)}](performance/{case.name}.svg)", "",
             *table(HEAD, rows(results, case), "lrrrrrrr")]
    spare = [name for name in ranked(results, case) if (middle(results, case.name, name, "busy") or 0) < LIMITED]
    if spare and not case.name.startswith(("slow", "workers")):
        names = "; ".join(SERVERS[name].title for name in spare)
        lines += ["", f"Not limited by its own core, but by that of the load generator and the upstream: {names}."]
    if case.name.startswith("workers"):
        lines += ["", workers_note(results, case)]
    return lines


def rows(results: dict[str, Any], case: Case) -> Iterable[tuple[str, ...]]:
    for name in ranked(results, case):
        def at(key: str) -> float:
            return middle(results, case.name, name, key) or 0.0

        own = ratio(results, (case.name, "gateway", "rate"), (case.name, name, "rate"))
        yield (SERVERS[name].title, f"{at('rate'):,.0f}", spread(results, case, name, "rate"), f"{at('p50_ms'):.1f}",
               f"{at('p99_ms'):.1f}", f"{at('cpu_us'):,.0f}", f"{at('busy'):.0%}",
               f"{own.value:.2f} x" if own is not None and not name.startswith("gateway") else "")


def workers_note(results: dict[str, Any], case: Case) -> str:
    one, two = (middle(results, case.name, name, "cpu_us") for name in ("gateway", "gateway-2-workers"))
    text = "The load generator and the upstream run on the second worker's core too, and take their share of it."
    if one and two:
        text += f" By CPU time for each request, two workers with the cores to themselves would do {2 * one / two:.2f} x one."
    return text


def bystanders(results: dict[str, Any], case: Case) -> list[str]:
    found = []
    for name in ranked(results, case):
        for what, before in (("alone", "alone_"), ("beside 500 that hang", "")):
            found.append((SERVERS[name].title, what, *(f"{middle(results, case.name, name, before + key):,.{digits}f}"
                                                       for key, digits in (("rate", 0), ("p50_ms", 2), ("p99_ms", 2)))))
    return table(("server", "", "requests/s", "p50, ms", "p99, ms"), found, "llrrr")


def starts(results: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, found in results["starts"].items():
        yield (SERVERS[name].title, f"{median(each['seconds'] for each in found):.2f}",
               f"{median(each['memory'] for each in found) / 1e6:.0f}")


def surroundings(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    lines = [f"[All numbers](performance.json). {results['began']}; {results['rounds']} rounds of {results['seconds']} s after "
             f"one second of warming. "
             f"{machine['cpu']}, {machine['cores']} cores{' of a virtual machine' if machine['virtual'] else ''}, "
             f"{machine['memory_gb']} GB, {machine['system']}, CPython {machine['python']}. The server on core "
             f"{machine['server_core']}, wrk (one thread) on core {machine['load_core']}, the upstream on core "
             f"{machine['upstream_core']}. Load of the machine before it began: {machine['load_before']:.2f}.", "",
             f"Cores busy with something else meanwhile, at most: {disturbance(results):.2f}.", "",
             ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".", "", "```"]
    return [*lines, *(f"{name}: {line}" for name, line in results["commands"].items()), "```"]


def disturbance(results: dict[str, Any]) -> float:
    return max((sample.get("others", 0.0) for servers in results["samples"].values() for found in servers.values()
                for sample in found), default=0.0)


def draw(results: dict[str, Any], case: Case) -> None:
    found = []
    for name in ranked(results, case):
        values = [sample["rate"] for sample in samples(results, case.name, name)]
        found.append(Bar(SERVERS[name].title, median(values), min(values), max(values), name.startswith("gateway")))
    (PLOTS / f"{case.name}.svg").write_text(bars(f"{plain(case)}: requests a second", found))


def ranked(results: dict[str, Any], case: Case) -> list[str]:
    """The servers that were measured, the best first."""
    key, sign = ("bytes_each", 1) if case.name == "idle" else ("rate", -1)
    return sorted(results["samples"][case.name], key=lambda name: sign * (middle(results, case.name, name, key) or 0))


def spread(results: dict[str, Any], case: Case, name: str, key: str) -> str:
    values = [sample[key] for sample in samples(results, case.name, name)]
    return f"{min(values):,.0f} - {max(values):,.0f}"


def plain(case: Case) -> str:
    return case.title.replace("`", "")


def table(head: Sequence[str], lines: Iterable[Sequence[str]], align: str) -> list[str]:
    marks = {"l": "---", "r": "---:"}
    rule = "|".join(marks[each] for each in align)
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)]


def one_line(failure: dict[str, Any]) -> str:
    return f"round {failure['round']}, {failure['case']}, {failure['server']}: {' '.join(failure['why'].split())[:300]}"


def summary(results: dict[str, Any]) -> str:
    """For the terminal: what was reached, and what does not count."""
    lines = [f"{work:38} {against:40} {goal:16} {measured:>12} {single:>14}  {verdict.strip('*')}"
             for work, against, goal, measured, single, verdict in verdicts(results)]
    lines += [f"DOES NOT COUNT: {one_line(each)}" for each in results["failures"]]
    if (others := disturbance(results)) > QUIET:
        lines.append(f"Something else took up to {others:.2f} cores meanwhile: measure again on a quiet machine.")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("python -m bench.report FILE: write docs/performance.md from a result in bench/results")
    publish(json.loads(Path(sys.argv[1]).read_text()))
