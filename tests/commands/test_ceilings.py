"""The measured ceilings as text."""

from __future__ import annotations

import dataclasses

from engine.commands.ceilings_text import calibration_text, ceilings_line
from engine.commands.showing import doctor_text
from engine.doctor import examine
from engine.store import Store
from tests.profile.test_roofline import bandwidth, calibration


def test_every_thread_count_has_its_column() -> None:
    found = dataclasses.replace(calibration(), skipped=("float16: too slow",))
    lines = calibration_text(found).splitlines()
    assert any(line.split()[-2:] == ["1", "thread"] or "2 threads" in line for line in lines)
    row = next(line for line in lines if line.startswith("float32 aten::mm") and "512" in line)
    assert row.split()[-4:] == ["100", "GFLOP/s", "200", "GFLOP/s"]
    assert any(line.startswith("aten::add") and "2.00 us" in line for line in lines)
    assert "not measured: float16: too slow" in lines


def test_doctor_shows_the_best_of_what_was_measured(store: Store) -> None:
    assert "workbench calibrate" in doctor_text(examine(store))
    kept = dataclasses.replace(
        calibration(), id=f"{examine(store).machine.id}-cpu",
        bandwidths=(bandwidth("L2", 2, 100), bandwidth("memory", 2, 20)),
    )  # fmt: skip
    store.put("calibration", kept.id, kept)
    assert "float32 200 GFLOP/s, int8 700 GFLOP/s, memory 20.0 GB/s" in doctor_text(examine(store))
    assert ceilings_line(kept) in doctor_text(examine(store))
