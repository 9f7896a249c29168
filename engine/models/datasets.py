"""Quality data of an opened model: the file that was named, its own, or else fidelity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import DataError
from engine.models.data_files import DataFile, Row, read_data_file
from engine.models.examples import (
    array_examples,
    check_examples,
    text_examples,
    window_example,
    windows_of,
)
from engine.models.quality import Example, QualityData
from engine.models.source import Loaded
from engine.models.splitting import split
from engine.models.workloads import sizes_of
from engine.program import Inputs, token_ids
from engine.records import QualitySpec, Workload

FIDELITY_CALIBRATION = 8
FIDELITY_EVALUATION = 16
FIDELITY_PROMPT = 8
CALIBRATION = 64
EVALUATION_WINDOWS = 64
EVALUATION_ROWS = 512
METRICS = ("perplexity", "accuracy", "macro_f1")


def quality_for(loaded: Loaded, spec: QualitySpec, workload: Workload) -> QualityData:
    """Calibration and evaluation data for this model and workload.

    Raises:
        DataError: the file cannot be used, or nothing is left to evaluate on.
    """
    if spec.limit is not None and spec.limit < 1:
        raise DataError(f"The number of examples must be at least 1, got {spec.limit}.")
    if spec.path is not None:
        return from_file(loaded, spec)
    data = loaded.make_quality()
    if data is None or (data.metric == "fidelity" and not data.evaluation):
        return fidelity(loaded, workload, prompts=data.prompts if data else [])
    if not data.evaluation:
        raise DataError(f"{loaded.name} brings quality data without evaluation examples.")
    if spec.limit is not None:
        data.evaluation = data.evaluation[: spec.limit]
    return data


def from_file(loaded: Loaded, spec: QualitySpec) -> QualityData:
    """Quality data from a text, a table or arrays.

    Perplexity where there is text without labels; accuracy, or macro F1 where that is asked, with
    labels; fidelity for arrays without labels. At most 64 windows or 512 rows are evaluated on
    unless `limit` says otherwise.

    Raises:
        DataError: the file or its content does not fit the model or the metric.
    """
    path = Path(str(spec.path))
    file = read_data_file(path)
    labelled = file.rows[0].label is not None
    metric = _metric(spec, file, labelled, path.name)
    rows = windows_of(loaded, file.rows, path.name) if metric == "perplexity" else file.rows
    most = spec.limit or (EVALUATION_WINDOWS if metric == "perplexity" else EVALUATION_ROWS)
    parts = split(rows, calibration=CALIBRATION, evaluation=most)
    sides = [_examples(loaded, file, part, metric, path.name, rows) for part in parts]
    check_examples(loaded, [*sides[1], *sides[0]], path.name)
    return QualityData(
        metric, sides[0], sides[1], higher_is_better=metric in {"accuracy", "macro_f1"}
    )


def _metric(spec: QualitySpec, file: DataFile, labelled: bool, owner: str) -> str:
    if spec.metric is not None and spec.metric not in METRICS:
        raise DataError(f"The metric must be one of {', '.join(METRICS)}, got {spec.metric!r}.")
    if file.kind == "prose" or (file.kind == "texts" and not labelled):
        possible = ["perplexity"]
    else:
        possible = ["accuracy", "macro_f1"] if labelled else ["fidelity"]
    metric = spec.metric or possible[0]
    if metric not in possible:
        raise DataError(f"{owner} cannot give {metric}.", hint=f"It gives {' or '.join(possible)}.")
    return metric


def _examples(
    loaded: Loaded, file: DataFile, part: list[Row], metric: str, owner: str, every: list[Row]
) -> list[Example]:
    if metric == "perplexity":
        return [window_example(loaded, row) for row in part]
    if not part:
        return []
    if file.kind == "texts":
        return text_examples(loaded, part, owner, every)
    return array_examples(loaded, part, every)


def fidelity(loaded: Loaded, workload: Workload, *, prompts: list[Tensor]) -> QualityData:
    """Random inputs by seed, without labels: a variant is held against the baseline itself."""
    sizes = sizes_of(workload)
    if "batch" in loaded.axes:
        sizes = dataclasses.replace(sizes, batch=1)
    made: list[Inputs] = []
    for index in range(FIDELITY_CALIBRATION + FIDELITY_EVALUATION):
        seed = workload.seed + 1 + index
        inputs = loaded.make_inputs(dataclasses.replace(sizes, seed=seed))
        if made and _are_equal(inputs, made[0]):  # example inputs that do not follow the seed
            inputs = _varied(inputs, loaded.vocabulary, seed)
        made.append(inputs)
    examples = [Example(each) for each in made]
    if not prompts and loaded.decoder is not None:
        prompts = [token_ids(each) for each in made[FIDELITY_CALIBRATION:] if _has_ids(each)]
        prompts = [each[:, : workload.prompt_tokens or FIDELITY_PROMPT] for each in prompts]
    return QualityData(
        "fidelity",
        examples[:FIDELITY_CALIBRATION],
        examples[FIDELITY_CALIBRATION:],
        prompts=prompts,
    )


def _tensors(inputs: Inputs) -> list[Any]:
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


def _has_ids(inputs: Inputs) -> bool:
    return "input_ids" in inputs if isinstance(inputs, dict) else True


def _are_equal(one: Inputs, other: Inputs) -> bool:
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(
        torch.equal(left, right)
        for left, right in pairs
        if isinstance(left, Tensor) and isinstance(right, Tensor)
    )


def _varied(inputs: Inputs, vocabulary: int | None, seed: int) -> Inputs:
    """Other values of the same kind: normal with the same mean and spread, ids in their range."""
    generator = torch.Generator().manual_seed(seed)

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.bool or not value.numel():
            return value
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator).to(value.dtype)
            spread = float(value.float().std()) if value.numel() > 1 else 0.0
            return value.mean() + noise * (spread or 1.0)
        highest = vocabulary if value.dim() == 2 and vocabulary else int(value.max()) + 1
        return torch.randint(highest, value.shape, generator=generator).to(value.dtype)

    if isinstance(inputs, dict):
        return {name: value if "mask" in name else other(value) for name, value in inputs.items()}
    return tuple(other(value) for value in inputs)
