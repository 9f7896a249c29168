"""Statistics of every tensor that a model holds, one tensor at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.optimize.quantize.int8_linear import uses_conv1d_layout
from engine.profile.weight_rank import matrix_rank, seconds_of_rank
from engine.profile.weight_statistics import OUTLIER_SIGMAS, as_rows, look_at, rounding_error
from engine.program import held_bytes
from engine.records import TensorGroup, TensorStatistics, WeightRank, WeightStatistics, replace

RANK_SECONDS = 30.0
_LARGEST_SPARSE = 1 << 26
_NO_WEIGHTS = "no weights are here, only shapes"


@dataclass(frozen=True)
class Held:
    """One tensor of a model, with where it belongs; None where it cannot be looked into."""

    name: str
    module: str
    module_type: str
    kind: Literal["parameter", "buffer", "packed"]
    tensor: Tensor | None
    is_transposed: bool = False
    dtype: str = ""
    size_bytes: int = 0
    skipped: str = ""
    unpack: Callable[[], Tensor] | None = None

    @property
    def values(self) -> Tensor | None:
        """The tensor, unpacked where it is packed; a packed one is made anew by each look."""
        return self.unpack() if self.unpack is not None else self.tensor


def weight_statistics(
    module: nn.Module,
    *,
    model: str,
    study: str = "",
    rank_seconds: float = RANK_SECONDS,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> WeightStatistics:
    """Histogram, outliers, sparsity, rank and rounding error of every tensor.

    One tensor is converted at a time, in pieces. Tied tensors are looked at once. Effective ranks
    are computed in the model's order until `rank_seconds` are spent; what is left out says so.

    Args:
        module: on any device; on meta there are shapes only.
        model: its name.
        study: the id of the study that it belongs to.
        rank_seconds: the most time for singular values.
        progress: called with a fraction 0 to 1 and a few words.
    """
    began = time.perf_counter()
    clock = _RankClock(rank_seconds)
    held = list(held_tensors(module))
    shared = _shared_storage(held)
    rows: list[TensorStatistics] = []
    seen: dict[object, int] = {}
    repeated: set[int] = set()
    total = sum(each.size_bytes for each in held) or 1
    done = 0
    with torch.inference_mode():
        for each in held:
            progress(done / total, f"Looking at {each.name}")
            done += each.size_bytes
            key = _identity(each)
            if key is not None and key in seen:
                repeated.add(len(rows))
                row = dataclasses.replace(
                    rows[seen[key]], name=each.name, module=each.module,
                    module_type=each.module_type, kind=each.kind,
                )  # fmt: skip
            else:
                row = _statistics(each, clock)
                if key is not None:
                    seen[key] = len(rows)
            rows.append(row)
        rows = _with_ties(rows, shared)
        rows, duplicated = _with_duplicates(rows, held, repeated)
    tied = [
        TensorGroup("tied", names, next(each.size_bytes for each in rows if each.name == names[0]))
        for names in sorted(set(shared.values()))
    ]
    once = [each for index, each in enumerate(rows) if index not in repeated]
    looked_at = [each for each in once if each.zeros is not None]
    elements = sum(each.elements for each in looked_at)
    return WeightStatistics(
        study=study,
        model=model,
        tensors=tuple(rows),
        groups=(*tied, *duplicated),
        held_bytes=sum(held_bytes(module).values()),
        duplicated_bytes=sum(each.size_bytes * (len(each.names) - 1) for each in duplicated),
        elements=sum(each.elements for each in once),
        zero_share=sum(each.zeros or 0 for each in looked_at) / elements if elements else None,
        created=time.time(),
        seconds=time.perf_counter() - began,
        is_meta=bool(held)
        and all(each.tensor is not None and each.tensor.is_meta for each in held),
        warnings=clock.warnings(),
    )


def held_tensors(module: nn.Module) -> Iterator[Held]:
    """Parameters, buffers and packed weights under every name that they have, in order."""
    for path, owner in module.named_modules():
        kind = type(owner).__name__
        is_transposed = uses_conv1d_layout(owner)
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                yield _held(path, name, kind, "parameter", parameter, is_transposed)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                yield _held(path, name, kind, "buffer", buffer, False)
        yield from _packed(path, owner)


def _held(
    path: str,
    name: str,
    module_type: str,
    kind: Literal["parameter", "buffer"],
    tensor: Tensor,
    is_transposed: bool,
) -> Held:
    return Held(
        f"{path}.{name}" if path else name, path, module_type, kind, tensor, is_transposed,
        str(tensor.dtype).removeprefix("torch."), _bytes_of(tensor),
    )  # fmt: skip


def _packed(path: str, owner: nn.Module) -> Iterator[Held]:
    """The weights of a module that keeps them outside of tensors, where they can be unpacked."""
    sizes: dict[str, int] = getattr(owner, "packed_bytes", {})
    name = f"{path}.weight" if path else "weight"
    kind = type(owner).__name__
    if sizes and hasattr(owner, "plain_weights"):
        size = sum(sizes.values())
        yield Held(name, path, kind, "packed", None, False, "int8", size, "", _unpacking(owner))
    elif sizes:
        dtype = max(sizes, key=lambda each: sizes[each])
        why = f"packed by {kind}, which cannot unpack it"
        yield Held(name, path, kind, "packed", None, False, dtype, sum(sizes.values()), why)
    elif hasattr(owner, "_packed_params") and callable(getattr(owner, "weight", None)):
        read: Any = owner.weight  # torch.ao's quantized Linear and Conv
        found = read()
        dtype = str(found.dtype).removeprefix("torch.")
        yield Held(name, path, kind, "packed", None, False, dtype, _bytes_of(found), "", read)


def _unpacking(owner: Any) -> Callable[[], Tensor]:
    def unpack() -> Tensor:
        levels, scale = owner.plain_weights()
        return levels.float() * scale[:, None]  # type: ignore[no-any-return]

    return unpack


def _statistics(each: Held, clock: _RankClock) -> TensorStatistics:
    tensor = each.values
    blank = TensorStatistics(
        name=each.name,
        module=each.module,
        module_type=each.module_type,
        kind=each.kind,
        shape=tuple(tensor.shape) if tensor is not None else (),
        dtype=each.dtype,
        elements=tensor.numel() if tensor is not None else 0,
        size_bytes=each.size_bytes,
        outlier_sigmas=OUTLIER_SIGMAS,
        skipped=each.skipped,
    )
    if tensor is None:
        return blank
    values, reason = _plain(tensor)
    if values is None:
        return replace(blank, skipped=reason)
    rows = as_rows(values, is_transposed=each.is_transposed)
    found = look_at(rows)
    row = replace(blank, **vars(found))
    if values.dim() < 2 or not values.is_floating_point() or row.minimum is None:
        return row
    rank, reason = _rank_of(values, rows, clock) if not found.nan_count + found.inf_count else (
        None, "it holds NaN or Inf",
    )  # fmt: skip
    return replace(
        row, rank=rank, rounding=rounding_error(rows), skipped=f"rank: {reason}" if reason else ""
    )


def _rank_of(values: Tensor, rows: Tensor, clock: _RankClock) -> tuple[WeightRank | None, str]:
    matrix = values[0] if values.dim() == 3 else rows
    if min(matrix.shape) < 2:
        return None, ""
    if not clock.affords(seconds_of_rank(*matrix.shape)):
        return None, f"no time was left of {clock.limit:.0f} s"
    began = time.perf_counter()
    found = matrix_rank(matrix)
    clock.spent += time.perf_counter() - began
    return (replace(found, matrix=0) if values.dim() == 3 else found), ""


class _RankClock:
    """Time for singular values; large matrices that no longer fit are left out, and counted."""

    def __init__(self, limit: float) -> None:
        self.limit, self.spent, self.left_out = limit, 0.0, 0

    def affords(self, seconds: float) -> bool:
        if self.spent + seconds <= self.limit:
            return True
        self.left_out += 1
        return False

    def warnings(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        return (
            f"The effective rank of {self.left_out} large matrices is left out: it would take"
            f" longer than {self.limit:.0f} s.",
        )


def _plain(tensor: Tensor) -> tuple[Tensor | None, str]:
    """The tensor as strided real numbers on the CPU; None and why where it is not to be had."""
    if tensor.is_meta:
        return None, _NO_WEIGHTS
    if tensor.layout != torch.strided:
        if tensor.numel() > _LARGEST_SPARSE:
            return None, f"sparse, and too large to be filled in: {tensor.numel()} elements"
        tensor = tensor.to_dense()
    try:
        if tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            tensor = tensor.dequantize() if hasattr(tensor, "dequantize") else tensor
    except (NotImplementedError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, f"{type(tensor).__name__} cannot be turned into numbers: {first}"[:200]
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.detach().cpu(), ""


def _identity(each: Held) -> object:
    """The same for two names of one tensor; None for what has no storage to tell it by."""
    tensor = each.tensor
    if tensor is None or each.kind == "packed" or not _has_storage(tensor) or not tensor.numel():
        return None
    place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return (tensor.untyped_storage()._cdata, *place, each.is_transposed)


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and type(tensor) in (Tensor, nn.Parameter, nn.Buffer)


def _shared_storage(held: list[Held]) -> dict[str, tuple[str, ...]]:
    """For each name that shares its storage with others, all of their names."""
    names: dict[int, list[str]] = defaultdict(list)
    for each in held:
        if _identity(each) is not None and each.tensor is not None:
            names[each.tensor.untyped_storage()._cdata].append(each.name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _with_ties(
    rows: list[TensorStatistics], shared: dict[str, tuple[str, ...]]
) -> list[TensorStatistics]:
    return [
        replace(row, tied_with=tuple(name for name in shared.get(row.name, ()) if name != row.name))
        for row in rows
    ]


def _with_duplicates(
    rows: list[TensorStatistics], held: list[Held], repeated: set[int]
) -> tuple[list[TensorStatistics], list[TensorGroup]]:
    """Marks equal contents in storage of their own; constants (all ones) are left out.

    Only tensors whose statistics agree are read again, for a SHA-256 of their bytes.
    """
    alike: dict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if index not in repeated and row.minimum is not None and row.minimum != row.maximum:
            alike[(row.shape, row.dtype, row.minimum, row.maximum, row.mean, row.std)].append(index)
    same: dict[str, list[int]] = defaultdict(list)
    for indices in alike.values():
        if len(indices) > 1:
            for index in indices:
                same[_content(held[index])].append(index)
    groups = []
    for indices in same.values():
        if len(indices) < 2:
            continue
        first = rows[indices[0]]
        groups.append(
            TensorGroup("duplicated", tuple(rows[each].name for each in indices), first.size_bytes)
        )
        for index in indices[1:]:
            rows[index] = replace(rows[index], duplicate_of=first.name)
    return rows, groups


def _content(each: Held) -> str:
    tensor = each.values
    values = _plain(tensor)[0] if tensor is not None else None
    if values is None:
        return each.name
    digest = hashlib.sha256(f"{each.dtype} {tuple(values.shape)}".encode())
    for piece in torch.split(as_rows(values), 4096):
        digest.update(piece.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> int:
    if tensor.layout != torch.strided and not tensor.is_quantized:
        parts = [getattr(tensor, name, None) for name in ("_values", "_indices")]
        if tensor.layout == torch.sparse_coo:
            return sum(_bytes_of(part()) for part in parts if callable(part))
        return tensor.values().numel() * tensor.element_size()
    inner = getattr(tensor, "__tensor_flatten__", None)
    if callable(inner) and type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        names: Any = inner()[0]
        return sum(_bytes_of(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()
