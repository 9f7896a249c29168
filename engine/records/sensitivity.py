"""Which layer hurts: what changing one layer alone, or a mix of them, costs and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.records.advice import Range, Step

DamageKind = Literal["kl_divergence", "relative_error"]


@dataclass(frozen=True)
class OutlierStatistics:
    """How far a few values stand out of the others.

    `max_over_rms` is the largest magnitude over the root mean square; `share` is of the values
    beyond `sigmas` standard deviations from the mean, 0 to 1; `channels` are the input features (of
    weights: the output channels) that hold them, those with most first, ten at most, and
    `channel_count` is how many there are of `of_channels`. `values` were looked at.
    """

    max_over_rms: float
    share: float
    channels: tuple[int, ...] = ()
    channel_count: int = 0
    of_channels: int = 0
    values: int = 0
    sigmas: float = 6.0


@dataclass(frozen=True)
class SensitiveLayer:
    """A Linear or convolution layer; one that is used in several places stands once.

    `tied_with` are the modules that hold the same weight. `inputs` are of the activations that come
    in on calibration data; None where no example reached it.
    """

    name: str
    type: str
    parameters: int
    size_bytes: int
    tied_with: tuple[str, ...] = ()
    weights: OutlierStatistics | None = None
    inputs: OutlierStatistics | None = None


@dataclass(frozen=True)
class SensitivityCell:
    """What one scheme does to one layer alone; all others are as they were.

    `step` is the technique with its parameters, without `exclude`; `layers` are those that it
    changes (a pruned feed-forward is two). `damage` is in the unit of `Sensitivity.damage_kind`,
    `metric_change` after minus before. `saved_bytes` are held less, as measured, and negative where
    a tied weight is kept beside its copy; `saved_ms` is estimated from the profile's operators,
    None without a profile. `reason` says why there is no damage: it cannot be done, or broke the
    model.
    """

    layer: str
    scheme: str
    step: Step | None
    layers: tuple[str, ...] = ()
    damage: float | None = None
    relative_error: float | None = None
    metric_change: float | None = None
    saved_bytes: int | None = None
    saved_ms: Range | None = None
    seconds: float = 0.0
    reason: str = ""
    is_broken: bool = False


@dataclass(frozen=True)
class SensitivityScheme:
    """One column of the map: its name, what it does, and the steps that do it."""

    name: str
    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Sensitivity:
    """The map of a study: layers by schemes, measured on calibration data.

    `examples` calibration examples were used; 0 means the workload's own inputs, since there is no
    calibration data. `baseline` is the metric there, None without labels. `missing` cells are not
    measured yet; `forecast_seconds` is what they would take. `seconds` is what the cells took.
    """

    study: str
    model: str
    schemes: tuple[SensitivityScheme, ...]
    layers: tuple[SensitiveLayer, ...]
    cells: tuple[SensitivityCell, ...]
    damage_kind: DamageKind
    examples: int
    created: float
    metric: str = ""
    baseline: float | None = None
    higher_is_better: bool = True
    missing: int = 0
    forecast_seconds: float = 0.0
    seconds: float = 0.0
    run_seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MixPoint:
    """The best mix for one limit: damages added up, and what they save together."""

    damage: float
    saving: float


@dataclass(frozen=True)
class Mix:
    """A scheme, or none, for each layer, and the recipe that does it.

    `chosen` pairs layers with schemes. `damage` is the sum of single damages. `front` are all best
    mixes, from no change on: no other has as much saving at as little damage.
    """

    recipe: str
    chosen: tuple[tuple[str, str], ...]
    damage: float
    saved_bytes: int
    saved_ms: Range | None
    front: tuple[MixPoint, ...] = ()


@dataclass(frozen=True)
class MixCheck:
    """Whether the sum of single damages told the damage of the whole recipe, on the same data."""

    study: str
    recipe: str
    predicted: float
    measured: float | None
    damage_kind: DamageKind
    predicted_bytes: int
    measured_bytes: int | None
    metric_change: float | None
    examples: int
    created: float
    reason: str = ""
    notes: tuple[str, ...] = ()
