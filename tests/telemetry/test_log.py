"""The request log: what a line holds, and a writer that never makes a request wait."""

import json
import os
import re
import resource
import select
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from gateway.deadline import Deadline
from gateway.errors import ConfigError, InternalError, NoRoute, UpstreamTimeout
from gateway.message import Attempt, Request
from gateway.telemetry.log import BATCH, LONGEST_TEXT, RequestLog, log_line, pieces, timestamp
from gateway.telemetry.metrics import Registry
from tests.waiting import until


@pytest.fixture
def dropped():
    return Registry().counter("dropped_total", "")


def lost(counter):
    return counter.values[counter.index]


@pytest.fixture
def log_to(dropped):
    """``log_to(path)`` is a RequestLog that is stopped at the end."""
    logs = []

    def make(destination, **settings):
        logs.append(RequestLog(str(destination), dropped, **settings))
        return logs[-1]

    yield make
    for log in logs:
        log.stop()


def request(**values):
    made = Request("GET", "/users/7?token=secret", [("Authorization", "Bearer secret"), ("Cookie", "sid=secret")],
                   host="shop.test", peer="10.0.0.9", deadline=Deadline(1))
    made.id = "0af7651916cd43dd8448eb211c80319c"
    for name, value in values.items():
        setattr(made, name, value)
    return made


def record(made, **values):
    settings = {"now": 1700000000.25, "route": "/users/{id}", "target": "upstream", "status": 200, "size": 42, "seconds": 0.0123456,
                "flag": "-", **values}
    line = log_line(made, **settings)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()
    return json.loads(line)


def test_line_of_a_request_that_went_well():
    assert record(request()) == {
        "time": "2023-11-14T22:13:20.250Z", "id": "0af7651916cd43dd8448eb211c80319c", "client": "10.0.0.9", "method": "GET",
        "host": "shop.test", "path": "/users/7", "route": "/users/{id}", "target": "upstream", "status": 200, "bytes": 42,
        "duration_ms": 12.345, "flag": "-"}


def test_line_of_a_request_that_failed():
    made, good, bad = request(), Attempt("users", "http://10.0.0.1:80"), Attempt("users", "http://10.0.0.2:80")
    good.status, good.seconds, bad.flag, bad.seconds = 200, 0.0015, "UT", 2.0
    made.attempts += [good, bad]
    made.notes["websocket"] = {"sent": 3}
    found = record(made, status=504, flag="UT", error=UpstreamTimeout("no head within 2 s", "users", "http://10.0.0.2:80"))
    assert found["attempts"] == [{"upstream": "users", "instance": "http://10.0.0.1:80", "ms": 1.5, "status": 200},
                                 {"upstream": "users", "instance": "http://10.0.0.2:80", "ms": 2000.0, "flag": "UT"}]
    assert (found["error"], found["detail"], found["flag"]) == ("upstream_timeout", "no head within 2 s", "UT")
    assert found["notes"] == {"websocket": {"sent": 3}}


def test_every_field_is_documented():
    made = request()
    made.attempts.append(Attempt("users", "a:1"))
    made.notes["x"] = 1
    text = (Path(__file__).parents[2] / "docs" / "observe.md").read_text()
    rows = [row.split(" | ")[0] for row in text.partition("| field |")[2].partition("**Not in it**")[0].splitlines()]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(record(made, error=NoRoute("x")))


def test_cause_of_a_defect_is_its_detail():
    error = InternalError()
    error.__cause__ = KeyError("price")
    assert record(request(), status=500, flag="IE", error=error)["detail"] == "KeyError: 'price'"


def test_no_secret_is_in_a_line():
    line = log_line(request(), now=0.0, route="r", target="view", status=200, size=0, seconds=0.0, flag="-")
    assert b"secret" not in line and b"token" not in line


@pytest.mark.parametrize("text", ['/a"b', "/a\\b", "/a\nb", "/a\r\n{}", "/a\x1b[31m", "/\x9b31m", "/\x85", "/\u2028", "/\xff\xfe",
                                  "/\x00", "/\udcff", "/\ud800x"])
def test_nothing_a_client_sends_breaks_a_line(text):
    assert record(request(path=text, host=text[1:]))["path"] == text


@pytest.mark.parametrize("name", ["path", "host"])
@pytest.mark.parametrize("size, logged", [(LONGEST_TEXT, LONGEST_TEXT), (LONGEST_TEXT + 1, LONGEST_TEXT + 3),
                                          (60000, LONGEST_TEXT + 3)])
def test_long_texts_are_cut(name, size, logged):
    assert len(record(request(**{name: "x" * size}))[name]) == logged


@pytest.mark.parametrize("notes", [{"at": object}, {1: "one"}, {"text": "\ud800"}, {("a", "b"): 1, "c": 2}])
def test_notes_that_are_not_json_do_not_break_a_line(notes):
    assert "notes" in record(request(notes=notes))


@pytest.mark.parametrize("now, text", [
    (0.0, "1970-01-01T00:00:00.000Z"), (0.0019, "1970-01-01T00:00:00.001Z"), (951782400.5, "2000-02-29T00:00:00.500Z"),
    (1700000000.9999, "2023-11-14T22:13:20.999Z"), (1700000001.0, "2023-11-14T22:13:21.000Z")])
def test_timestamp(now, text):
    assert timestamp(now) == text


def test_lines_arrive_in_order_and_in_few_writes(tmp_path, log_to):
    log = log_to(tmp_path / "log")
    lines = [b'{"n":%d}\n' % n for n in range(1000)]
    for line in lines:
        log.write(line)
    assert log.flush()
    assert (tmp_path / "log").read_bytes() == b"".join(lines)


def test_lines_are_written_many_at_a_time(tmp_path, log_to):
    """Also when the loop turns after each of them."""
    written: list[int] = []

    def write_all(fd: int, data: bytes) -> None:
        written.append(data.count(b"\n"))

    log = log_to(tmp_path / "log", interval=3600, write=write_all)
    for _ in range(3):                                   # from rest, and just after a writing
        for number in range(50):
            log.write(b"%d\n" % number)
            gevent.sleep(0)
        assert log.flush()
    assert written == [50, 50, 50]


def test_a_line_as_long_as_many_is_written_and_so_are_those_after_it(tmp_path, log_to):
    log = log_to(tmp_path / "log")
    for line in (b"x" * BATCH + b"\n", b"1\n", b"2\n"):
        log.write(line)
    assert log.flush()
    log.write(b"3\n")
    assert log.flush()
    assert (tmp_path / "log").read_bytes()[BATCH:] == b"\n1\n2\n3\n"


def test_flush_with_nothing_to_write(tmp_path, log_to):
    assert log_to(tmp_path / "log").flush()
    assert log_to("off").flush()


def test_nothing_runs_before_the_first_line(tmp_path, log_to):
    log = log_to(tmp_path / "log")
    assert log._writer is None
    log.write(b"a\n")
    assert log._writer is not None


def test_lines_after_a_rest_and_by_their_own_time(tmp_path, log_to):
    """Without flush the writer comes by itself, again and again."""
    log, path = log_to(tmp_path / "log"), tmp_path / "log"
    for count in range(1, 4):
        log.write(b"x\n")
        until(lambda: path.read_bytes() == b"x\n" * count)


def test_several_logs_share_a_file(tmp_path, log_to):
    first, second = log_to(tmp_path / "log"), log_to(tmp_path / "log")
    for number in range(200):
        first.write(b"first %d\n" % number)
        second.write(b"second %d\n" % number)
        if number % 50 == 0:
            first.flush()
            second.flush()
    first.flush()
    second.flush()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert sorted(lines) == sorted([b"first %d" % n for n in range(200)] + [b"second %d" % n for n in range(200)])


def test_reopen_after_a_rotation(tmp_path, log_to):
    log, path = log_to(tmp_path / "log"), tmp_path / "log"
    log.write(b"old\n")
    log.flush()
    path.rename(tmp_path / "log.1")
    log.write(b"still old\n")
    log.flush()
    log.reopen()
    log.write(b"new\n")
    log.flush()
    assert (tmp_path / "log.1").read_bytes() == b"old\nstill old\n"
    assert path.read_bytes() == b"new\n"


def test_reopen_that_fails_keeps_the_open_file(tmp_path, log_to, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = log_to(folder / "log")
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.write(b"a\n")
    log.flush()
    assert (tmp_path / "moved" / "log").read_bytes() == b"a\n"
    assert "going on with the file that is open" in caplog.text


def test_file_that_cannot_be_opened_is_a_mistake_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="gateway: log: cannot open .*No such file"):
        RequestLog(str(tmp_path / "absent" / "log"))


@pytest.mark.parametrize("destination, enabled", [("off", False), ("stdout", True), ("stderr", True)])
def test_destinations_without_a_file(destination, enabled, log_to):
    log = log_to(destination)
    assert log.enabled is enabled
    assert repr(log) == f"RequestLog({destination}, 0 bytes wait)"
    log.reopen()


def test_lines_that_do_not_fit_the_disk_are_counted_and_the_log_goes_on(tmp_path, log_to, dropped, caplog):
    """The kernel's limit on the size of files stands for the full disk: one write is cut, the next ones fail."""
    log, path = log_to(tmp_path / "log"), tmp_path / "log"
    log.write(b"fits\n")
    log.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))
    try:
        log.write(b"so far and no further\n")
        log.write(b"lost\n")
        log.flush()
        assert lost(dropped) == 2
        log.write(b"lost, too\n")
        log.flush()
        assert lost(dropped) == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.write(b"after\n")
    log.flush()
    assert path.read_bytes() == b"fits\nso far \nafter\n", "the next line begins on its own line"
    assert lost(dropped) == 3
    assert caplog.text.count("lines are lost") == 1 and caplog.text.count("works again") == 1


HUNG = """
import os, sys
from gevent import monkey
monkey.patch_all()
import gevent
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry
dropped = Registry().counter("dropped_total", "")
log = RequestLog("stdout", dropped, limit=100_000)
turns = 0
def turn():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.001)
gevent.spawn(turn)
line = b"x" * 99 + b"\\n"
for _ in range(20):
    for _ in range(1000):
        log.write(line)
    gevent.sleep(0.01)
before = turns
written = log.flush(0.1)
print(written, turns > before, int(dropped.values[dropped.index]) > 10000, file=sys.stderr, flush=True)
log.stop(0.1)
"""


def test_pipe_that_nobody_reads_stops_only_the_log():
    """The pipe takes 64 KB; then the writer hangs, requests go on, lines are dropped, and the process can end."""
    with subprocess.Popen([sys.executable, "-c", HUNG], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with gevent.Timeout(30):
            assert process.stderr.read() == b"False True True\n"
            assert process.wait() == 0
        assert set(process.stdout.read().splitlines()) == {b"x" * 99}


def test_writes_to_a_pipe_are_whole_lines_of_at_most_what_a_pipe_keeps_together():
    read_end, write_end = os.pipe()
    lines = [b"x" * size + b"\n" for size in (10, 4000, 100, 5000, 1, 1)]
    found = list(pieces(lines, write_end))
    assert b"".join(piece for _, piece in found) == b"".join(lines)
    assert [count for count, _ in found] == [1, 1, 1, 1, 2] or sum(count for count, _ in found) == len(lines)
    assert all(piece.endswith(b"\n") and (len(piece) <= select.PIPE_BUF or count == 1) for count, piece in found)
    os.close(read_end)
    os.close(write_end)


def test_writes_to_a_file_are_one(tmp_path):
    with open(tmp_path / "log", "wb") as file:
        assert list(pieces([b"x" * BATCH, b"\n"], file.fileno())) == [(2, b"x" * BATCH + b"\n")]


def test_pipe_set_non_blocking_by_somebody_else_loses_nothing(log_to, dropped):
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    log = log_to(f"/proc/self/fd/{write_end}")
    os.set_blocking(log._fd, False)
    lines = [b"%06d" % number + b"x" * 93 + b"\n" for number in range(2000)]
    for line in lines:
        log.write(line)
    os.close(write_end)
    received = b""
    with gevent.Timeout(30), os.fdopen(read_end, "rb") as file:
        while len(received) < 200_000:
            received += gevent.get_hub().threadpool.apply(file.read1, (65536,))
    assert received == b"".join(lines)
    assert log.flush() and lost(dropped) == 0


def test_lines_after_the_stop_are_dropped_and_counted(tmp_path, log_to, dropped):
    log = log_to(tmp_path / "log")
    log.write(b"a\n")
    log.stop()
    log.write(b"b\n")
    assert (tmp_path / "log").read_bytes() == b"a\n"
    assert lost(dropped) == 1
    log.stop()


def test_default_counter_is_that_of_the_process():
    from gateway.telemetry.metrics import registry
    assert RequestLog("off").drops is registry.counter("gateway_log_dropped_total", "")


def test_error_without_detail_or_cause():
    assert record(request(), error=NoRoute(), status=404, flag="NR")["detail"] == ""
