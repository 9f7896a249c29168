"""What is run: a model, its workload, quality data and the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

WorkloadKind = Literal["forward", "generate", "train_step"]


@dataclass(frozen=True)
class Workload:
    """What is run and timed. A size that is None takes the model's own default.

    `padding_percent` is the share of a batch's tokens that is padding behind shorter rows.
    """

    kind: WorkloadKind = "forward"
    batch: int = 1
    sequence_length: int | None = None
    image_size: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    threads: int | None = None
    device: str = "cpu"
    seed: int = 0
    padding_percent: int | None = None


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
    padding_percent: int | None = None


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
    """Where quality data comes from: the model's own, a file, or nothing (then fidelity).

    `columns` says which columns of a table (or arrays of a file) are what, by their role: "text",
    "second", "label" or "group"; those that are not named are found by their usual names.
    """

    path: str | None = None
    metric: str | None = None
    limit: int | None = None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataColumn:
    """A column of a table or an array of a file; `role` is what it is taken for, empty for none.

    `kind` is "text", "number", "class", "vector" or "missing", from the first rows.
    """

    name: str
    kind: str
    role: str = ""


@dataclass(frozen=True)
class DataPreview:
    """The beginning of a file of quality data, and what could be measured on it.

    `kind` is "prose", "texts", "numbers", "arrays" or "images"; `rows` has the first rows as
    texts, by column; `metrics` are possible with the columns as they are; `problem` says which
    field is wrong, empty where none is. `tokens` counts each shown row's tokens where the model's
    tokenizer is known.
    """

    path: str
    kind: str
    columns: tuple[DataColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    metrics: tuple[str, ...]
    problem: str = ""
    hint: str = ""
    tokens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyRequest:
    """What a person asks to have opened: model, workload, quality data and their trust."""

    reference: ModelReference
    workload: WorkloadRequest = field(default_factory=WorkloadRequest)
    quality: QualitySpec = field(default_factory=QualitySpec)
    trust: bool = False


@dataclass(frozen=True)
class Settings:
    """How much a comparison may take.

    Each variant is timed in `processes` processes of its own where memory and time allow: where
    things lie in memory differs from one to the next. A difference in quality counts beyond
    `quality_margin`, a share of the baseline's value (of a metric that is a share: points of it).
    """

    rounds: int = 30
    budget_seconds: float = 120.0
    quality_limit: int | None = None
    waterfall: bool = True
    processes: int = 4
    quality_margin: float = 0.01


@dataclass(frozen=True)
class ModelSummary:
    """What is known of a model once it has been opened.

    Without weights (`has_weights` is False) there are shapes: it can be counted, not run.
    """

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
    has_weights: bool = True


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
