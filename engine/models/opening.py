"""Opens a model: finds its source, fills in the workload, makes inputs and quality data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from engine.discovery import discover
from engine.errors import InputError, ModelError
from engine.models.catalog import sample_names
from engine.models.checking import check_weights_finite
from engine.models.datasets import quality_for
from engine.models.opened import OpenedModel
from engine.models.padding import padded
from engine.models.probing import device_of, fails_on, one_line, reads_values
from engine.models.quality import QualityData
from engine.models.source import Loaded, Opening, Source
from engine.models.weights import load_weights
from engine.models.workloads import kinds_of, sizes_of, workload_for
from engine.program import ExecutionContext, Inputs, Program, to_device
from engine.records import (
    ModelReference,
    ModelSummary,
    QualitySpec,
    Workload,
    WorkloadRequest,
    content_id,
)

_TAKE_WEIGHTS = {"python", "sample"}


def open_model(
    reference: ModelReference,
    request: WorkloadRequest = WorkloadRequest(),  # noqa: B008 - frozen
    quality: QualitySpec = QualitySpec(),  # noqa: B008 - frozen
    *,
    is_trusted: Callable[[str], bool] = lambda content_hash: False,
    meta: bool = False,
) -> OpenedModel:
    """The live model with its workload, its inputs and its quality data.

    Args:
        reference: where it comes from.
        request: what was asked of the workload; the model's defaults stand for the rest.
        quality: where quality data comes from; the model's own where it names no file.
        is_trusted: whether the person trusts code of that content hash.
        meta: shapes only, on the meta device: no weights are read and there is no quality data.

    Raises:
        UntrustedCode: it can run code; `detail` is the hash to trust.
        UnsafeFile, WeightsMismatch, ModelError: it cannot be opened.
        InputError: a workload that it cannot run.
        DataError: quality data that cannot be used.
    """
    source = source_of(reference)
    loaded = source.open(reference, Opening(is_trusted, meta))
    meta = meta or not loaded.has_weights
    if reference.weights is not None:
        _put_weights(loaded, Path(reference.weights), meta=meta)
    if not meta:
        check_weights_finite(loaded.module)
    workload = workload_for(loaded, request)
    inputs = padded(loaded.module, loaded.make_inputs(sizes_of(workload)), workload)
    _check_call(loaded, inputs, workload)
    data = QualityData("fidelity") if meta else quality_for(loaded, quality, workload)
    device = "meta" if meta else workload.device
    return OpenedModel(
        reference=reference,
        summary=summary_of(loaded, data),
        program=Program(
            module=loaded.module.to(device),
            decoder=loaded.decoder,
            context=ExecutionContext(
                gradients=workload.kind != "generate" or loaded.generates_with_gradients,
                threads=workload.threads,
                device=device,
            ),
            loss=loaded.loss,
        ),
        workload=workload,
        inputs=to_device(inputs, device),
        quality=data,
        tokenizer=loaded.tokenizer,
        extra=_extra(loaded, workload, inputs),
    )


def source_of(reference: ModelReference) -> Source:
    """The source that the location belongs to.

    Raises:
        ModelError: no source knows such a location.
    """
    if not reference.location.strip():
        raise ModelError("No model was named.", hint=f"Samples: {', '.join(sample_names())}.")
    for kind in discover("engine.models.sources").values():
        source: Source = kind()
        if source.matches(reference):
            return source
    if Path(reference.location).expanduser().exists():
        raise ModelError(
            f"{reference.location} is not of a kind that can be opened here.",
            hint="Open a Hugging Face folder, file.py:build, .pt2 or TorchScript.",
        )
    raise ModelError(
        f"There is no model {reference.location!r}.",
        hint=f"Give a sample ({', '.join(sample_names())}), a folder, or file.py:build.",
    )


def _put_weights(loaded: Loaded, path: Path, *, meta: bool) -> None:
    if loaded.source not in _TAKE_WEIGHTS:
        raise InputError(
            f"{loaded.name} brings its own weights, and {path.name} was given beside it.",
            hint="Weights go with file.py:build, package.module:build or a sample.",
        )
    digest = load_weights(loaded.module, path, meta=meta)
    loaded.content_hash = content_id(loaded.content_hash, digest)


def summary_of(loaded: Loaded, data: QualityData) -> ModelSummary:
    """What is known of the model."""
    parameters = list(loaded.module.parameters())
    sizes: dict[str, int] = {}
    for each in parameters:
        name = str(each.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + each.numel() * each.element_size()
    return ModelSummary(
        name=loaded.name,
        source=loaded.source,
        architecture=_architecture(loaded.module),
        task=loaded.task,
        parameters=sum(each.numel() for each in parameters),
        parameter_bytes=sum(sizes.values()),
        dtype=max(sizes, key=lambda name: sizes[name]) if sizes else "float32",
        content_hash=loaded.content_hash,
        workloads=kinds_of(loaded),
        vocabulary=loaded.vocabulary,
        max_length=loaded.max_length,
        keeps_cache=loaded.decoder is not None and loaded.decoder.keeps_cache,
        quality_metric=data.metric,
        quality_samples=_samples(data),
        notes=(*loaded.notes, *data.notes),
        has_weights=loaded.has_weights,
    )


def _samples(data: QualityData) -> int:
    """Evaluated items: rows of the labels, or examples where there are none."""
    return sum(1 if each.labels is None else len(each.labels) for each in data.evaluation)


def _architecture(module: nn.Module) -> str:
    return str(getattr(module, "original_name", None) or type(module).__name__)


def _check_call(loaded: Loaded, inputs: Inputs, workload: Workload) -> None:
    """One call on the inputs works, else the shapes do not fit the model."""
    error = fails_on(loaded.module, inputs)
    if error is None or (device_of(loaded.module) == "meta" and reads_values(error)):
        return
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        raise InputError(
            f"{loaded.name} does not fit in memory with this workload: {one_line(error)}.",
            hint="Ask for a smaller batch or a shorter sequence.",
        ) from error
    asked = sizes_of(workload)
    sizes = [
        f"{axis} {getattr(asked, axis)}"
        for axis in ("batch", "sequence_length", "image_size")
        if axis in loaded.axes and getattr(asked, axis) is not None
    ]
    raise InputError(
        f"{loaded.name} cannot be called with {', '.join(sizes) or 'its inputs'}: "
        f"{one_line(error)}.",
        hint="Choose sizes that the model takes, or correct its example_inputs().",
    ) from error


def _extra(loaded: Loaded, workload: Workload, inputs: Inputs) -> dict[str, object]:
    extra = {"axes": sorted(loaded.axes), "make_inputs": loaded.make_inputs, **loaded.extra}
    if workload.kind == "train_step" and loaded.labels is not None:
        with_labels = loaded.labels(inputs, workload.seed)
        extra["labels"] = with_labels
    return extra
