"""How each kind of operator treats tokens, for the step of an incremental decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from engine.optimize.graph.incremental import KEY, POSITION, QUERY, Incremental
from engine.optimize.graph.layout import Blocked, Roles, is_layout
from engine.optimize.graph.nodes import args_of, is_getitem, kwargs_of, target_of

aten = torch.ops.aten
Rule = Callable[[Incremental, fx.Node], None]


def rule_of(node: fx.Node) -> Rule:
    """The rule for a node.

    Raises:
        Blocked: there is none.
    """
    if node.op == "call_module":
        return _RULES[node.meta["operator"]]
    if is_getitem(node):
        return _getitem
    if is_layout(node):
        return Incremental.layout
    if target_of(node) in _RULES:
        return _RULES[target_of(node)]
    if isinstance(target_of(node), torch._ops.OpOverload):
        if torch.Tag.pointwise in target_of(node).tags or target_of(node) in _POINTWISE:
            return _pointwise
        if torch.Tag.reduction in target_of(node).tags:
            return _reduction
    return _unknown


def _unknown(builder: Incremental, node: fx.Node) -> None:
    raise Blocked("no rule says what it does with tokens")


def _pointwise(builder: Incremental, node: fx.Node) -> None:
    mask = _mask_of(node)
    if mask is not None:
        place, neutral = mask
        target = args_of(node)[0 if target_of(node) is not aten.where.self else place[1]]
        if isinstance(target, fx.Node) and builder.is_data(target):
            roles = _joined(builder, node)
            for at in place[:1]:
                held = args_of(node)[at]
                if not isinstance(held, fx.Node) or not isinstance(held.meta["val"], Tensor):
                    continue
                wanted = roles[len(roles) - held.meta["val"].dim() :]
                if builder.drops_mask(held, wanted, neutral):
                    builder.replace(node, builder.operand(target, roles), roles)
                    return
    roles = _joined(builder, node)

    def carried(value: Any) -> Any:
        if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), Tensor):
            return builder.plain(value)
        return builder.operand(value, _aligned(value, roles))

    args = fx.map_arg(args_of(node), carried)
    kwargs = fx.map_arg(node.kwargs, carried)
    builder.emit(node, args, roles, kwargs)


def _mask_of(node: fx.Node) -> tuple[tuple[int, ...], Callable[[Tensor], Tensor]] | None:
    return _MASKS.get(target_of(node))


def _joined(builder: Incremental, node: fx.Node) -> Roles:
    """The roles of a broadcast result."""
    tensors = [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
    rank = node.meta["val"].dim()
    found: list[str | None] = [None] * rank
    for value in tensors:
        shift = rank - value.meta["val"].dim()
        for dim, role in enumerate(builder.roles_of(value)):
            found[shift + dim] = _stronger(found[shift + dim], role)
    return tuple(found)


def _stronger(one: str | None, other: str | None) -> str | None:
    order = (None, POSITION, QUERY, KEY)
    return max(one, other, key=order.index)


def _aligned(value: fx.Node, roles: Roles) -> Roles:
    shape = value.meta["val"].shape
    tail = roles[len(roles) - len(shape) :]
    return tuple(
        None if not isinstance(size, torch.SymInt) and size == 1 else role
        for size, role in zip(shape, tail, strict=True)
    )


def _getitem(builder: Incremental, node: fx.Node) -> None:
    source = args_of(node)[0]
    builder.emit(node, (builder._new[source], args_of(node)[1]), builder.roles[source], {})


def _last_dimension(builder: Incremental, node: fx.Node) -> None:
    """Linear and the norms: work on the last dimensions, each row for itself."""
    data = args_of(node)[0]
    if not builder.is_data(data):
        raise Blocked("its weights depend on the tokens")
    roles = builder.roles[data]
    width = len(args_of(node)[1]) if target_of(node) in _NORMS else 1
    if node.op == "call_module" and node.meta["operator"] is not aten.linear.default:
        owner = builder.captured.root.get_submodule(str(target_of(node)))
        width = len(owner.normalized_shape)  # type: ignore[arg-type]
    if any(role is not None for role in roles[-width:]):
        raise Blocked("it works over tokens")
    rest = [builder.plain(each) for each in args_of(node)[1:]]
    builder.emit(node, (builder._new[data], *rest), roles)


def _embedding(builder: Incremental, node: fx.Node) -> None:
    at = 0 if node.op == "call_module" else 1
    ids = args_of(node)[at]
    args = [
        builder.plain(each) if each is not ids else builder._new[each] for each in args_of(node)
    ]
    builder.emit(node, tuple(args), (*builder.roles[ids], None))


def _softmax(builder: Incremental, node: fx.Node) -> None:
    data = args_of(node)[0]
    roles = builder.roles[data]
    if roles[int(args_of(node)[1])] in (QUERY, POSITION):
        raise Blocked("it works over the tokens that ask")
    builder.emit(node, (builder._new[data], *args_of(node)[1:]), roles)


def _reduction(builder: Incremental, node: fx.Node) -> None:
    data = args_of(node)[0]
    roles = builder.roles[data]
    named = args_of(node)[1] if len(args_of(node)) > 1 else kwargs_of(node).get("dim")
    dims = (
        range(len(roles))
        if named is None or named == []
        else ([named] if isinstance(named, int) else named)
    )
    gone = {int(dim) % len(roles) for dim in dims}
    if any(roles[dim] in (QUERY, POSITION) for dim in gone):
        raise Blocked("it works over tokens")
    value = node.meta["val"]
    first = value[0] if isinstance(value, tuple | list) else value
    if first.dim() == len(roles):
        kept = tuple(None if dim in gone else role for dim, role in enumerate(roles))
    else:
        kept = tuple(role for dim, role in enumerate(roles) if dim not in gone)
    args = (builder._new[data], *(builder.plain(each) for each in args_of(node)[1:]))
    builder.emit(node, args, kept)


def _chosen(builder: Incremental, node: fx.Node) -> None:
    """Top-k and sorting: all results keep the dimensions."""
    data = args_of(node)[0]
    roles = builder.roles[data]
    at = {aten.topk.default: 2, aten.sort.default: 1}[target_of(node)]
    dim = args_of(node)[at] if len(args_of(node)) > at else kwargs_of(node).get("dim", -1)
    if roles[int(dim)] is not None:
        raise Blocked("it works over tokens")
    builder.emit(node, (builder._new[data], *args_of(node)[1:]), roles)


def _concatenation(builder: Incremental, node: fx.Node) -> None:
    parts: list[fx.Node] = list(args_of(node)[0])
    rank = node.meta["val"].dim()
    dim = int(args_of(node)[1] if len(args_of(node)) > 1 else 0)
    stacks = target_of(node) is aten.stack.default
    dim %= rank
    joined: Roles = (None,) * (rank - stacks)
    for part in parts:
        joined = tuple(map(_stronger, joined, builder.roles_of(part)))
    if not stacks and joined[dim] is not None:
        raise Blocked("it joins tokens to others")
    roles = (*joined[:dim], None, *joined[dim:]) if stacks else joined
    made = [builder.operand(part, joined) for part in parts]
    builder.emit(node, (made, dim), roles, {})


def _matmul(builder: Incremental, node: fx.Node) -> None:
    left, right = args_of(node)[:2]
    _product(builder, node, left, right)


def _added_matmul(builder: Incremental, node: fx.Node) -> None:
    left, right = args_of(node)[1:3]
    _product(builder, node, left, right)


def _product(builder: Incremental, node: fx.Node, left: fx.Node, right: fx.Node) -> None:
    first, second = list(builder.roles_of(left)), list(builder.roles_of(right))
    if len(second) < 2 or len(first) < 2:
        raise Blocked("a product with a vector")
    wanted_first, wanted_second = _paired(first, second)
    batch = node.meta["val"].dim() - 2
    args: tuple[fx.Node, ...] = (
        builder.operand(left, tuple(wanted_first)),
        builder.operand(right, tuple(wanted_second)),
    )
    heads = [None] * (batch - len(first) + 2) + wanted_first[:-2]
    others = [None] * (batch - len(second) + 2) + wanted_second[:-2]
    joined = [_stronger(one, other) for one, other in zip(heads, others, strict=True)]
    roles = (*joined, wanted_first[-2], wanted_second[-1])
    added = args_of(node)[0]
    if added is not left:
        args = (builder.operand(added, _aligned(added, roles)), *args)
    builder.emit(node, args, roles)


def _paired(
    first: list[str | None], second: list[str | None]
) -> tuple[list[str | None], list[str | None]]:
    """The roles that the two sides of a product must have: who asks, and who is asked."""
    first, second = list(first), list(second)
    summed = (first[-1], second[-2])
    if QUERY in summed or KEY in summed:
        if summed == (QUERY, QUERY):
            raise Blocked("it sums over the tokens that ask")
        first[-1] = second[-2] = KEY
        # Weights without ids, as in an average over all tokens before: their rows are what asks.
        if first[-2] == POSITION:
            first[-2] = QUERY
        if second[-1] == POSITION:
            second[-1] = QUERY
    if first[-2] == QUERY and second[-1] in (QUERY, POSITION):
        second[-1] = KEY
    elif first[-2] == POSITION and second[-1] == QUERY:
        first[-2] = KEY
    return first, second


def _addmm(builder: Incremental, node: fx.Node) -> None:
    bias, data, weight = args_of(node)[:3]
    if not builder.is_data(data) or builder.is_data(weight) or builder.roles[data][-1] is not None:
        raise Blocked("it works over tokens")
    args = (builder.plain(bias), builder._new[data], builder.plain(weight))
    builder.emit(node, args, builder.roles[data])


def _attention(builder: Incremental, node: fx.Node) -> None:
    given = dict(zip(_ATTENTION, args_of(node), strict=False)) | dict(node.kwargs)
    query, key, value = (given[name] for name in ("query", "key", "value"))
    roles = builder.roles_of(query)
    if not builder.is_data(query) or roles[-2] != QUERY:
        raise Blocked("its queries are no tokens")
    sides = [
        tuple(KEY if role == QUERY else role for role in builder.roles_of(each))
        for each in (key, value)
    ]
    mask = given.get("attn_mask")
    kwargs = {name: given[name] for name in ("scale", "enable_gqa") if given.get(name) is not None}
    if isinstance(mask, fx.Node):
        rank = mask.meta["val"].dim()
        wanted = _aligned(mask, (*(None,) * max(0, rank - 2), QUERY, KEY)[-rank:])
        if not builder.drops_mask(mask, wanted, _is_open):
            kwargs["attn_mask"] = builder.operand(mask, wanted)
    args = (builder._new[query], builder.operand(key, sides[0]), builder.operand(value, sides[1]))
    builder.emit(node, args, (*roles[:-1], None), kwargs)


def _is_open(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


def _nothing(mask: Tensor) -> Tensor:
    return ~mask


def _zero(mask: Tensor) -> Tensor:
    return mask == 0


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_NORMS = {aten.layer_norm.default, aten.rms_norm.default}
# Operators that torch does not tag as pointwise though each entry stands for itself.
_POINTWISE = {
    aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default,
    aten.type_as.default, aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.ScalarOther,
    aten.where.ScalarSelf, aten.where.Scalar, aten.where.self, aten.square.default,
    aten.float_power.Tensor_Scalar,
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.subtract.Tensor,
    aten.multiply.Tensor, aten.divide.Tensor, aten.nan_to_num.default, aten.selu.default,
    aten.relu6.default,
    aten.softplus.default, aten.mish.default, aten.log_sigmoid.default, aten.dropout.default,
}  # fmt: skip
# The argument that is a mask, the one that is masked, and which entries of the mask change nothing.
_MASKS: dict[Any, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    aten.masked_fill.Scalar: ((1, 0), _nothing),
    aten.masked_fill.Tensor: ((1, 0), _nothing),
    aten.where.self: ((0, 1), _is_open),
    aten.where.ScalarOther: ((0, 1), _is_open),
    aten.add.Tensor: ((1, 0), _zero),
}
_RULES: dict[Any, Rule] = {
    aten.linear.default: _last_dimension,
    aten.layer_norm.default: _last_dimension,
    aten.rms_norm.default: _last_dimension,
    aten.embedding.default: _embedding,
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
    aten.log_softmax.int: _softmax,
    aten.sum.dim_IntList: _reduction,
    aten.mean.dim: _reduction,
    aten.amax.default: _reduction,
    aten.amin.default: _reduction,
    aten.max.dim: _reduction,
    aten.var.dim: _reduction,
    aten.var.correction: _reduction,
    aten.std.correction: _reduction,
    aten.std.dim: _reduction,
    aten.linalg_vector_norm.default: _reduction,
    aten.topk.default: _chosen,
    aten.sort.default: _chosen,
    aten.cat.default: _concatenation,
    aten.stack.default: _concatenation,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.mm.default: _matmul,
    aten.baddbmm.default: _added_matmul,
    aten.addmm.default: _addmm,
    aten.scaled_dot_product_attention.default: _attention,
}
