"""The graph of one call of a model: operators, what flows between them, and their modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NodeKind = Literal["operator", "view", "input", "output", "folded"]


@dataclass(frozen=True)
class GraphNode:
    """One operator of the call.

    Attributes:
        operator: its name as a trace writes it, `aten::linear`; for inputs their name.
        module: which of the graph's modules called it, by index.
        kind: a "view" only names memory anew; a "folded" node stands for `folded` operators.
        shape: of the first output.
        dtype: of the first output.
        flops: of its products; None where it does arithmetic and has no formula.
        moved_bytes: what it reads and writes once each.
        elementwise_flops: of its other arithmetic (activations, norms, softmax).
    """

    operator: str
    module: int
    kind: NodeKind = "operator"
    shape: str = ""
    dtype: str = ""
    flops: int | None = 0
    moved_bytes: int = 0
    folded: int = 0
    elementwise_flops: int = 0


@dataclass(frozen=True)
class GraphEdge:
    """A tensor that one node makes and another one reads, both by index."""

    source: int
    target: int
    shape: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class GraphModule:
    """One call of a module.

    Attributes:
        name: dotted path, as in the profile; "(model)" for the whole.
        type: of the module.
        parent: the module call that called it, by index; -1 for the model.
        call: 0 for the first call of this module, 1 for its second.
        block: equal for modules that hold the same operators on the same shapes, wired alike.
    """

    name: str
    type: str
    parent: int = -1
    call: int = 0
    block: str = ""


@dataclass(frozen=True)
class ModelGraph:
    """The graph of one call of a study's model, parameters left out.

    Attributes:
        study: the study's id.
        source: "torch.export", or "recorded run" where that cannot read the model.
        phase: which phase of a run the call is: "forward", or "prefill" of a generation.
        nodes: in the order in which they run.
        modules: the model first, each after the one that calls it.
        reason: why torch.export could not; empty where it could.
        folded: operators that stand in folded nodes, since the graph would be too large.
        seconds: what making the graph took.
    """

    study: str
    source: Literal["torch.export", "recorded run"]
    phase: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    modules: tuple[GraphModule, ...]
    reason: str = ""
    folded: int = 0
    seconds: float = 0.0
    created: float = 0.0
