"""The clock of the bus: processes agree upon one, whenever they begin and whatever becomes of the machine's own."""

from __future__ import annotations

import pytest

from gateway.bus.clock import BOOT, BusClock, offset_of


@pytest.mark.parametrize("written", [
    "", "nonsense", "nonsense 1", "{boot} nan", "{boot} inf", "{boot}", "{boot} " + "9" * 1000, "\0" * 8])
def test_a_damaged_agreement_is_made_anew(tmp_path, written):
    clock, path = BusClock(), tmp_path / "clock"
    path.write_text(written.format(boot=BOOT.read_text().strip()))
    before = clock.now()
    clock.agree(path)
    assert 0 <= clock.now() - before < 60 and offset_of(path, BOOT.read_text().strip()) == clock.offset


def test_processes_agree_whenever_they_begin(tmp_path):
    early, late = BusClock(lambda: 1e9), BusClock(lambda: 1e9 + 3600.0)
    agreed = early.offset
    early.agree(tmp_path / "clock")
    assert early.offset == agreed != late.offset
    late.agree(tmp_path / "clock")
    assert late.offset == agreed and late.ahead() - early.ahead() == pytest.approx(3600.0, abs=60.0)
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


def test_the_own_clock_of_the_machine_may_step(tmp_path):
    wall = [1e9]
    clock = BusClock(lambda: wall[0])
    before = clock.now()
    wall[0] += 86400.0
    assert 0 <= clock.now() - before < 3600 and 82800 < clock.ahead() <= 86400


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path, caplog):
    BusClock().agree(tmp_path / "no" / "clock")
    assert "cannot agree" in caplog.text
