"""Quality data of an opened model: the file that was named, its own, or else fidelity."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch
from torch import Tensor

from engine.errors import DataError
from engine.models.file_data import from_file
from engine.models.quality import Example, QualityData
from engine.models.source import Loaded
from engine.models.workloads import sizes_of
from engine.program import Inputs, token_ids
from engine.records import QualitySpec, Workload

FIDELITY_CALIBRATION = 8
FIDELITY_EVALUATION = 16
FIDELITY_PROMPT = 8


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
    kept = apart(data.calibration, data.evaluation)
    if left := len(data.calibration) - len(kept):
        data.notes += (
            f"{left} of {len(data.calibration)} calibration examples share content with the"
            " evaluation and were left out.",
        )
    data.calibration = kept
    return data


def apart(calibration: list[Example], evaluation: list[Example]) -> list[Example]:
    """The calibration examples none of whose rows is among the evaluation's, by content."""
    seen = {each for example in evaluation for each in _row_hashes(example.inputs)}
    return [each for each in calibration if seen.isdisjoint(_row_hashes(each.inputs))]


def _row_hashes(inputs: Inputs) -> list[str]:
    """A hash for each row of a batch, over all tensors of the inputs."""
    values = inputs.values() if isinstance(inputs, dict) else inputs
    tensors = [each.detach().cpu() for each in values if isinstance(each, Tensor) and each.dim()]
    if not tensors or len({len(each) for each in tensors}) > 1:
        tensors = [each.unsqueeze(0) for each in tensors]
    rows = len(tensors[0]) if tensors else 0
    return [_hash([each[row] for each in tensors]) for row in range(rows)]


def _hash(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(repr((each.dtype, tuple(each.shape))).encode())
        digest.update(each.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
