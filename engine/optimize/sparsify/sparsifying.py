"""The whole of setting one live program's weights to zero: score, mask, store, tell."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.layers import is_excluded
from engine.optimize.prune.importance import calibration_calls
from engine.optimize.prune.running import Look, answer_of, distance, look_at_inputs
from engine.optimize.prune.sharing import replace_everywhere_, shared_parameters
from engine.optimize.prune.units import Layer
from engine.optimize.quantize.int8_linear import is_linear
from engine.optimize.sparsify.csr_layer import CsrLinear
from engine.optimize.sparsify.masks import (
    global_masks,
    input_norms,
    layer_mask,
    row_mask,
    scores,
    two_of_four_mask,
)
from engine.optimize.sparsify.semi_structured_layer import (
    SemiStructuredLinear,
    semi_structured_reason,
)
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program

# Sparse rows over dense, float32, one thread, 768 x 768 to 4096 x 1024: at 70 to 75 % zeros 1.1 to
# 4.4 times as fast for a few rows (once 0.35) and 0.2 to 0.8 for 512; at 90 % 1.4 to 4.6 for 128
# rows; at 95 % 1.3 to 4.8 for 512. Layers of 512 x 512 gain 0.3 to 2, smaller ones mostly lose.
_LEAST_SPARSITY = ((16, 0.75), (128, 0.9), (1 << 62, 0.95))
_SMALLEST = 500_000
_SAMPLE_BYTES = 1 << 20
_LISTED = 5


def least_sparsity(rows: int) -> float:
    """Share of zeros from which sparse rows are faster than dense ones, for so many input rows."""
    return next(each for limit, each in _LEAST_SPARSITY if rows <= limit)


def describe(program: Program, inputs: Inputs, kind: str) -> dict[str, Any]:
    """The layers whose weights can go, and the rows that they multiply; plain JSON."""
    module = program.module
    tied = shared_parameters(module)
    layers = list(_layers(module))
    on_meta = any(each.is_meta for each in module.parameters())
    rows = {} if on_meta else _rows_of(program, layers, inputs)
    is_cached = kind == "generate" and bool(program.decoder and program.decoder.keeps_cache)
    weights = [each.module.weight for each in layers]
    reasons = {semi_structured_reason(each.weight) for each in layers if _is_linear(each)}
    return {
        "layers": {
            each.name: {
                "sizes": list(each.weight.flatten(1).shape),
                "is_linear": _is_linear(each),
                "rows": _batch(inputs) if is_cached else rows.get(each.name, 0),
            }
            for each in layers
        },
        "tied": [each.name for each in layers if id(each.module.weight) in tied],
        "zeros": {} if on_meta else {n: share for n, share in _zeros(layers) if share >= 0.5},
        "on_meta": on_meta,
        "device": next((each.device.type for each in weights if not each.is_meta), "cpu"),
        "dtypes": sorted({str(each.dtype).removeprefix("torch.") for each in weights}),
        "two_of_four": "" if "" in reasons else next(iter(reasons), "there is no Linear layer"),
    }


def sparsify_(program: Program, context: BuildContext) -> list[str]:
    """Sets weights to zero in place and gives back what the person should know.

    Raises:
        StepRefused: no layer is left, or none that the asked kernel takes.
    """
    config, module = context.config, program.module
    tied = shared_parameters(module)
    every = [each for each in _layers(module) if not is_excluded(each.name, config.exclude)]
    is_grouped = config.pattern == "2of4"
    left = {e.name: "its weight belongs to another module too"
            for e in every if id(e.module.weight) in tied}  # fmt: skip
    if is_grouped:
        left |= {
            each.name: "2:4 takes Linear layers with a multiple of 4 inputs"
            for each in every
            if not _is_linear(each) or each.weight.shape[1] % 4
        }
    layers = [each for each in every if each.name not in left]
    if not layers:
        why = next(iter(left.values()), "none is there")
        raise StepRefused(f"magnitude_prune: no layer can be pruned: {why}.")
    calls = calibration_calls(context.calibration, context.inputs)
    expected = answer_of(program, calls[0])
    sample = _packed_share(layers)
    masks = _masks(program, layers, calls, config)
    for each in layers:
        _mask_(each, masks[each.name])
    moved = distance(answer_of(program, calls[0]), expected)
    packed = _packed_share(layers)
    rows = _rows_of(program, layers, context.inputs)
    if context.workload.kind == "generate" and program.decoder and program.decoder.keeps_cache:
        rows = dict.fromkeys(rows, _batch(context.inputs))
    stored = _stored_(program, layers, masks, rows, context)
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    used = (
        f"{len(context.calibration)} calibration examples" if context.calibration
        else "the workload's own inputs, since there is no calibration data"
    )  # fmt: skip
    notes = [
        f"magnitude_prune: {zeros:,} of {total:,} weights in {len(layers)} layers are zero"
        f" ({zeros / total:.1%}); on {used} the outputs move by {moved:.3f}.",
        *_storage_notes(stored, len(layers), sample, packed),
    ]
    for reason, count in Counter(left.values()).items():
        names = [name for name, why in left.items() if why == reason]
        more = ", ..." if count > _LISTED else ""
        notes.append(f"Left whole, since {reason}: {', '.join(names[:_LISTED])}{more}.")
    return notes


def _masks(
    program: Program, layers: list[Layer], calls: list[Inputs], config: Any
) -> dict[str, Tensor]:
    norms = input_norms(program, layers, calls) if config.score == "wanda" else {}
    broken = [name for name, each in norms.items() if not bool(torch.isfinite(each).all())]
    if broken:
        raise StepRefused(
            f"magnitude_prune: the inputs of {broken[0]} are not finite on the calibration data.",
            hint="Use score=magnitude, which looks at the weights alone.",
        )
    found = {e.name: scores(e.weight.flatten(1), norms.get(e.name)) for e in layers}
    if config.pattern == "2of4":
        return {name: two_of_four_mask(each) for name, each in found.items()}
    if config.scope == "global":
        return global_masks(found, config.sparsity)
    of_one = {"row": row_mask, "layer": layer_mask}[config.scope]
    return {name: of_one(each, config.sparsity) for name, each in found.items()}


def _mask_(layer: Layer, mask: Tensor) -> None:
    shaped = mask.reshape(layer.weight.shape)
    with torch.no_grad():
        held: Any = layer.module.weight
        held.mul_(shaped.t() if layer.is_transposed else shaped)


def _stored_(
    program: Program, layers: list[Layer], masks: dict[str, Tensor], rows: dict[str, int],
    context: BuildContext,
) -> dict[str, int]:  # fmt: skip
    """Puts layers into the form that a sparse kernel takes; how many are in which."""
    config = context.config
    made: dict[nn.Module, nn.Module] = {}
    counts: Counter[str] = Counter()
    for each in layers:
        kernel = _kernel(each, masks[each.name], rows.get(each.name, 0), context)
        if kernel != "dense":
            made[each.module] = _MAKERS[kernel](each).train(each.module.training)
            counts[kernel] += 1
    if config.kernel != "auto" and config.kernel != "dense" and not made:
        raise StepRefused(
            f"magnitude_prune: no layer can run by the kernel {config.kernel}.",
            hint="Use kernel=auto.",
        )
    replace_everywhere_(program.module, made)
    return dict(counts)


def _kernel(layer: Layer, mask: Tensor, rows: int, context: BuildContext) -> str:
    config, weight = context.config, layer.weight
    can_train = context.workload.kind == "train_step"
    if config.kernel == "dense" or can_train or not _is_linear(layer):
        return "dense"
    if config.pattern == "2of4" and config.kernel in ("auto", "semi_structured"):
        return "dense" if semi_structured_reason(layer.weight) else "semi_structured"
    is_possible = weight.device.type == "cpu" and weight.dtype == torch.float32
    if not is_possible or config.kernel == "semi_structured":
        return "dense"
    sparsity = 1 - float(torch.mean(mask.float()))
    pays = weight.numel() >= _SMALLEST and sparsity >= least_sparsity(rows)
    return "csr" if config.kernel == "csr" or pays else "dense"


def _csr(layer: Layer) -> nn.Module:
    bias: Any = layer.module.bias
    rows, columns = layer.weight.shape
    made = CsrLinear(columns, rows, 0, bias is not None)
    made.set_weight(layer.weight)
    if bias is not None:
        made.get_buffer("bias").copy_(bias.detach())
    return made


def _semi_structured(layer: Layer) -> nn.Module:
    bias: Any = layer.module.bias
    return SemiStructuredLinear(layer.weight.detach(), None if bias is None else bias.detach())


_MAKERS: dict[str, Callable[[Layer], nn.Module]] = {
    "csr": _csr,
    "semi_structured": _semi_structured,
}


def _storage_notes(stored: dict[str, int], layers: int, sample: float, packed: float) -> list[str]:
    dense = layers - sum(stored.values())
    notes = []
    if stored.get("csr"):
        notes.append(f"{stored['csr']} layers hold their nonzero weights alone (sparse rows).")
    if stored.get("semi_structured"):
        notes.append(f"{stored['semi_structured']} layers run by 2:4 kernels.")
    if dense:
        notes.append(
            f"{dense} layers hold their zeros like other numbers, and no sparse kernel runs them:"
            " they take as much memory and time as before. Only a compressed file gets smaller:"
            f" zlib packs a sample of the weights to {packed:.0%}, before to {sample:.0%}."
        )
    return notes


def _packed_share(layers: list[Layer]) -> float:
    """What zlib leaves of the first megabyte of the weights."""
    taken, size = [], 0
    for each in layers:
        held = each.weight.detach().flatten()[: (_SAMPLE_BYTES - size) // 4].float().cpu()
        taken.append(held.numpy().tobytes())
        size += len(taken[-1])
        if size >= _SAMPLE_BYTES - 4:
            break
    return len(zlib.compress(b"".join(taken), 6)) / max(size, 1)


def _layers(module: nn.Module) -> Iterator[Layer]:
    for name, child in module.named_modules():
        is_convolution = type(child) in (nn.Conv1d, nn.Conv2d) and child.groups == 1
        if is_linear(child) or is_convolution:
            yield Layer(name, child)


def _zeros(layers: list[Layer]) -> Iterator[tuple[str, float]]:
    for each in layers:
        nonzero = int(torch.count_nonzero(each.weight.detach()))
        yield each.name, 1 - nonzero / max(each.weight.numel(), 1)


def _is_linear(layer: Layer) -> bool:
    return not layer.is_convolution


def _rows_of(program: Program, layers: list[Layer], inputs: Inputs) -> dict[str, int]:
    found: dict[str, int] = {}

    def noting(layer: Layer) -> Look:
        def note(given: tuple[Any, ...]) -> None:
            width = max(1, given[0].shape[-1])
            found[layer.name] = max(found.get(layer.name, 0), given[0].numel() // width)

        return note

    look_at_inputs(program, {each.module: noting(each) for each in layers}, [inputs])
    return found


def _batch(inputs: Inputs) -> int:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return max((len(v) for v in values if isinstance(v, Tensor) and v.ndim), default=1)
