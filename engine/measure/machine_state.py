"""What about the machine makes figures doubtful; no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import psutil

from engine.records import Study

_BUSY_SHARE = 0.5


def warnings_about(study: Study, threads: Sequence[int | None]) -> list[str]:
    """Reasons to doubt the figures, one line each."""
    found = []
    cores = os.cpu_count() or 1
    asked = max((each for each in threads if each is not None), default=0)
    if asked > cores:
        found.append(f"{asked} threads on {cores} cores: they wait for each other.")
    load = os.getloadavg()[0]
    if load > _BUSY_SHARE * cores:
        found.append(f"The machine was busy when this began: load {load:.1f} on {cores} cores.")
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is not None and not battery.power_plugged:
        found.append("The machine runs on battery: its clock may drop at any time.")
    return found
