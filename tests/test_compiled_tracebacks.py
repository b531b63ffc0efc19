"""What shows where the program is: tracebacks, stacks and what reads them, on both builds.

A compiled function has no frame while it runs. When an error passes through it, mypyc adds an entry to the traceback, with file,
function and line, on a frame made for that: without local variables, and without a caller.
"""

from __future__ import annotations

import faulthandler
import gc
import linecache
import os
import subprocess
import sys
import traceback
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from sentry_sdk.utils import event_from_exception

from gateway.errors import ConnectFailed, PartFailed
from gateway.message import Response
from tests.aggregate.composing import answer_of, built, parts, request
from tests.compiled import COMPILED
from tests.waiting import SAFETY

ROOT = Path(__file__).parent.parent
WAY = [                                                  # of an error of ``send`` through compiled modules
    ("aggregate/target.py", "__call__", "run.all(self.first)"),
    ("aggregate/composition.py", "all", "raise self._error"),
    ("aggregate/composition.py", "_follow", "ready = self.settle(ready[0])"),
    ("aggregate/composition.py", "settle", "response = self.send(part.upstream, call)"),
]


def composed(send):
    return built(parts(a="a:/", b="b:/"), send)


def broken(upstream, call):
    raise ZeroDivisionError("of the test")


@pytest.fixture
def error():
    with pytest.raises(ZeroDivisionError) as raised:
        composed(broken)(request())
    return raised.value


def test_a_traceback_has_every_function_with_its_file_and_line(error):
    entries = [(entry.filename.rpartition("gateway/")[2], entry.name, linecache.getline(entry.filename, entry.lineno).strip())
               for entry in traceback.extract_tb(error.__traceback__) if "/tests/" not in entry.filename]
    assert entries == WAY


@pytest.mark.parametrize("answer, cause, hidden", [
    (b"{", None, "Unusable"), (ConnectFailed("refused"), "ConnectFailed", "ConnectFailed")])
def test_an_error_has_its_cause_and_hides_its_context(answer, cause, hidden):
    with pytest.raises(PartFailed) as raised:
        composed(lambda upstream, call: answer_of(answer))(request())
    error = raised.value
    assert (error.__cause__ and type(error.__cause__).__name__) == cause
    assert error.__suppress_context__ and type(error.__context__).__name__ == hidden


def test_every_frame_of_a_traceback_can_be_walked_and_collected(error):
    """Debuggers, pytest and error reporters look at all of this; a made frame has less, and what it has is whole."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        ours = frame.f_globals["__name__"].startswith("gateway.")
        assert frame.f_code.co_name and list(frame.f_code.co_positions()) and line
        assert frame.f_builtins and frame.f_lasti is not None
        if ours and COMPILED:
            assert (frame.f_locals, frame.f_back) == ({}, None)
        elif ours:
            assert "self" in frame.f_locals and frame.f_back is not None
    gc.collect()


def test_an_error_reporter_gets_the_places_and_the_variables_where_there_are_any(error):
    event, _ = event_from_exception(error, client_options=None)
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    ours = [frame for frame in frames if frame["module"].startswith("gateway.")]
    assert [(frame["function"], frame["context_line"].strip()) for frame in ours] == [(name, line) for _, name, line in WAY]
    assert {"self" in frame.get("vars", {}) for frame in ours} == {not COMPILED}
    assert frames[-1]["function"] == "broken" and "upstream" in frames[-1]["vars"]


@pytest.mark.parametrize("folder", [ROOT, None])
def test_the_log_has_file_and_line_and_the_text_of_the_line_where_the_source_is_found(tmp_path, folder):
    """The file names of a compiled build are relative: the text of their lines shows where the process was started above them."""
    code = """
import logging
from gateway.headers import edit_of
try:
    edit_of(7)
except AttributeError:
    logging.exception("of the test")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=folder or tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, timeout=60)
    place, text = run.stderr.split("gateway/headers.py")[1].splitlines()[:2]
    source = (ROOT / "gateway/headers.py").read_text().splitlines()
    number = next(number for number, line in enumerate(source, 1) if "return Edit(rules) if" in line)
    assert place == f'", line {number}, in edit_of'
    assert (text.strip() == source[number - 1].strip()) == (not COMPILED or folder is not None)


def test_a_stack_has_the_interpreted_functions_and_compiled_ones_only_on_the_pure_build(tmp_path):
    """``traceback.print_stack``, ``faulthandler`` at a crash or a hang, a sampling profiler: they read what frames there are."""
    stacks = []

    def send(upstream, call):
        stacks.append([entry.name for entry in traceback.extract_stack()])
        with open(tmp_path / "stack", "w") as file:
            faulthandler.dump_traceback(file, all_threads=False)
        return answer_of(1)

    built(parts(a="a:/"), send)(request())
    written = (tmp_path / "stack").read_text()
    here = "test_a_stack_has_the_interpreted_functions_and_compiled_ones_only_on_the_pure_build"
    assert stacks[0][-1] == "send" and here in stacks[0]
    assert " in send\n" in written and f" in {here}\n" in written
    assert ("settle" in stacks[0]) == (" in settle\n" in written) == (not COMPILED)


def test_the_stack_of_a_parked_greenlet_has_the_interpreted_functions():
    free = Event()

    def parked(upstream, call):
        free.wait(SAFETY)
        return answer_of(1)

    greenlet = gevent.spawn(built(parts(a="a:/"), parked), request())
    gevent.idle()
    names = [entry.name for entry in traceback.extract_stack(greenlet.gr_frame)]
    free.set()
    assert isinstance(greenlet.get(timeout=SAFETY), Response)
    assert "parked" in names
    assert ("settle" in names) == (not COMPILED)
