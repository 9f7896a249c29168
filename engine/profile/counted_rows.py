"""From what was counted to records: a row for each operator and for each module."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from engine.profile.attribution import ROOT, ancestors
from engine.profile.counter import Key, Row
from engine.profile.experts import active_parameters, expert_banks
from engine.profile.formulas import tensor_bytes
from engine.records import ModuleProfile, NotCounted, OperatorProfile

OUTSIDE = "outside modules"


def operator_row(key: Key, row: Row) -> OperatorProfile:
    """The record of one row."""
    name, module, phase, dtype = key
    return OperatorProfile(
        name=name,
        module=module,
        phase=phase,
        shapes=row.shapes,
        dtype=dtype,
        calls=row.calls,
        flops=row.flops,
        moved_bytes=row.moved_bytes,
        weight_bytes=sum(row.weights.values()),
        weights=dict(row.weights),
        elementwise_flops=row.elementwise_flops,
        shape_note="largest of several" if row.is_varied else "",
    )


def not_counted(rows: Mapping[Key, Row]) -> tuple[NotCounted, ...]:
    """Operators that do arithmetic and have no formula, with the modules that call them."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for (name, module, _, _), row in rows.items():
        if row.uncounted:
            found[name].append((row.uncounted, module or OUTSIDE))
    return tuple(
        NotCounted(name, sum(calls for calls, _ in where), tuple(sorted({at for _, at in where})))
        for name, where in sorted(found.items())
    )


def module_rows(
    module: nn.Module, seen: Mapping[Key, Row], calls: Mapping[str, int]
) -> tuple[ModuleProfile, ...]:
    """The model first, then every module, each with everything below it included."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (_, owner, _, _), row in seen.items():
        for name in ancestors(owner):
            entry = sums[name]
            entry[0] += row.flops
            entry[1] += row.moved_bytes
            entry[2] += row.written_bytes
            entry[3] += row.elementwise_flops
    banks = expert_banks(module)
    rows = []
    for name, each in module.named_modules():
        shown = name or ROOT
        flops, moved, written, elementwise = sums[shown]
        held = _static_row(shown, each)
        rows.append(
            dataclasses.replace(
                held,
                elementwise_flops=elementwise,
                active_parameters=active_parameters(name, held.parameters, banks),
                flops=flops,
                moved_bytes=moved,
                activation_bytes=written,
                arithmetic_intensity=flops / moved if moved else 0.0,
                calls=calls.get(shown, 0),
            )
        )
    return tuple(rows)


def packed_bytes(module: nn.Module) -> dict[str, int]:
    """Bytes of weights that modules keep outside of tensors, by the module's name."""
    found = {
        name or ROOT: sum(getattr(each, "packed_bytes", {}).values())
        for name, each in module.named_modules()
    }
    return {name: size for name, size in found.items() if size}


def _static_row(name: str, module: nn.Module) -> ModuleProfile:
    """What a module holds: a tied parameter counts once, packed weights as their module says."""
    own = list(module.parameters())
    dtypes = {str(each.dtype).removeprefix("torch."): 0 for each in own}
    packed = 0
    for each in module.modules():
        sizes = getattr(each, "packed_bytes", {})
        dtypes |= sizes
        packed += sum(sizes.values())
    return ModuleProfile(
        name=name,
        type=type(module).__name__,
        parameters=sum(each.numel() for each in own),
        parameter_bytes=sum(tensor_bytes(each) for each in own) + packed,
        flops=0,
        moved_bytes=0,
        activation_bytes=0,
        arithmetic_intensity=0.0,
        dtype=" ".join(sorted(dtypes)),
        calls=0,
    )
