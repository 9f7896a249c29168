"""The page Runtime: its views by name."""

from __future__ import annotations

from collections.abc import Callable

from workbench.views.runtime import (
    communication,
    drawn,
    figures,
    file,
    gpu,
    kernels,
    modules,
    operators,
    over_time,
    overview,
    side_by_side,
)
from workbench.views.runtime.subject import Subject

VIEWS: dict[str, Callable[[Subject], None]] = {
    "Overview": overview.show,
    "Operators": operators.show,
    "Kernels": kernels.show,
    "Modules": modules.show,
    "Flame graph": drawn.show_flame,
    "Timeline": drawn.show_timeline,
    "GPU": gpu.show,
    "Communication": communication.show,
    "Over time": over_time.show,
    "Side by side": side_by_side.show,
    "File": file.show,
}


def top(subject: Subject) -> None:
    """The figures above every view."""
    if subject.profile is not None:
        figures.of_study(subject.profile)
    else:
        figures.of_trace(subject)
