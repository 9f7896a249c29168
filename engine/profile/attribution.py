"""Which module an operator belongs to, in the forward and in the backward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.profile.module_paths import ROOT as ROOT
from engine.profile.module_paths import ancestors as ancestors

_TAG = "workbench_module"


@dataclass
class ModuleStack:
    """The modules that are being called, outermost first, and how often each was."""

    names: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def innermost(self) -> str:
        """The module that runs now, or whose backward runs now; empty outside modules."""
        return self.names[-1] if self.names else _module_of_backward()

    def enter(self, name: str, inputs: Any) -> None:
        """A call of the module begins; what autograd recorded before it is its caller's."""
        _tag(self.names[-1] if self.names else "", inputs)
        self.names.append(name)
        self.calls[name] += 1

    def leave(self, name: str, outputs: Any) -> None:
        """A call of the module ends; what autograd recorded in it is marked as its own."""
        self.names.pop()
        _tag(name, outputs)


@contextmanager
def module_hooks(
    module: nn.Module, enter: Callable[[str, Any], None], leave: Callable[[str, Any], None]
) -> Iterator[None]:
    """Calls `enter(name, inputs)` and `leave(name, outputs)` around each call of each module."""
    handles = []
    for name, each in module.named_modules():
        shown = name or ROOT

        def before(_: Any, args: Any, kwargs: Any, *, shown: str = shown) -> None:
            enter(shown, (args, kwargs))

        def after(_: Any, *args: Any, shown: str = shown) -> None:
            leave(shown, args[-1])

        handles.append(each.register_forward_pre_hook(before, with_kwargs=True))
        # Also where the module raises: the stack must not keep its name.
        handles.append(each.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tag(name: str, values: Any) -> None:
    """Marks the autograd nodes behind these tensors that are not marked yet."""
    tensors = [each for each in tree_leaves(values) if isinstance(each, Tensor)]
    pending = [each.grad_fn for each in tensors if each.grad_fn is not None]
    while pending:
        node: Any = pending.pop()  # torch's stubs declare `metadata` as a method
        if _TAG in node.metadata:
            continue
        node.metadata[_TAG] = name
        pending += [above for above, _ in node.next_functions if above is not None]


def _module_of_backward() -> str:
    # Private to torch, where it tells which node autograd evaluates; without it, no module.
    current = getattr(torch._C, "_current_autograd_node", lambda: None)()
    return "" if current is None else str(current.metadata.get(_TAG, ""))
