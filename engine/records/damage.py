"""What a variant did to single answers: the worst examples of a comparison, few and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FlipKind = Literal["to wrong", "to right", "changed"]


@dataclass(frozen=True)
class FlippedAnswer:
    """One answer that the variant gives and the baseline did not.

    `confidence_before` and `confidence_after` are the probabilities of the two answers, each by its
    own program. `text` is the input, or what stands before a token; `image` a PNG in base64.
    """

    kind: FlipKind
    example: int
    before: str
    after: str
    confidence_before: float
    confidence_after: float
    label: str = ""
    text: str = ""
    image: str = ""


@dataclass(frozen=True)
class PartedPrompt:
    """A prompt that the variant continues otherwise: both texts, and the token where they part.

    `before` and `after` are the continuations without the prompt; `token` counts new tokens from 0.
    """

    number: int
    prompt: str
    before: str
    after: str
    token: int
    tokens: int


@dataclass(frozen=True)
class DivergenceAlong:
    """KL of the baseline's next-token distribution from the variant's at each token, in nats.

    `first` is the place of the first token here in its text, where only a part is kept.
    """

    example: int
    tokens: tuple[str, ...]
    kl: tuple[float, ...]
    first: int = 0


@dataclass(frozen=True)
class VariantDamage:
    """The worst examples of one variant; what was left out is counted.

    `confusion_before` and `confusion_after` count answers, [label][answer], where the outputs are a
    few classes and have labels; empty else. `classes` names them, where they have names.
    """

    name: str
    flips: tuple[FlippedAnswer, ...] = ()
    flips_left_out: int = 0
    prompts: tuple[PartedPrompt, ...] = ()
    prompts_left_out: int = 0
    along: tuple[DivergenceAlong, ...] = ()
    confusion_before: tuple[tuple[int, ...], ...] = ()
    confusion_after: tuple[tuple[int, ...], ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Damage:
    """The worst examples of each variant of the comparison that has the same id."""

    id: str
    variants: tuple[VariantDamage, ...]
