"""How far a variant's activations are from the baseline's, module after module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModuleFate = Literal["same", "replaced", "split", "removed", "new"]


@dataclass(frozen=True)
class LayerDistance:
    """One module in the baseline and under the same name in the variant.

    `fate`: the same class; replaced by another class; split into parts (a module that had none
    holds some now); removed (only the baseline has it); new (only the variant has it). `order` is
    its place in the baseline's run. `relative_error` is of its outputs, `input_error` of what came
    in, and `added` what is more in the first than in the second; `cosine` is of the outputs. They
    are None where there is nothing to compare, and `words` says why. `time_ms` is inclusive, by the
    clock around the module, interleaved; `size_bytes` with what is inside it.
    """

    name: str
    type: str
    order: int
    fate: ModuleFate
    variant_type: str = ""
    is_leaf: bool = True
    relative_error: float | None = None
    input_error: float | None = None
    added: float | None = None
    cosine: float | None = None
    time_ms: float | None = None
    variant_time_ms: float | None = None
    size_bytes: int | None = None
    variant_size_bytes: int | None = None
    words: str = ""


@dataclass(frozen=True)
class LayerDistances:
    """All modules of a study's model against those of one recipe's variant.

    `recipe` is what was built: without its runtime, whose graph has no modules to look into.
    `output_error` is of the model's answer. `examples` evaluation examples were run; 0 means the
    workload's own inputs.
    """

    study: str
    recipe: str
    rows: tuple[LayerDistance, ...]
    examples: int
    output_error: float | None
    created: float
    seconds: float = 0.0
    rounds: int = 0
    warnings: tuple[str, ...] = ()
