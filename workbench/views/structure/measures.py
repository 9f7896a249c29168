"""What a module can be measured by: the amounts that map, table and details show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.records import ModuleProfile, Profile
from workbench.quantities import bytes_text, count_text, ms_text


@dataclass(frozen=True)
class Measure:
    """One amount of a module, for one run of the workload."""

    label: str
    amount: Callable[[ModuleProfile], float]
    words: Callable[[float], str]


_COUNTED = (
    Measure("FLOPs", lambda each: each.flops, lambda value: count_text(value, "FLOP")),
    Measure("Moved bytes", lambda each: each.moved_bytes, bytes_text),
    Measure("Weights", lambda each: each.parameter_bytes, bytes_text),
    Measure("Activations", lambda each: each.activation_bytes, bytes_text),
)
_TIME = Measure("Time", lambda each: each.time_ms or 0.0, ms_text)


def measures(profile: Profile) -> dict[str, Measure]:
    """The measures of a profile by their labels; time where it was run, first."""
    timed = (_TIME,) if any(each.time_ms for each in profile.modules) else ()
    return {each.label: each for each in (*timed, *_COUNTED)}
