"""Linear layers that read the very same tensor, put into one product."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from engine.errors import StepRefused
from engine.optimize.graph.dataflow import (
    Dataflow,
    LayerCall,
    dataflow,
    has_hooks,
    replace_everywhere_,
    shared_parameters,
)
from engine.optimize.graph.joint_linear import joined
from engine.optimize.graph.rounding import outputs_of, relative_error, rounding_limit
from engine.program import Inputs, Program

Group = tuple[str, ...]


def find_siblings(program: Program, inputs: Inputs) -> tuple[list[Group], dict[str, str]]:
    """Groups of layers that one product can stand for, and for others the reason why not.

    Siblings get the same tensor object in every call, unchanged in between, and no other product
    runs between them.
    """
    module = program.module
    layers = {name: each for name, each in module.named_modules() if type(each) is nn.Linear}
    if len(layers) < 2:
        return [], {}
    flow = dataflow(program, inputs, layers)
    together: dict[str, set[Group]] = {}
    for group in _neighbours(flow):
        for name in group:
            together.setdefault(name, set()).add(group)
    tied = shared_parameters(module)
    found, refused = [], {}
    for group in dict.fromkeys(each for groups in together.values() for each in groups):
        if len(group) < 2:
            continue
        if any(together[name] != {group} for name in group) or len(set(group)) < len(group):
            refused[group[0]] = "its siblings are others from call to call"
            continue
        for left, reason in _unfit(group, layers, tied).items():
            refused[left] = reason
        group = tuple(name for name in group if name not in refused)
        for alike in _alike(group, layers):
            if len(alike) > 1:
                found.append(alike)
    return found, refused


def join_(program: Program, inputs: Inputs, groups: Iterable[Group]) -> float:
    """Joins the groups in place and gives the outputs' relative error on these inputs.

    Raises:
        StepRefused: the outputs are others than before; the module is then as it was.
    """
    module = program.module
    is_meta = any(each.is_meta for each in module.parameters())
    before = None if is_meta else outputs_of(program, inputs)
    layers = dict(module.named_modules())
    groups = list(groups)
    for contiguous in (False, True):
        replaced: dict[nn.Module, nn.Module] = {}
        for group in groups:
            members = [layers[name] for name in group]
            parts = joined(members, contiguous=contiguous)
            replaced |= dict(zip(members, parts, strict=True))
        replace_everywhere_(module, replaced)
        if before is None:
            return 0.0
        try:
            error, reason = relative_error(outputs_of(program, inputs), before), ""
        except RuntimeError as failure:  # a view that wants its part on its own in memory
            error, reason = float("nan"), str(failure).splitlines()[0][:160]
        limit = rounding_limit(before[0].dtype)
        if error <= limit:
            return error
        replace_everywhere_(module, {new: old for old, new in replaced.items()})
        if not reason:
            break
    raise StepRefused(
        f"fuse_qkv: the model does not run on joint products: {reason}."
        if reason
        else f"fuse_qkv: the outputs would move by {error:.1e}, at most {limit:.0e} is rounding."
    )


def _neighbours(flow: Dataflow) -> Iterator[Group]:
    """Layers called on one tensor with no product on another one in between, call by call."""
    pending: list[LayerCall] = []
    for each in sorted(flow.calls, key=lambda one: one.products_before):
        first = pending[0] if pending else None
        if first is not None and (
            (first.given, first.version) != (each.given, each.version)
            or any(
                given != first.given
                for given in flow.products[first.products_before : each.products_before]
            )
        ):
            yield tuple(one.name for one in pending)
            pending = []
        pending.append(each)
    if pending:
        yield tuple(one.name for one in pending)


def _unfit(group: Group, layers: dict[str, nn.Linear], tied: set[int]) -> dict[str, str]:
    found = {}
    for name in group:
        layer = layers[name]
        if has_hooks(layer):
            found[name] = "somebody listens to it by a hook"
        elif any(id(each) in tied for each in layer.parameters(recurse=False)):
            found[name] = "it shares its weight with another layer"
        elif not layer.weight.is_floating_point():
            found[name] = f"its weight is {str(layer.weight.dtype).removeprefix('torch.')}"
    return found


def _alike(group: Group, layers: dict[str, nn.Linear]) -> list[Group]:
    """The group in parts whose layers are of one format, device and trainability."""
    parts: dict[tuple[object, ...], list[str]] = {}
    for name in group:
        weight = layers[name].weight
        form = (weight.dtype, weight.device, weight.requires_grad, layers[name].training)
        parts.setdefault((*form, weight.shape[1]), []).append(name)
    return [tuple(names) for names in parts.values()]
