"""What a model's weights look like: one tensor after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WeightHistogram:
    """Counts of finite values in equal bins from `low` to `high`; the last bin holds `high` too."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class WeightRank:
    """How many directions a matrix [rows, columns] really uses, from its singular values s.

    `stable` is sum(s^2) / max(s)^2. `entropy` is exp of the entropy of s / sum(s). `energy_90` and
    `energy_99` are how many of the largest singular values hold that share of sum(s^2). `full` is
    min(rows, columns). Exact by all of them, else estimated by `computed` steps of `method`. Of a
    stack of matrices one is looked at: `matrix` is its index, -1 for a plain matrix.
    """

    rows: int
    columns: int
    full: int
    stable: float
    entropy: float
    energy_90: int | None
    energy_99: int | None
    computed: int
    method: str
    is_exact: bool = True
    matrix: int = -1


@dataclass(frozen=True)
class RoundingError:
    """Relative error |W - rounded(W)| / |W| (2-norms) of plain rounding to the nearest level.

    `int8_tensor`: one scale for all; `int8_channel`: one for each row (output channel);
    `int4_group`: one for `group_size` neighbours of a row. `advice` is what they say, in words.
    """

    int8_tensor: float
    int8_channel: float
    int4_group: float
    group_size: int
    advice: str = ""


@dataclass(frozen=True)
class TensorStatistics:
    """One parameter, buffer or packed weight.

    Statistics are of finite values and None where there are none to look at (no elements, meta).
    `zeros` are exact; `near_zeros` are within 1e-3 of the largest magnitude, zeros included;
    `pattern_2_4` is the share of groups of four neighbours in a row with two zeros at least.
    `outlier_share` lies beyond `outlier_sigmas` standard deviations; `max_over_std` is the largest
    distance from the mean in them; `channel_outlier_ratio` is the largest over the median of the
    largest magnitudes of each row. All shares are 0 to 1. `tied_with` share its storage,
    `duplicate_of` holds the same values in storage of its own. `skipped` says why figures are
    missing.
    """

    name: str
    module: str
    module_type: str
    kind: Literal["parameter", "buffer", "packed"]
    shape: tuple[int, ...]
    dtype: str
    elements: int
    size_bytes: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    histogram: WeightHistogram | None = None
    zeros: int | None = None
    near_zeros: int | None = None
    pattern_2_4: float | None = None
    outlier_share: float | None = None
    outlier_sigmas: float = 6.0
    max_over_std: float | None = None
    channel_outlier_ratio: float | None = None
    nan_count: int = 0
    inf_count: int = 0
    rank: WeightRank | None = None
    rounding: RoundingError | None = None
    tied_with: tuple[str, ...] = ()
    duplicate_of: str | None = None
    skipped: str = ""


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that are one and the same, or equal in content; `size_bytes` of one of them."""

    kind: Literal["tied", "duplicated"]
    names: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class WeightStatistics:
    """Every tensor that a model holds, in the model's order.

    `held_bytes` counts shared storage once; `duplicated_bytes` could be saved by sharing.
    `zero_share` is over all looked-at elements. `is_meta`: there are shapes only.
    """

    study: str
    model: str
    tensors: tuple[TensorStatistics, ...]
    groups: tuple[TensorGroup, ...]
    held_bytes: int
    duplicated_bytes: int
    elements: int
    zero_share: float | None
    created: float
    seconds: float
    is_meta: bool = False
    warnings: tuple[str, ...] = ()
