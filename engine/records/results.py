"""What came of it: variants, comparisons, artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.records.advice import Prediction, RecipeForecast, Step
from engine.records.costs import LatencySummary
from engine.records.running import Study, Workload

VerdictWord = Literal["FASTER", "SLOWER", "EQUIVALENT", "INCONCLUSIVE", "BASELINE", "FAILED"]
QualityWord = Literal["BETTER", "WORSE", "EQUIVALENT", "INCONCLUSIVE"]
RealnessWord = Literal["REAL", "PARTIAL", "SIMULATED", "NO-OP"]


@dataclass(frozen=True)
class Fingerprint:
    """What a program really holds and really runs, recorded by running it once.

    `stored_bytes` is what an export writes of the weights where they are compressed; 0 for as held.
    `weights` has for each parameter how many numbers it holds and their 2-norm.
    `channels_last_calls` counts convolutions whose outputs lay with the channels last.
    `zeros` counts the zero entries of parameters that are here.
    `operators` are those that the profiler saw, inside of compiled graphs too. Where FLOPs could
    not be counted, or only in part, `flops_not_counted` says why; empty where all are.
    """

    parameters: int
    bytes_held: int
    dtype_bytes: dict[str, int]
    operators: dict[str, int]
    flops: int
    low_precision_flops_share: float
    gradients: bool
    keeps_cache: bool
    threads: int | None
    devices: tuple[str, ...]
    runtime: str
    stored_bytes: int = 0
    weights: dict[str, tuple[int, float]] = field(default_factory=dict)
    channels_last_calls: int = 0
    zeros: int = 0
    flops_not_counted: str = ""


@dataclass(frozen=True)
class Realness:
    """Whether a step did what it says; `share` is the part of the work that it reached, 0 to 1."""

    verdict: RealnessWord
    detail: str
    share: float = 1.0


@dataclass(frozen=True)
class TrainingCurve:
    """The loss of a training: after so many steps, the mean since the point before."""

    steps: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class StepOutcome:
    """One step of a variant after it was built; `curve` where it trained."""

    step: Step
    realness: Realness
    seconds: float
    notes: tuple[str, ...] = ()
    curve: TrainingCurve | None = None


@dataclass(frozen=True)
class ErrorRecord:
    """An error as it crosses a process."""

    kind: str
    message: str
    hint: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Interval:
    """A ratio to the baseline with its 95 % interval; above 1 is faster."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told; `support` counts its evaluation examples.

    `precision` is None where the class is never said, `recall` and `f1` where it never occurs.
    """

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Confusion:
    """How often a class (row) was taken for another (column), in the order of `classes`."""

    classes: tuple[ClassScore, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Quality:
    """The task's metric on evaluation data; `difference` is against the baseline, paired.

    `also` has further metrics of the same examples, `confusion` the answers of a classifier.
    `verdict` is the word that its interval deserves against `margin`, which is in the metric's own
    unit; None for the baseline itself. INCONCLUSIVE goes with the `samples_needed` in all that
    would tell; None where no number within reason would, or one sample says nothing of a spread.
    """

    metric: str
    value: float
    samples: int
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    also: tuple[Quality, ...] = ()
    confusion: Confusion | None = None
    verdict: QualityWord | None = None
    margin: float | None = None
    samples_needed: int | None = None


@dataclass(frozen=True)
class Fidelity:
    """How close outputs stay to the baseline's, without labels.

    `relative_error` is the 2-norm of the difference over the 2-norm of the baseline's outputs.
    `flips` counts top-1 answers that changed; with labels, `flips_to_wrong` and `flips_to_right`
    part them. Of the held-out `prompts`, `identical_prompts` are continued with the same tokens;
    `first_divergence` is the mean index of the first other token in the rest. On the baseline's own
    tokens the decoder's logits are off by `decoder_relative_error`. `top5_agreement` is the mean
    share of the baseline's five likeliest answers that are among the variant's. `sqnr_db` is the
    signal-to-noise ratio of the outputs, None where they are equal. `edit_distance` is the mean
    number of tokens to insert, delete or replace between two continuations. `mcnemar_p` is
    the chance of flips as unlike as these, to wrong and to right, if both were equally likely.
    """

    relative_error: float
    top1_agreement: float | None = None
    kl_divergence: float | None = None
    flips: int | None = None
    flips_to_wrong: int | None = None
    flips_to_right: int | None = None
    first_divergence: float | None = None
    samples: int = 0
    prompts: int | None = None
    identical_prompts: int | None = None
    decoder_relative_error: float | None = None
    top5_agreement: float | None = None
    sqnr_db: float | None = None
    edit_distance: float | None = None
    mcnemar_p: float | None = None


@dataclass(frozen=True)
class VariantResult:
    """One variant of a comparison; the baseline comes first.

    A variant that was trained has a control beside it: the whole model, trained with the same
    parameters. `control_of` names the variants that a control belongs to; `against_control` is the
    quality of a trained variant, its difference taken against its control.
    """

    name: str
    recipe: str
    latency_ms: LatencySummary | None
    speedup: Interval | None
    verdict: VerdictWord
    flops: int | None
    peak_tensor_bytes: int | None
    peak_process_bytes: int | None
    size_bytes: int | None
    quality: Quality | None
    fidelity: Fidelity | None = None
    throughput_per_s: float | None = None
    throughput_unit: str = "samples/s"
    ttft_ms: float | None = None
    time_per_token_ms: float | None = None
    build_seconds: float | None = None
    compile_seconds: float | None = None
    prediction: Prediction | None = None
    steps: tuple[StepOutcome, ...] = ()
    texts: tuple[str, ...] = ()
    error: ErrorRecord | None = None
    load_seconds: float | None = None
    stored_bytes: int | None = None
    build_forecast: RecipeForecast | None = None
    peak_build_bytes: int | None = None
    control_of: tuple[str, ...] = ()
    against_control: Quality | None = None


@dataclass(frozen=True)
class WaterfallStep:
    """What one more step of a recipe bought, measured in the same interleaved run.

    `speedup` and `verdict` are against the step before; the first row is the baseline.
    """

    label: str
    latency_ms: float
    speedup: Interval | None
    verdict: VerdictWord
    recipe: str = ""


@dataclass(frozen=True)
class Comparison:
    """Variants against the baseline in one interleaved run."""

    id: str
    study: Study
    variants: tuple[VariantResult, ...]
    noise_floor: Interval | None
    rounds: int
    method: str
    created: float
    seconds: float
    waterfall: tuple[WaterfallStep, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CertificateCheck:
    """One claim of a certificate and whether it held."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Certificate:
    """The proof that goes with an artifact."""

    format: str
    verdict: Literal["PASSED", "FAILED"]
    max_relative_error: float
    checks: tuple[CertificateCheck, ...]
    recipe: str
    model: str
    workload: Workload
    versions: dict[str, str]
    hashes: dict[str, str]
    latency_ms: dict[str, float]
    notes: tuple[str, ...]
    machine: str
    created: float


@dataclass(frozen=True)
class Artifact:
    """An exported variant."""

    path: str
    format: str
    verdict: Literal["PASSED", "FAILED"]
    max_relative_error: float
    size_bytes: int
    certificate: Certificate
    study: str = ""
