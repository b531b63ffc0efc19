"""The clock of the bus: processes agree upon one, whenever they begin and whatever becomes of the machine's own."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from gateway.bus import clock


@pytest.fixture
def machine(monkeypatch):
    """``machine.step(seconds)`` sets its clock; ``machine.restart(again)`` is what a new process takes for the time."""
    machine = SimpleNamespace(set=0.0)
    fake = SimpleNamespace(time=lambda: time.time() + machine.set, clock_gettime=time.clock_gettime)
    monkeypatch.setattr(clock, "time", fake)
    monkeypatch.setattr(clock, "_offset", clock._offset)

    def step(seconds):
        machine.set += seconds

    def forget():
        monkeypatch.setattr(clock, "_offset", fake.time() - time.clock_gettime(clock.STEADY))

    machine.step, machine.forget = step, forget
    return machine


@pytest.mark.parametrize("written", [
    "", "nonsense", "nonsense 1", "{boot} nan", "{boot} inf", "{boot}", "{boot} " + "9" * 1000, "\0" * 8])
def test_a_damaged_agreement_is_made_anew(tmp_path, machine, written):
    path = tmp_path / "clock"
    path.write_text(written.format(boot=clock.BOOT.read_text().strip()))
    before = clock.now()
    clock.agree(path)
    assert 0 <= clock.now() - before < 60 and clock.offset_of(path, clock.BOOT.read_text().strip()) == clock._offset


def test_processes_agree_whenever_they_begin(tmp_path, machine):
    clock.agree(tmp_path / "clock")
    agreed = clock._offset
    machine.step(3600.0)
    machine.forget()
    assert clock._offset != agreed
    clock.agree(tmp_path / "clock")
    assert clock._offset == agreed and abs(clock.ahead() - 3600) < 1
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path, machine, caplog):
    clock.agree(tmp_path / "no" / "clock")
    assert "cannot agree" in caplog.text
