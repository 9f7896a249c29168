"""Rows of a data file as examples that a model can be called with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError
from engine.models.data_files import Row
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


def windows_of(loaded: Loaded, rows: Sequence[Row], owner: str) -> list[Row]:
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
    found = []
    for row in rows:
        ids = coder.encode(row.values)
        _check_vocabulary(loaded, ids, owner)
        step = longest if len(ids) > longest else max(len(ids) - 1, 1)
        for start in range(0, len(ids) - step, step):
            found.append(Row(tuple(ids[start : start + step + 1]), None, row.group))
    if not found:
        raise DataError(f"{owner} is too short: it has less than two tokens.")
    return found


def window_example(loaded: Loaded, row: Row) -> Example:
    """Ids [1, tokens] with the ids that follow them as labels."""
    ids = torch.tensor([row.values])
    return Example(_as_text_inputs(loaded, {"input_ids": ids[:, :-1]}), ids[:, 1:].contiguous())


def text_examples(
    loaded: Loaded, rows: Sequence[Row], owner: str, every: Sequence[Row]
) -> list[Example]:
    """Texts through the tokenizer, one a batch, cut at the model's length.

    The classes are numbered over `every` row of the file, so that both parts agree.
    """
    coder = coder_of(loaded, owner)
    classes = class_ids(loaded, every)
    found = []
    for row in rows:
        text, second = row.values if isinstance(row.values, tuple) else (row.values, None)
        told = coder.encode_pair(text, second, loaded.max_length)
        if not told["input_ids"]:
            raise DataError(f"{owner}: a text gives no tokens: {text[:40]!r}.")
        _check_vocabulary(loaded, told["input_ids"], owner)
        tensors = {name: torch.tensor([value]) for name, value in told.items()}
        labels = None if row.label is None else torch.tensor([classes[str(row.label)]])
        found.append(Example(_as_text_inputs(loaded, tensors), labels))
    return found


def array_examples(loaded: Loaded, rows: Sequence[Row], every: Sequence[Row]) -> list[Example]:
    """Numbers or arrays in batches, in the dtype and under the name of the model's own input."""
    classes = class_ids(loaded, every)
    template = loaded.make_inputs(Sizes(batch=1))
    name, like = _main_input(template)
    batch = ARRAY_BATCH if "batch" in loaded.axes else 1
    found = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        values = torch.from_numpy(_stacked(part)).to(like.dtype)
        inputs: Inputs = (values,) if name is None else {name: values}
        labels = None
        if part[0].label is not None:
            labels = torch.tensor([classes[str(each.label)] for each in part])
        found.append(Example(inputs, labels))
    return found


def class_ids(loaded: Loaded, rows: Sequence[Row]) -> dict[str, int]:
    """Labels as they are written to class ids: whole numbers, the config's names, else in order.

    Raises:
        DataError: a fraction as a class.
    """
    written = sorted({str(each.label) for each in rows if each.label is not None})
    config: dict[str, Any] = loaded.extra.get("config") or {}
    names = {str(key): int(value) for key, value in (config.get("label2id") or {}).items()}
    if written and all(each in names for each in written):
        return {each: names[each] for each in written}
    numbers = {each: _number(each) for each in written}
    if all(value is not None for value in numbers.values()):
        fractions = [each for each, value in numbers.items() if value != int(value or 0)]
        if fractions:
            raise DataError(
                f"Labels must be classes, got the number {fractions[0]}.",
                hint="Accuracy needs whole numbers or names.",
            )
        return {each: int(value or 0) for each, value in numbers.items()}
    return {each: index for index, each in enumerate(written)}


def check_examples(loaded: Loaded, examples: Sequence[Example], owner: str) -> None:
    """The model can be called with the first example, and every label is one of its classes.

    Raises:
        DataError: shapes that the model does not take, or labels outside its classes.
    """
    first = examples[0]
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


def _main_input(template: Inputs) -> tuple[str | None, Tensor]:
    if not isinstance(template, dict):
        return None, template[0]
    for name, value in template.items():
        if isinstance(value, Tensor):
            return name, value
    raise DataError("The model's inputs hold no tensor.")


def _check_vocabulary(loaded: Loaded, ids: Sequence[int], owner: str) -> None:
    if loaded.vocabulary is not None and ids and max(ids) >= loaded.vocabulary:
        raise DataError(
            f"The tokenizer makes the id {max(ids)} from {owner}, "
            f"and {loaded.name} has {loaded.vocabulary} tokens.",
            hint="This tokenizer belongs to another model.",
        )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) < 2**53 else None


def _stacked(rows: Sequence[Row]) -> np.ndarray[Any, Any]:
    arrays = [np.asarray(each.values) for each in rows]
    if len({each.shape for each in arrays}) != 1:
        raise DataError("Every example must have the same shape.")
    return np.stack(arrays)
