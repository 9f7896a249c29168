"""Rows of a data file as examples that a model can be called with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import DataError
from engine.models.data_rows import Row
from engine.models.labels import numbers_of
from engine.models.metrics import Family
from engine.models.probing import device_of, one_line
from engine.models.quality import Example
from engine.models.source import Loaded, Sizes
from engine.models.tokenizing import TextCoder, load_tokenizer
from engine.program import Inputs, call, logits_of, to_device

MAX_WINDOW = 512
ARRAY_BATCH = 16


def coder_of(loaded: Loaded, owner: str) -> TextCoder:
    """The model's tokenizer.

    Raises:
        DataError: it has none.
    """
    if loaded.tokenizer is None:
        raise DataError(
            f"{owner} is text and {loaded.name} has no tokenizer.",
            hint="Put tokenizer.json beside the model, or set TOKENIZER in its file.",
        )
    return load_tokenizer(loaded.tokenizer)


@dataclass(frozen=True)
class Windows:
    """Windows of token ids as rows; `values` is (ids, UTF-8 bytes of each id)."""

    rows: list[Row]
    notes: tuple[str, ...] = ()


def windows_of(loaded: Loaded, rows: Sequence[Row], owner: str) -> Windows:
    """Texts as windows of token ids that do not overlap, each with the id that follows it.

    Raises:
        DataError: the model is not a causal language model, or the text is too short.
    """
    if loaded.decoder is None or loaded.prompt_apart:
        raise DataError(
            f"{owner} gives perplexity, and {loaded.name} is not a causal language model.",
            hint="Give a table with text and label columns, or .npz arrays.",
        )
    coder = coder_of(loaded, owner)
    longest = min(loaded.max_length or MAX_WINDOW, MAX_WINDOW)
    found, short, total, used = [], 0, 0, 0
    for row in rows:
        ids, sizes = coder.encode_with_bytes(row.values)
        _check_vocabulary(loaded, ids, owner)
        step = longest if len(ids) > longest else max(len(ids) - 1, 1)
        short += len(ids) < 2
        total += len(ids)
        for start in range(0, len(ids) - step, step):
            end = start + step + 1
            used += step
            found.append(Row((tuple(ids[start:end]), tuple(sizes[start:end])), None, row.group))
    if not found:
        raise DataError(f"{owner} is too short: it has less than two tokens.")
    notes = []
    if short:
        notes.append(f"{short:,} of {len(rows):,} texts have less than two tokens: left out.")
    # The first token of a text has nothing before it and is never predicted.
    if rest := total - used - len(rows):
        notes.append(
            f"{rest:,} of {total:,} tokens at the ends of texts fill no window of {longest}:"
            " left out."
        )
    return Windows(found, tuple(notes))


def window_example(loaded: Loaded, row: Row) -> Example:
    """Ids [1, tokens] with the ids that follow them as labels."""
    told, sizes = row.values
    ids = torch.tensor([told])
    known = (sum(sizes[1:]),) if len(sizes) == len(told) else ()
    inputs = _as_text_inputs(loaded, {"input_ids": ids[:, :-1]})
    return Example(inputs, ids[:, 1:].contiguous(), known)


@dataclass(frozen=True)
class Labelling:
    """How labels become tensors: ids of classes, or numbers and vectors as they are."""

    family: Family | None
    ids: dict[str, int]
    owner: str

    def of(self, rows: Sequence[Row]) -> Tensor | None:
        """Labels of the rows: int64 [rows], float32 [rows] or [rows, width]; None without any."""
        if self.family is None or any(each.label is None for each in rows):
            return None
        if self.family == "classes":
            return torch.tensor([self.ids[str(each.label)] for each in rows])
        if self.family == "vectors":
            return torch.from_numpy(_stacked([Row(each.label) for each in rows])).float()
        return torch.tensor(numbers_of(rows, self.owner))


def text_examples(
    loaded: Loaded, rows: Sequence[Row], labelling: Labelling
) -> tuple[list[Example], int]:
    """Texts through the tokenizer, one a batch, and how many were cut at the model's length."""
    coder = coder_of(loaded, labelling.owner)
    found, cut = [], 0
    for row in rows:
        text, second = row.values if isinstance(row.values, tuple) else (row.values, None)
        told = coder.encode_pair(text, second, loaded.max_length)
        cut += _is_cut(coder, row, told, loaded.max_length)
        if not told["input_ids"]:
            raise DataError(f"{labelling.owner}: a text gives no tokens: {text[:40]!r}.")
        _check_vocabulary(loaded, told["input_ids"], labelling.owner)
        tensors = {name: torch.tensor([value]) for name, value in told.items()}
        found.append(Example(_as_text_inputs(loaded, tensors), labelling.of([row])))
    return found, cut


def pair_examples(
    loaded: Loaded, rows: Sequence[Row], labelling: Labelling
) -> tuple[list[Example], int]:
    """Two texts as the two rows of one batch, padded to the longer one, and how many were cut.

    Raises:
        DataError: texts of unequal length for a model that takes no attention mask.
    """
    coder, owner = coder_of(loaded, labelling.owner), labelling.owner
    found, cut = [], 0
    for row in rows:
        told = [coder.encode_pair(each, None, loaded.max_length) for each in row.values]
        cut += any(len(each["input_ids"]) == loaded.max_length for each in told)
        ids = [torch.tensor(each["input_ids"]) for each in told]
        for each in told:
            _check_vocabulary(loaded, each["input_ids"], owner)
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)  # [2, tokens]
        lengths = torch.tensor([len(each) for each in ids])
        mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long()
        inputs = _as_text_inputs(loaded, {"input_ids": padded, "attention_mask": mask})
        if not bool(mask.all()) and not (isinstance(inputs, dict) and "attention_mask" in inputs):
            raise DataError(
                f"{loaded.name} takes no attention_mask, and the texts of a pair of {owner} have"
                " unequal lengths.",
                hint="example_inputs() must give a dict with input_ids and attention_mask.",
            )
        found.append(Example(inputs, labelling.of([row])))
    return found, cut


def array_examples(loaded: Loaded, rows: Sequence[Row], labelling: Labelling) -> list[Example]:
    """Numbers or arrays in batches, in the dtype and under the name of the model's own input."""
    template = loaded.make_inputs(Sizes(batch=1))
    name, like = main_input(template)
    batch = ARRAY_BATCH if "batch" in loaded.axes else 1
    found = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        values = torch.from_numpy(_stacked(part)).to(like.dtype)
        inputs: Inputs = (values,) if name is None else {name: values}
        found.append(Example(inputs, labelling.of(part)))
    return found


def main_input(template: Inputs) -> tuple[str | None, Tensor]:
    """The name of the model's first tensor input, None where it is positional, and the tensor.

    Raises:
        DataError: there is none.
    """
    if not isinstance(template, dict):
        return None, template[0]
    for name, value in template.items():
        if isinstance(value, Tensor):
            return name, value
    raise DataError("The model's inputs hold no tensor.")


def check_examples(loaded: Loaded, examples: Sequence[Example], labelling: Labelling) -> None:
    """The model can be called with the first example, and its answer is one the labels fit.

    Raises:
        DataError: shapes that the model does not take, or labels that are not what it answers.
    """
    first, owner = examples[0], labelling.owner
    try:
        with torch.inference_mode():
            device = device_of(loaded.module)
            logits = logits_of(call(loaded.module, to_device(first.inputs, device)))
    except Exception as error:
        raise DataError(
            f"{loaded.name} cannot be called with the data of {owner}: {one_line(error)}."
        ) from error
    labels = [each.labels for each in examples if each.labels is not None]
    if not labels:
        return
    if labelling.family in ("numbers", "vectors") and logits.ndim < 3:
        told = labels[0]
        if logits.numel() != told.numel():
            raise DataError(
                f"{loaded.name} answers {logits.numel()} numbers where {owner} has"
                f" {told.numel()} for a label, like {told.flatten()[0].item():.4g}.",
                hint="Classes are whole numbers or names; a regression answers one number.",
            )
    if labelling.family in ("numbers", "vectors", "pairs"):
        return
    classes = logits.shape[-1]
    told = torch.cat([each.flatten() for each in labels])
    told = told[told != -100]
    if told.numel() and (int(told.min()) < 0 or int(told.max()) >= classes):
        counted = Counter(told.tolist())
        wrong = min(each for each in counted if not 0 <= each < classes)
        raise DataError(
            f"{owner} has the label {wrong} and {loaded.name} has the classes 0 to {classes - 1}.",
            hint="Number the classes from 0, or name them as the model's config does.",
        )


def _is_cut(coder: TextCoder, row: Row, told: dict[str, Any], longest: int | None) -> bool:
    if longest is None or len(told["input_ids"]) < longest:
        return False
    text, second = row.values if isinstance(row.values, tuple) else (row.values, None)
    return len(coder.encode_pair(text, second, None)["input_ids"]) > longest


def _as_text_inputs(loaded: Loaded, tensors: dict[str, Tensor]) -> Inputs:
    template = loaded.make_inputs(Sizes(batch=1, sequence_length=4))
    if not isinstance(template, dict):
        return (tensors["input_ids"],)
    wanted = set(template) | ({"token_type_ids"} if _takes_types(loaded) else set())
    found = {name: value for name, value in tensors.items() if name in wanted}
    if "attention_mask" in template and "attention_mask" not in found:
        found["attention_mask"] = torch.ones_like(found["input_ids"])
    return found


def _takes_types(loaded: Loaded) -> bool:
    config: dict[str, Any] = loaded.extra.get("config") or {}
    return int(config.get("type_vocab_size") or 0) > 1


def _check_vocabulary(loaded: Loaded, ids: Sequence[int], owner: str) -> None:
    if loaded.vocabulary is not None and ids and max(ids) >= loaded.vocabulary:
        raise DataError(
            f"The tokenizer makes the id {max(ids)} from {owner}, "
            f"and {loaded.name} has {loaded.vocabulary} tokens.",
            hint="This tokenizer belongs to another model.",
        )


def _stacked(rows: Sequence[Row]) -> np.ndarray[Any, Any]:
    arrays = [np.asarray(each.values) for each in rows]
    if len({each.shape for each in arrays}) != 1:
        raise DataError("Every example must have the same shape.")
    return np.stack(arrays)
