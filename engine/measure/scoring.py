"""Everything that the quality of one variant needs, written into its folder."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from engine.measure.built import Built
from engine.measure.channel import Message
from engine.measure.damaging import write_damage
from engine.measure.generating import Continuations, continue_prompts, through_decoder
from engine.measure.quality import Evaluation, Predict, evaluate, scoring_program
from engine.measure.reference import Reference
from engine.measure.scores import Scores
from engine.models.metrics import family_of
from engine.models.quality import Example
from engine.program import logits_of

_INCONSISTENT = 0.05  # int8 with one scale a tensor differs by less between a prompt and a step


def score(
    built: Built, folder: str, reference: str, *, is_baseline: bool, limit: int | None, prompts: int
) -> Message:
    """Scores a variant; the arrays go into `folder`, texts and notes come back.

    Where the decoder's logits are not those of the full forward, the metric is taken through the
    decoder: that is what a generation runs.

    Args:
        built: the variant.
        folder: its own.
        reference: the baseline's, with the outputs that it left.
        is_baseline: whether this is the baseline, which writes them.
        limit: evaluation examples at most; None for all.
        prompts: prompts at most.
    """
    torch.manual_seed(0)
    kept = built.quality.evaluation[:limit] or [Example(built.inputs)]
    quality = dataclasses.replace(built.quality, evaluation=kept)
    built = dataclasses.replace(built, quality=quality)
    continued = Continuations()
    if built.program.decoder is not None and built.workload.kind == "generate":
        continued = continue_prompts(built, Path(reference), is_baseline=is_baseline, limit=prompts)
    outputs = Reference(Path(reference), is_baseline, len(kept), _has_classes(built))
    found, notes = _evaluated(built, outputs, continued)
    scores = _scores(found, outputs, continued)
    scores.save(Path(folder))
    if not is_baseline:
        notes += _damaged(built, Path(folder), Path(reference), scores, found, outputs)
    return {"texts": continued.texts, "notes": notes}


def _damaged(
    built: Built,
    folder: Path,
    reference: Path,
    scores: Scores,
    found: Evaluation,
    outputs: Reference,
) -> list[str]:
    try:
        baseline = Scores.load(reference)
        write_damage(built, folder, scores=(baseline, scores), found=found, outputs=outputs)
    except Exception as error:  # inputs of a shape that nobody foresaw must not cost the figures
        return [f"its worst examples cannot be shown ({type(error).__name__}: {error})."]
    return []


def _evaluated(
    built: Built, outputs: Reference, continued: Continuations
) -> tuple[Evaluation, list[str]]:
    program, notes = scoring_program(built.program), []
    predict: Predict | None = None
    if continued.consistency > _INCONSISTENT:
        notes.append(
            f"its decoder's logits differ from its own full forward by {continued.consistency:.0%}:"
            " the quality is that of the decoder."
        )
        predict = functools.partial(through_decoder, program)
    found = evaluate(
        built.program, built.quality, built.workload, has_classes=built.has_classes,
        on_outputs=outputs.take, predict=predict,
    )  # fmt: skip
    return found, notes


def _has_classes(built: Built) -> bool:
    if built.has_classes is not None:
        return built.has_classes
    family = family_of(built.quality.metric)
    if family in ("numbers", "pairs", "vectors"):
        return False
    labelled = family is not None
    return labelled or built.program.decoder is not None or _is_row_of_classes(built)


def _is_row_of_classes(built: Built) -> bool:
    example = built.quality.evaluation[0]
    return logits_of(scoring_program(built.program).forward(example.inputs)).ndim == 2


def _scores(found: Evaluation, outputs: Reference, continued: Continuations) -> Scores:
    is_fidelity = not found.values
    calls = len(outputs.squared_baseline)
    forced = continued.forced
    return Scores(
        metric="relative_error" if is_fidelity else found.metric,
        higher_is_better=found.higher_is_better and not is_fidelity,
        values=_floats([0.0] * calls if is_fidelity else found.values),
        weights=_floats([1.0] * calls if is_fidelity else found.weights),
        predicted=_joined(found.predicted),
        labels=_joined(found.labels),
        squared_difference=_floats(outputs.squared_difference),
        squared_baseline=_floats(outputs.squared_baseline),
        divergence=_floats(outputs.divergence),
        compared=np.array(outputs.compared, dtype=np.int64),
        decoder_difference=_floats(forced.squared_difference if forced else []),
        decoder_baseline=_floats(forced.squared_baseline if forced else []),
        tokens=torch.cat(continued.tokens).numpy() if continued.tokens else _joined([]),
        consistency=continued.consistency,
        text_bytes=_floats(found.text_bytes),
        right_tokens=_floats(found.right_tokens),
        targets=_floats(found.targets),
        top5_shared=_floats(outputs.top5_shared),
        class_names=np.array(found.class_names, dtype=np.str_),
        confidence=np.concatenate(found.confidence) if found.confidence else np.empty(0),
    )


def _floats(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)
