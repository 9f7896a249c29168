"""Quality data for an opened model: the file that was named, else the model's own, else fidelity."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import DataError
from engine.models.quality import Example, QualityData
from engine.models.source import Loaded
from engine.models.workloads import sizes_of
from engine.records import QualitySpec, Workload

FIDELITY_CALIBRATION = 8
FIDELITY_EVALUATION = 16


def quality_for(loaded: Loaded, spec: QualitySpec, workload: Workload) -> QualityData:
    """Calibration and evaluation data for this model and workload.

    Raises:
        DataError: the file cannot be used, or nothing is left to evaluate on.
    """
    if spec.path is not None:
        raise DataError("Quality data from a file is not supported yet.")
    data = loaded.make_quality()
    if data is None:
        return fidelity(loaded, workload, prompts=[])
    if data.metric == "fidelity" and not data.evaluation:
        return fidelity(loaded, workload, prompts=data.prompts)
    if not data.evaluation:
        raise DataError(f"{loaded.name} brings quality data without evaluation examples.")
    if spec.limit is not None:
        data.evaluation = data.evaluation[: max(1, spec.limit)]
    return data


def fidelity(loaded: Loaded, workload: Workload, *, prompts: list[Tensor]) -> QualityData:
    """Random inputs by seed, without labels: what a variant is held against is the baseline itself."""
    sizes = sizes_of(workload)
    count = FIDELITY_CALIBRATION + FIDELITY_EVALUATION
    made = [
        Example(loaded.make_inputs(type(sizes)(
            batch=1 if "batch" in loaded.axes else sizes.batch,
            sequence_length=sizes.sequence_length,
            image_size=sizes.image_size,
            seed=workload.seed + 1 + index,
        )))
        for index in range(count)
    ]  # fmt: skip
    if not prompts and loaded.decoder is not None and loaded.vocabulary:
        generator = torch.Generator().manual_seed(workload.seed + 1)
        length = workload.prompt_tokens or min(8, loaded.max_length or 8)
        prompts = [
            torch.randint(loaded.vocabulary, (1, length), generator=generator)
            for _ in range(FIDELITY_EVALUATION)
        ]
    return QualityData(
        "fidelity", made[:FIDELITY_CALIBRATION], made[FIDELITY_CALIBRATION:], prompts=prompts
    )
