"""Where the dimensions of a tensor go when only its layout changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import fx

from engine.optimize.graph.nodes import args_of, expression, kwargs_of, same_shape, target_of

aten = torch.ops.aten
Roles = tuple[str | None, ...]


class Blocked(Exception):
    """A dimension with a role cannot be followed; the message says why."""


def moved_roles(node: fx.Node, roles: Roles, tokens: sympy.Symbol) -> Roles:
    """The roles of the dimensions after a layout operator.

    Raises:
        Blocked: a dimension with a role is cut, reordered or mixed with another.
    """
    if target_of(node) in _RESHAPING:
        before = args_of(node)[0].meta["val"].shape
        return regrouped(before, node.meta["val"].shape, roles, tokens)
    return _MOVES[target_of(node)](node, roles)


def is_layout(node: fx.Node) -> bool:
    """Whether the operator only changes the layout of its first argument."""
    return node.op == "call_function" and (
        target_of(node) in _MOVES or target_of(node) in _RESHAPING
    )


def shape_method(node: fx.Node) -> str | None:
    """The method that does the same from a shape, which must be written anew; None for others."""
    if target_of(node) in _RESHAPING:
        return "reshape"
    return "expand" if target_of(node) is aten.expand.default else None


def is_turn(node: fx.Node) -> bool:
    """Whether the operator permutes dimensions."""
    return node.op == "call_function" and target_of(node) in _TURNS


def turned(node: fx.Node) -> list[int]:
    """For each dimension of the result the one that it was, for an operator that permutes."""
    rank = args_of(node)[0].meta["val"].dim()
    numbered = _TURNS[target_of(node)](node, tuple(str(dim) for dim in range(rank)))
    return [int(dim or 0) for dim in numbered]


def _transposed(node: fx.Node, roles: Roles) -> Roles:
    one, other = (dim % len(roles) for dim in args_of(node)[1:3])
    moved = list(roles)
    moved[one], moved[other] = moved[other], moved[one]
    return tuple(moved)


def _swapped_last(node: fx.Node, roles: Roles) -> Roles:
    return (*roles[:-2], roles[-1], roles[-2]) if len(roles) > 1 else roles


def _permuted(node: fx.Node, roles: Roles) -> Roles:
    return tuple(roles[dim] for dim in args_of(node)[1])


def _unsqueezed(node: fx.Node, roles: Roles) -> Roles:
    at = int(args_of(node)[1]) % (len(roles) + 1)
    return (*roles[:at], None, *roles[at:])


def _squeezed(node: fx.Node, roles: Roles) -> Roles:
    before = args_of(node)[0].meta["val"].shape
    dims = args_of(node)[1] if len(args_of(node)) > 1 else range(len(roles))
    wanted = {dim % len(roles) for dim in ([dims] if isinstance(dims, int) else dims)}
    gone = {dim for dim in wanted if before[dim] == 1}
    return tuple(role for dim, role in enumerate(roles) if dim not in gone)


def _kept(node: fx.Node, roles: Roles) -> Roles:
    return roles


def _expanded(node: fx.Node, roles: Roles) -> Roles:
    return (*(None,) * (len(node.meta["val"].shape) - len(roles)), *roles)


def regrouped(
    before: Sequence[Any], after: Sequence[Any], roles: Roles, tokens: sympy.Symbol
) -> Roles:
    """The roles after a view: dimensions are matched in groups of equal products.

    Raises:
        Blocked: two dimensions with roles fall into one group, or one is spread over several.
    """
    left = [(dim, expression(size)) for dim, size in enumerate(before) if expression(size) != 1]
    right = [(dim, expression(size)) for dim, size in enumerate(after) if expression(size) != 1]
    ends = {product: at for at, product in enumerate(_products(right))}
    found: list[str | None] = [None] * len(after)
    first = start = 0
    for last, product in enumerate(_products(left)):
        if product not in ends:
            continue
        group, places = left[first : last + 1], right[start : ends[product] + 1]
        first, start = last + 1, ends[product] + 1
        held = [roles[dim] for dim, _ in group if roles[dim] is not None]
        if not held:
            continue
        hosts = [dim for dim, size in places if tokens in size.free_symbols]
        if len(held) > 1 or len(hosts) != 1:
            raise Blocked("a view mixes tokens with another dimension")
        found[hosts[0]] = held[0]
    return tuple(found)


def _products(sized: list[tuple[int, Any]]) -> list[Any]:
    product, found = sympy.Integer(1), []
    for _, size in sized:
        product = sympy.expand(product * size)
        found.append(product)
    return found


def _selected(node: fx.Node, roles: Roles) -> Roles:
    dim = int(args_of(node)[1]) % len(roles)
    if roles[dim] is not None:
        raise Blocked("it picks one token")
    return (*roles[:dim], *roles[dim + 1 :])


def _cut(node: fx.Node, roles: Roles) -> Roles:
    dim = int(args_of(node)[1] if len(args_of(node)) > 1 else 0) % len(roles)
    before = args_of(node)[0].meta["val"].shape
    if roles[dim] is not None and not same_shape(
        before[dim : dim + 1], node.meta["val"].shape[dim : dim + 1]
    ):
        raise Blocked("it cuts tokens off")
    return roles


def _parted(node: fx.Node, roles: Roles) -> Roles:
    dim = int(args_of(node)[2] if len(args_of(node)) > 2 else kwargs_of(node).get("dim", 0)) % len(
        roles
    )
    if roles[dim] is not None:
        raise Blocked("it parts tokens")
    return roles


def _unbound(node: fx.Node, roles: Roles) -> Roles:
    dim = int(args_of(node)[1] if len(args_of(node)) > 1 else 0) % len(roles)
    if roles[dim] is not None:
        raise Blocked("it parts tokens")
    return (*roles[:dim], *roles[dim + 1 :])


def _repeated(node: fx.Node, roles: Roles) -> Roles:
    dim = int(args_of(node)[2]) if len(args_of(node)) > 2 and args_of(node)[2] is not None else None
    if dim is None or roles[dim] is not None:
        raise Blocked("it repeats tokens")
    return roles


def _tiled(node: fx.Node, roles: Roles) -> Roles:
    counts = list(args_of(node)[1])
    grown = (*(None,) * (len(counts) - len(roles)), *roles)
    if any(role is not None and count != 1 for role, count in zip(grown, counts, strict=True)):
        raise Blocked("it repeats tokens")
    return grown


_RESHAPING = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default,
    aten.flatten.using_ints, aten.unflatten.int, aten.view_copy.default,
}  # fmt: skip
_TURNS: dict[Any, Callable[[fx.Node, Roles], Roles]] = {
    aten.transpose.int: _transposed,
    aten.swapaxes.default: _transposed,
    aten.swapdims.default: _transposed,
    aten.permute.default: _permuted,
    aten.t.default: _swapped_last,
    aten.numpy_T.default: _swapped_last,
    aten.mT.default: _swapped_last,
}
_MOVES: dict[Any, Callable[[fx.Node, Roles], Roles]] = {
    **_TURNS,
    aten.unsqueeze.default: _unsqueezed,
    aten.squeeze.dim: _squeezed,
    aten.squeeze.dims: _squeezed,
    aten.expand.default: _expanded,
    aten.contiguous.default: _kept,
    aten.clone.default: _kept,
    aten.select.int: _selected,
    aten.slice.Tensor: _cut,
    aten.narrow.default: _cut,
    aten.split.Tensor: _parted,
    aten.split_with_sizes.default: _parted,
    aten.split.sizes: _parted,
    aten.chunk.default: _parted,
    aten.unbind.int: _unbound,
    aten.repeat_interleave.self_int: _repeated,
    aten.repeat.default: _tiled,
}
