"""What crosses the process boundary: frozen dataclasses that are JSON, without torch.

Names carry their unit. A time is in milliseconds and a size in bytes unless the name says
otherwise. `to_json` and `from_json` convert any record; unknown fields are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from engine.errors import InputError

WorkloadKind = Literal["forward", "generate", "train_step"]
VerdictWord = Literal["FASTER", "SLOWER", "EQUIVALENT", "INCONCLUSIVE", "BASELINE", "FAILED"]
RealnessWord = Literal["REAL", "PARTIAL", "SIMULATED", "NO-OP"]
JobState = Literal[
    "queued", "running", "done", "failed", "crashed", "out of memory", "timed out", "cancelled",
    "lost",
]  # fmt: skip
ENDED: frozenset[str] = frozenset(
    {"done", "failed", "crashed", "out of memory", "timed out", "cancelled", "lost"}
)
R = TypeVar("R")


def to_json(record: Any) -> bytes:
    """A record, or a tuple or dict of records, as UTF-8 JSON."""
    return msgspec.json.encode(record, enc_hook=_name_of_type)


def to_plain(record: Any) -> Any:
    """A record as dicts, lists and plain values; a type stands as its name."""
    return msgspec.to_builtins(record, enc_hook=_name_of_type)


def from_json(text: bytes | str, kind: type[R]) -> R:
    """A record of the given kind.

    Raises:
        InputError: text that is not JSON, or that does not fit the record.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"This is not a {kind.__name__} record: {error}.") from error


def from_plain(value: Any, kind: type[R]) -> R:
    """A record of the given kind from dicts, lists and plain values.

    Raises:
        InputError: a value that does not fit the record.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"This is not a {kind.__name__} record: {error}.") from error


def content_id(*parts: Any) -> str:
    """A short name for content: the first 16 hex digits of the SHA-256 of its canonical JSON."""
    encoded = msgspec.json.encode(parts, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


# ---- what is run -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """What is run and timed. A size that is None takes the model's own default."""

    kind: WorkloadKind = "forward"
    batch: int = 1
    sequence_length: int | None = None
    image_size: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    threads: int | None = None
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class WorkloadRequest:
    """What a person asked of the workload; None means that the model's default stands."""

    kind: WorkloadKind | None = None
    batch: int | None = None
    sequence_length: int | None = None
    image_size: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    threads: int | None = None
    device: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ModelReference:
    """Where a model comes from, as typed by a person or chosen in the app.

    `location` is a sample's name, a Hugging Face folder or hub id, `file.py:build`,
    `package.module:build`, or a file. `options` go to `build`. `weights` are loaded into what
    `build` returns.
    """

    location: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


@dataclass(frozen=True)
class QualitySpec:
    """Where quality data comes from: the model's own, a file, or nothing (then fidelity)."""

    path: str | None = None
    metric: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class StudyRequest:
    """What a person asks to have opened: model, workload, quality data and their trust."""

    reference: ModelReference
    workload: WorkloadRequest = field(default_factory=WorkloadRequest)
    quality: QualitySpec = field(default_factory=QualitySpec)
    trust: bool = False


@dataclass(frozen=True)
class Settings:
    """How much a comparison may take."""

    rounds: int = 30
    budget_seconds: float = 120.0
    quality_limit: int | None = None
    waterfall: bool = True


@dataclass(frozen=True)
class ModelSummary:
    """What is known of a model once it has been opened."""

    name: str
    source: str
    architecture: str
    task: str
    parameters: int
    parameter_bytes: int
    dtype: str
    content_hash: str
    workloads: tuple[WorkloadKind, ...] = ("forward",)
    vocabulary: int | None = None
    max_length: int | None = None
    keeps_cache: bool = False
    quality_metric: str | None = None
    quality_samples: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """One accelerator."""

    name: str
    memory_bytes: int
    capability: str = ""


@dataclass(frozen=True)
class Machine:
    """The machine that everything measured belongs to."""

    id: str
    name: str
    system: str
    cpu: str
    cores: int
    memory_bytes: int
    features: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A model, a workload, quality data and the machine."""

    id: str
    reference: ModelReference
    model: ModelSummary
    workload: Workload
    quality: QualitySpec
    machine: Machine
    created: float


# ---- what it costs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ModuleProfile:
    """One module for one run of the workload, with everything below it included.

    `moved_bytes` are the inputs, outputs and weights that its operators read and write once each.
    `arithmetic_intensity` is FLOPs per moved byte. Times are None where only counts were made.
    """

    name: str
    type: str
    parameters: int
    parameter_bytes: int
    flops: int
    moved_bytes: int
    activation_bytes: int
    arithmetic_intensity: float
    dtype: str
    calls: int
    time_ms: float | None = None
    self_time_ms: float | None = None
    file: str = ""


@dataclass(frozen=True)
class OperatorProfile:
    """One kind of call in one module: the unit that predictions are made of.

    `phase` is forward, prefill, decode, backward or optimizer; `module` is empty outside modules.
    `self_time_ms` is per run of the workload and excludes operators called by this one.
    """

    name: str
    module: str
    phase: str
    shapes: str
    dtype: str
    calls: int
    flops: int
    moved_bytes: int
    weight_bytes: int
    time_ms: float | None = None
    self_time_ms: float | None = None
    device_time_ms: float | None = None
    shape_note: str = ""


@dataclass(frozen=True)
class NotCounted:
    """An operator without a FLOP formula: listed, never counted as zero."""

    operator: str
    calls: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Totals:
    """The whole run of the workload."""

    parameters: int
    parameter_bytes: int
    flops: int
    moved_bytes: int
    time_ms: float | None = None


@dataclass(frozen=True)
class LatencySummary:
    """Raw samples of one run of the workload, and what is shown of them."""

    median: float
    p95: float
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class MemoryLedger:
    """What holds the memory at its peak, predicted or measured."""

    weights_bytes: int
    activations_bytes: int
    cache_bytes: int
    rest_bytes: int
    peak_tensor_bytes: int
    peak_process_bytes: int | None = None


@dataclass(frozen=True)
class UsageSample:
    """One look at the machine; GPU fields are None where there is none."""

    time_s: float
    cpu_percent: float
    process_bytes: int
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None


@dataclass(frozen=True)
class TimeShare:
    """A part of the step time: kernel, memcpy, communication, CPU, data loading, other."""

    name: str
    time_ms: float


@dataclass(frozen=True)
class Profile:
    """Static counts and, where it was run, the runtime trace of one study's workload.

    `facts` holds for each technique what its `inspect` found in the live model; checks, estimates
    and suggestions read them without torch. `trace_folder` opens in TensorBoard; `trace_file` is
    in it.
    """

    study: Study
    modules: tuple[ModuleProfile, ...]
    operators: tuple[OperatorProfile, ...]
    totals: Totals
    not_counted: tuple[NotCounted, ...]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency_ms: LatencySummary | None = None
    phases_ms: dict[str, float] = field(default_factory=dict)
    traced_time_ms: float | None = None
    outside_modules_ms: float | None = None
    step_breakdown: tuple[TimeShare, ...] = ()
    memory: MemoryLedger | None = None
    predicted_memory: MemoryLedger | None = None
    usage: tuple[UsageSample, ...] = ()
    trace_folder: str | None = None
    trace_file: str | None = None
    warnings: tuple[str, ...] = ()


# ---- what to do about it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A technique with its parameters; only what differs from the defaults need stand here."""

    technique: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Steps; the empty recipe is the baseline."""

    steps: tuple[Step, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Range:
    """A prediction or an interval; `low <= high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """What a recipe is expected to bring against the baseline: ratios above 1 are gains."""

    speedup: Range
    peak_memory_bytes: Range | None = None
    size_bytes: Range | None = None
    flops: int | None = None
    quality_risk: str = "none"
    basis: str = ""


@dataclass(frozen=True)
class Evidence:
    """A number that triggered a rule, and the modules in which it was found."""

    label: str
    value: float
    unit: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suggestion:
    """A step with its reason, evidence and predicted gain."""

    rule: str
    title: str
    summary: str
    steps: tuple[Step, ...]
    evidence: tuple[Evidence, ...]
    risk: str
    next_step: str
    theory: str
    prediction: Prediction | None = None
    blocked: tuple[str, ...] = ()


# ---- what came of it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Fingerprint:
    """What a program really holds and really runs, recorded by running it once."""

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


@dataclass(frozen=True)
class Realness:
    """Whether a step did what it says; `share` is the part of the work that it reached, 0 to 1."""

    verdict: RealnessWord
    detail: str
    share: float = 1.0


@dataclass(frozen=True)
class StepOutcome:
    """One step of a variant after it was built."""

    step: Step
    realness: Realness
    seconds: float
    notes: tuple[str, ...] = ()


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
class Quality:
    """The task's metric on evaluation data; `difference` is against the baseline, paired."""

    metric: str
    value: float
    samples: int
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


@dataclass(frozen=True)
class Fidelity:
    """How close outputs stay to the baseline's, without labels.

    `relative_error` is the 2-norm of the difference over the 2-norm of the baseline's outputs.
    `flips` counts top-1 answers that changed; with labels, `flips_to_wrong` and `flips_to_right`
    part them. Of the held-out `prompts`, `identical_prompts` are continued with the same tokens;
    `first_divergence` is the mean index of the first other token in the rest. On the baseline's own
    tokens the decoder's logits are off by `decoder_relative_error`.
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


@dataclass(frozen=True)
class VariantResult:
    """One variant of a comparison; the baseline comes first."""

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


# ---- jobs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands. Times are seconds since the epoch; progress is 0 to 1."""

    id: str
    verb: str
    title: str
    state: JobState
    stage: str = ""
    progress: float | None = None
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    expected_seconds: float | None = None
    study: str | None = None
    result: str | None = None
    error: ErrorRecord | None = None


def replace(record: R, **changes: Any) -> R:
    """A copy of a frozen record with some fields changed."""
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]


def _name_of_type(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    raise TypeError(f"A record holds plain values only, got {type(value).__name__}.")
