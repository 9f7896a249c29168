"""What was measured before and predictions may rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.optimize.rates import Rates
from engine.profile.machine import calibration_id
from engine.records import MachineRates, Pilot, Pilots, Profile
from engine.store import Store


@dataclass(frozen=True)
class Known:
    """Rates of this machine's products, and pilots of this study by recipe text."""

    rates: Rates | None = None
    pilots: Mapping[str, Pilot] = field(default_factory=dict)


def known_of(profile: Profile, store: Store) -> Known:
    """What the store holds for a profile; the pilots that failed are left out."""
    study = profile.study
    workload = study.workload
    device = workload.device or "cpu"
    kept = store.get("rates", calibration_id(study.machine, device), MachineRates)
    rates = Rates(kept.rates, threads=workload.threads, device=device) if kept else None
    tried = store.get("pilots", study.id, Pilots)
    pilots = {each.recipe: each for each in tried.pilots if not each.error} if tried else {}
    return Known(rates, pilots)
