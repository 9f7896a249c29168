"""Requests: what a person types, as the record that opens it; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.records import (
    ModelReference,
    QualitySpec,
    Study,
    StudyRequest,
    WorkloadRequest,
    to_plain,
)
from engine.store import Store


def request(
    model: Any,
    *,
    example_inputs: Any = None,
    options: dict[str, Any] | None = None,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    metric: str | None = None,
    data_columns: dict[str, str] | None = None,
    trust: bool = False,
    **workload: Any,
) -> StudyRequest:
    """A request from what a person types.

    Args:
        model: a sample's name, a folder or hub id, `file.py:build`, a file, or a live
        `torch.nn.Module`.
        example_inputs: positional (tuple) or named (dict) inputs of a live module.
        options: arguments of `build`.
        weights: a .safetensors or .pt file to load into what `build` returns.
        data: a file of quality data; the model's own where it has any, else fidelity.
        metric: the metric of that file, where it could mean several.
        data_columns: which column of that file is what, by role: text, second, label, group, input.
        trust: the person trusts the code of this model; remembered by content hash.
        **workload: fields of `WorkloadRequest`.

    Raises:
        InputError: an unknown workload field, or a live module without example inputs.
    """
    unknown = set(workload) - set(WorkloadRequest.__dataclass_fields__)
    if unknown:
        raise InputError(f"A workload has no field {sorted(unknown)[0]!r}.")
    if not isinstance(model, str | Path):
        if example_inputs is None:
            raise InputError(
                "A live module needs example_inputs.", hint="Pass a tuple or a dict of tensors."
            )
        from engine.models.sources.live import freeze

        model = freeze(model, example_inputs, store=Store())
    return StudyRequest(
        ModelReference(str(model), dict(options or {}), str(weights) if weights else None),
        WorkloadRequest(**workload),
        QualitySpec(str(data) if data else None, metric, columns=dict(data_columns or {})),
        trust,
    )


def request_of(study: Study) -> StudyRequest:
    """The request that opens a stored study again."""
    return StudyRequest(study.reference, WorkloadRequest(**to_plain(study.workload)), study.quality)
