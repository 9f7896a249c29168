"""Held-out prompts, continued: greedy tokens, and the decoder on the baseline's own tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.measure.built import Built
from engine.measure.quality import scoring_program
from engine.measure.reference import Reference
from engine.program import Inputs, Program, logits_of, token_ids

_FORCED_PROMPTS = 8
_LIMIT_SECONDS = 60.0
_FEWEST_PROMPTS = 4
_TEXTS = 3
_TOKENS_FILE = "tokens.npy"


@dataclass
class Continuations:
    """What a program made of the prompts.

    Attributes:
        tokens: greedy ones, int64 [1, new_tokens] for each prompt.
        forced: the decoder's logits on the baseline's tokens against the baseline's.
        squared_gap, squared_full: the decoder's logits against a full forward of the same program.
        texts: of the first prompts, where there is a tokenizer.
    """

    tokens: list[Tensor] = field(default_factory=list)
    forced: Reference | None = None
    squared_gap: float = 0.0
    squared_full: float = 0.0
    texts: list[str] = field(default_factory=list)

    @property
    def consistency(self) -> float:
        """Relative error between the decoder's logits and one full forward."""
        return (self.squared_gap / self.squared_full) ** 0.5 if self.squared_full else 0.0


def continue_prompts(
    built: Built, reference: Path, *, is_baseline: bool, limit: int
) -> Continuations:
    """Continues the held-out prompts, else the workload's own.

    The baseline decides how many: as many as it manages in a minute, at least 4. It writes its
    tokens into `reference`; the others read them.
    """
    program = scoring_program(built.program)
    prompts = built.quality.prompts[:limit] or [token_ids(built.inputs)[:1].cpu()]
    length = max(1, built.workload.new_tokens or 1)
    found = Continuations()
    wanted = None if is_baseline else torch.from_numpy(np.load(reference / _TOKENS_FILE))
    deadline = time.monotonic() + _LIMIT_SECONDS
    for index, prompt in enumerate(prompts[: None if wanted is None else len(wanted)]):
        if is_baseline and index >= _FEWEST_PROMPTS and time.monotonic() > deadline:
            break
        asked = inputs_for(built.inputs, prompt)
        found.tokens.append(program.generate(asked, length).tokens.detach().cpu())
    if is_baseline:
        np.save(reference / _TOKENS_FILE, torch.cat(found.tokens).numpy())
    targets = torch.cat(found.tokens) if wanted is None else wanted
    _force(found, program, built, prompts, targets, reference, is_baseline)
    found.texts = _texts(built.tokenizer, prompts, found.tokens)
    return found


def through_decoder(program: Program, inputs: Inputs) -> Tensor:
    """Logits at every position [batch, tokens, vocabulary], asked one token after the other."""
    ids = token_ids(inputs)
    following = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
    return program.generate(
        inputs_for(inputs, ids[:, :1]), ids.shape[1], forced=following
    ).logits.detach()


def inputs_for(inputs: Inputs, prompt: Tensor) -> Inputs:
    """The workload's inputs with another prompt [batch, tokens] in place of theirs."""
    if not isinstance(inputs, dict):
        return (prompt,)
    replaced: dict[str, Tensor] = {"input_ids": prompt}
    if "attention_mask" in inputs:
        replaced["attention_mask"] = torch.ones_like(prompt)
    return replaced


def _force(
    found: Continuations,
    program: Program,
    built: Built,
    prompts: list[Tensor],
    targets: Tensor,
    reference: Path,
    is_baseline: bool,
) -> None:
    folder = reference / "forced"
    folder.mkdir(exist_ok=True)
    count = min(_FORCED_PROMPTS, len(targets))
    found.forced = Reference(folder, is_baseline, count)
    for index in range(count):
        prompt, tokens = prompts[index], targets[index : index + 1]
        asked = inputs_for(built.inputs, prompt)
        made = program.generate(asked, tokens.shape[1], forced=tokens).logits.detach().float().cpu()
        found.forced.take(index, made)
        whole = torch.cat([prompt, tokens[:, :-1]], dim=1)
        full = logits_of(program.forward(inputs_for(built.inputs, whole))).detach().float().cpu()
        full = full[:, prompt.shape[1] - 1 :]
        if full.shape == made.shape:
            found.squared_gap += float((made.double() - full.double()).square().sum())
            found.squared_full += float(full.double().square().sum())


def _texts(tokenizer: Path | None, prompts: list[Tensor], tokens: list[Tensor]) -> list[str]:
    if tokenizer is None:
        return []
    from tokenizers import Tokenizer

    place = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    if not place.is_file():
        return []
    reader = Tokenizer.from_file(str(place))
    pairs = zip(prompts[:_TEXTS], tokens[:_TEXTS], strict=True)
    return [reader.decode([*p[0].tolist(), *t[0].tolist()]) for p, t in pairs]
