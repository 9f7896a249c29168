"""What the views of the page Runtime look at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.records import DeviceReport, Profile, RankReport, TraceModule, TraceReport
from workbench import tree


@dataclass(frozen=True)
class Subject:
    """One trace file of a report, and the study's profile where the run is our own.

    `divisor` is the number of steps where times are shown for the mean step, else 1.
    """

    report: TraceReport
    rank: RankReport
    profile: Profile | None = None
    divisor: int = 1

    @property
    def name(self) -> str:
        """What it is called on the page."""
        return self.profile.study.model.name if self.profile else self.report.name

    @property
    def steps(self) -> int:
        """How many steps the trace marks; 1 where it marks none."""
        return max(1, len(self.rank.steps))

    @property
    def step_ms(self) -> float:
        """The mean step; the whole span where no step is marked."""
        steps = self.rank.steps
        return sum(each.time_ms for each in steps) / len(steps) if steps else self.rank.span_ms

    @property
    def has_device(self) -> bool:
        """Whether an accelerator took part."""
        return bool(self.rank.devices or self.rank.kernels)

    @property
    def devices(self) -> tuple[DeviceReport, ...]:
        """The accelerators of this rank."""
        return self.rank.devices

    @property
    def per(self) -> str:
        """Of what the shown times are, for captions and axes."""
        if self.steps == 1:
            return "one run" if self.profile else "the whole trace"
        return "a mean step" if self.divisor > 1 else f"all {self.steps} steps"

    def module_name(self, module: TraceModule) -> str:
        """Its path; what is looked at, for the whole model."""
        return self.name if tree.is_root(module) else module.name

    def file_name(self, what: str) -> str:
        """The name of a download: `resnet50-operators.csv`."""
        stem = re.sub(r"[^\w.-]+", "-", self.name).strip("-")[:60] or "trace"
        rank = f"-rank{self.rank.rank}" if len(self.report.ranks) > 1 else ""
        return f"{stem}{rank}-{what}.csv"


def rank_label(rank: RankReport, index: int) -> str:
    """What a rank is called in lists."""
    if rank.rank is not None:
        return f"Rank {rank.rank}"
    return rank.worker or f"File {index + 1}"
