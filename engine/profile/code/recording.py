"""What one run did: each operator with its line, its module, and what it was computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.profile.code.origins import Site

# In `Node.inputs`, what was there before the run.
WEIGHT, GIVEN, UNKNOWN = -1, -2, -3


@dataclass(slots=True)
class Node:
    """One call of an operator.

    Attributes:
        op: its name, as in a trace: `aten::mm`.
        inputs: for each tensor that went in, the node that made or last changed it; WEIGHT, GIVEN
            or UNKNOWN where that was before the run. Views are looked through.
        values: numbers of the tensors that went in: equal where the values must be.
        scalars: what else went in.
        site, own: the innermost line outside the machinery, and the innermost own one.
        activation: a number for the call of the function that `site` is in.
        api, api_call: the outermost function of torch that was called there, and a number for
            that call: operators with the same one were not written one by one.
        module, call: the innermost module, and a number for that call of it.
        shape, elements, dtype, device: of the first output.
        came: number format and device of the first input.
        is_view: nothing was computed.
        varies: whether the inputs of the run, or chance, went into it.
        from_weights: whether weights went into it.
        repeats: the node that had computed the same already; -1 where there is none.
        weight: how many such calls stand behind it in the whole run.
        is_backward: autograd ran it; `site` is then the line whose result it goes back through.
    """

    index: int
    op: str
    inputs: tuple[int, ...]
    values: tuple[int, ...]
    scalars: tuple[Any, ...]
    site: Site | None
    own: Site | None
    activation: int
    api: str
    api_call: int
    module: str
    call: int
    phase: str
    part: int
    weight: float
    shape: tuple[int, ...] = ()
    elements: int = 0
    moved_bytes: int = 0
    dtype: str = ""
    device: str = "cpu"
    came: tuple[str, str] = ("", "")
    is_view: bool = False
    varies: bool = True
    from_weights: bool = False
    repeats: int = -1
    seconds: float = 0.0
    is_backward: bool = False


@dataclass(slots=True)
class ApiCall:
    """One call of a function of torch that waits for the device or walks over a tensor."""

    name: str
    site: Site | None
    own: Site | None
    module: str
    phase: str
    weight: float
    shape: tuple[int, ...] = ()
    device: str = "cpu"
    activation: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class ModuleCall:
    """One call of a module: who called it, where, and the numbers of its input tensors."""

    number: int
    name: str
    parent: int
    site: Site | None
    own: Site | None
    values: tuple[int, ...]
    phase: str
    weight: float
    part: int


@dataclass
class Recording:
    """Everything that was seen; `lost` tells why it ends early."""

    nodes: list[Node] = field(default_factory=list)
    apis: list[ApiCall] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    phases: dict[int, str] = field(default_factory=dict)
    outputs_need_gradients: bool = False
    lost: str = ""

    def node(self, index: int) -> Node | None:
        """The node of that number; None for what was there before the run."""
        return self.nodes[index] if index >= 0 else None

    def made_from(self, node: Node, position: int = 0) -> Node | None:
        """The node that made the tensor at that position of the operator's inputs."""
        return self.node(node.inputs[position]) if position < len(node.inputs) else None

    def users(self) -> dict[int, list[Node]]:
        """For each node, those that take what it made."""
        found: dict[int, list[Node]] = {}
        for each in self.nodes:
            for index in set(each.inputs):
                if index >= 0:
                    found.setdefault(index, []).append(each)
        return found
