"""Text that the teacher writes itself, where there is too little to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from engine.errors import StepRefused
from engine.models.quality import Example
from engine.optimize.train.rows import Rows
from engine.program import Inputs, Program, token_ids

_TOGETHER = 32  # rows at a time: more of them share one step's overhead, and hold more cache
_SHARE = 8  # an eighth of a row is given, the rest is written
_TEXT = {"input_ids", "attention_mask"}


def written_rows(
    teacher: Program,
    rows: Rows,
    count: int,
    *,
    seed: int,
    max_length: int | None = None,
    tell: Callable[[float], None] = lambda fraction: None,
) -> list[Example]:
    """So many rows that begin like the given ones and go on as the teacher speaks.

    Each token is drawn from the teacher's own distribution. Rows of one length are written
    together, with a cache of keys and values where the model keeps one or can be given one.

    Returns:
        Examples of one row each, with next tokens as labels where the given ones have them; empty
        where the rows are no plain text.

    Source: Liu et al. 2023, LLM-QAT: Data-Free Quantization Aware Training for Large Language
    Models, section 2.1.
    """
    begun = [each for each in rows.examples if _is_text(each)]
    if teacher.decoder is None or not begun or count < 1:
        return []
    lengths = [token_ids(each.inputs).shape[1] for each in begun]
    common = max(set(lengths), key=lengths.count)
    begun = [each for each, length in zip(begun, lengths, strict=True) if length == common]
    generator = torch.Generator().manual_seed(seed)
    quick = _with_cache(teacher, token_ids(begun[0].inputs), max_length)
    made: list[Example] = []
    while len(made) < count:
        size = min(_TOGETHER, count - len(made))
        chosen = torch.randint(len(begun), (size,), generator=generator).tolist()
        start = torch.randint(1, max(2, common // _SHARE + 1), (1,), generator=generator).item()
        prompts = torch.cat([token_ids(begun[each].inputs)[:, : int(start)] for each in chosen])
        ids = _continued(quick, prompts, common + 1, generator)
        made += [_example(begun[0], ids[row : row + 1]) for row in range(size)]
        tell(len(made) / count)
    return made


def _is_text(example: Example) -> bool:
    inputs = example.inputs
    if isinstance(inputs, dict):
        if not {"input_ids"} <= set(inputs) <= _TEXT:
            return False
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and not bool(mask.all()):
            return False
    elif len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        return False
    ids = token_ids(inputs)
    is_ids = ids.dim() == 2 and ids.shape[1] > 1 and not ids.is_floating_point()
    return is_ids and (example.labels is None or example.labels.shape == ids.shape)


def _with_cache(teacher: Program, ids: Tensor, max_length: int | None) -> Program:
    if teacher.decoder is None or teacher.decoder.keeps_cache:
        return teacher
    from engine.optimize.graph.decoding import FlatCacheDecoder, derive_decoder_graphs

    try:
        graphs = derive_decoder_graphs(
            teacher.module, ids[:1, :4].to(teacher.context.device), max_length=max_length, seed=0
        )
    except StepRefused:
        return teacher  # it recomputes each prefix, which gives the same text more slowly
    return replace(teacher, module=graphs, decoder=FlatCacheDecoder())


def _continued(
    teacher: Program, prompts: Tensor, length: int, generator: torch.Generator
) -> Tensor:
    decoder = teacher.decoder
    if decoder is None:
        return prompts
    ids = prompts.to(teacher.context.device)
    inside = replace(teacher, context=replace(teacher.context, gradients=False))
    with inside.entered():
        logits, state = decoder.prefill(teacher.module, (ids,))
        while True:
            token = drawn(logits, generator).to(ids.dtype)
            ids = torch.cat((ids, token), 1)
            if ids.shape[1] >= length:
                break
            logits, state = decoder.step(teacher.module, token, state)
    return ids.to(prompts.device).clone()


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One class for each row of logits [..., classes], by its probability, as [..., 1].

    The random numbers are made on the CPU, so that each device draws alike.
    """
    places = torch.rand((*logits.shape[:-1], 1), generator=generator).to(logits.device)
    sums = logits.float().softmax(-1).cumsum(-1)
    return torch.searchsorted(sums, places).clamp_max(logits.shape[-1] - 1)


def _example(like: Example, ids: Tensor) -> Example:
    given, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    inputs: Inputs = (given,)
    if isinstance(like.inputs, dict):
        inputs = {"input_ids": given}
        if "attention_mask" in like.inputs:
            inputs["attention_mask"] = torch.ones_like(given)
    return Example(inputs, None if like.labels is None else labels)
