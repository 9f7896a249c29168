"""Statistics of every tensor that a model holds, one tensor at a time."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from engine.profile.held_tensors import Held, has_storage, held_tensors, identity, plain
from engine.profile.machine import usable_cores
from engine.profile.weight_rank import matrix_rank, seconds_of_rank
from engine.profile.weight_statistics import OUTLIER_SIGMAS, as_rows, look_at, rounding_error
from engine.records import TensorGroup, TensorStatistics, WeightRank, WeightStatistics, replace

RANK_SECONDS = 30.0


def weight_statistics(
    module: nn.Module,
    *,
    model: str,
    study: str = "",
    rank_seconds: float = RANK_SECONDS,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> WeightStatistics:
    """Histogram, outliers, sparsity, rank and rounding error of every tensor.

    A tensor is read in pieces; each core has one at a time. Tied tensors are looked at once.
    Effective ranks are computed in the model's order until the cores have spent `rank_seconds` on
    them; what is left out says so.

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
    first: dict[object, int] = {}
    repeated = {
        index: at
        for index, each in enumerate(held)
        if (at := first.setdefault(identity(each) or index, index)) != index
    }
    rows = _all_statistics(held, repeated, clock, progress)
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
        held_bytes=_held_bytes(held),
        duplicated_bytes=sum(each.size_bytes * (len(each.names) - 1) for each in duplicated),
        elements=sum(each.elements for each in once),
        zero_share=sum(each.zeros or 0 for each in looked_at) / elements if elements else None,
        created=time.time(),
        seconds=time.perf_counter() - began,
        is_meta=bool(held)
        and all(each.tensor is not None and each.tensor.is_meta for each in held),
        warnings=clock.warnings(),
    )


def _all_statistics(
    held: list[Held],
    repeated: Mapping[int, int],
    clock: _RankClock,
    progress: Callable[[float, str], None],
) -> list[TensorStatistics]:
    """One row a tensor; those of `repeated` (index to the index that it repeats) are copied.

    Cores take a tensor each: threads inside an operator would wait for each other at every piece.
    """

    def look(index: int) -> TensorStatistics:
        with torch.inference_mode():
            return _statistics(held[index], clock)

    wanted = [index for index in range(len(held)) if index not in repeated]
    total = sum(held[index].size_bytes for index in wanted) or 1
    done, found = 0, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for index, row in zip(wanted, pool.map(look, wanted), strict=True):
                done += held[index].size_bytes
                progress(done / total, f"Looked at {row.name}")
                found[index] = row
    finally:
        torch.set_num_threads(threads)
    for index, at in repeated.items():
        each = held[index]
        found[index] = replace(
            found[at], name=each.name, module=each.module, module_type=each.module_type,
            kind=each.kind,
        )  # fmt: skip
    return [found[index] for index in range(len(held))]


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
    values, reason = plain(tensor)
    if values is None:
        return replace(blank, skipped=reason)
    rows = as_rows(values, is_transposed=each.is_transposed)
    found = look_at(rows)
    row = replace(blank, **vars(found))
    if values.dim() < 2 or not values.is_floating_point() or row.minimum is None:
        return row
    if found.nan_count or found.inf_count:
        return replace(row, skipped="rank and rounding: it holds NaN or Inf")
    rank, reason = _rank_of(values, rows, clock)
    largest = max(abs(row.minimum), abs(row.maximum or 0.0))
    return replace(
        row,
        rank=rank,
        rounding=rounding_error(rows, largest),
        skipped=f"rank: {reason}" if reason else "",
    )


def _rank_of(values: Tensor, rows: Tensor, clock: _RankClock) -> tuple[WeightRank | None, str]:
    matrix = values[0] if values.dim() == 3 else rows
    if min(matrix.shape) < 2:
        return None, ""
    if not clock.affords(seconds_of_rank(*matrix.shape)):
        return None, f"no time was left of {clock.limit:.0f} s"
    began = time.perf_counter()
    found = matrix_rank(matrix)
    clock.spend(time.perf_counter() - began)
    return (replace(found, matrix=0) if values.dim() == 3 else found), ""


class _RankClock:
    """Time for singular values; large matrices that no longer fit are left out, and counted."""

    def __init__(self, limit: float) -> None:
        self.limit, self.left_out = limit, 0
        self._spent, self._lock = 0.0, threading.Lock()

    def affords(self, seconds: float) -> bool:
        with self._lock:
            if self._spent + seconds <= self.limit:
                return True
            self.left_out += 1
            return False

    def spend(self, seconds: float) -> None:
        with self._lock:
            self._spent += seconds

    def warnings(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        return (
            f"The effective rank of {self.left_out} large matrices is left out: it would take"
            f" longer than {self.limit:.0f} s.",
        )


def _held_bytes(held: list[Held]) -> int:
    """Bytes of all tensors, those in one storage once."""
    seen: dict[int, int] = {}
    others = 0
    for each in held:
        tensor = each.tensor
        if tensor is not None and has_storage(tensor):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
        else:
            others += each.size_bytes
    return others + sum(seen.values())


def _shared_storage(held: list[Held]) -> dict[str, tuple[str, ...]]:
    """For each name that shares its storage with others, all of their names."""
    names: dict[int, list[str]] = defaultdict(list)
    for each in held:
        if identity(each) is not None and each.tensor is not None:
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
    rows: list[TensorStatistics], held: list[Held], repeated: Mapping[int, int]
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
    values = plain(tensor)[0] if tensor is not None else None
    if values is None:
        return each.name
    digest = hashlib.sha256(f"{each.dtype} {tuple(values.shape)}".encode())
    for piece in torch.split(as_rows(values), 4096):
        digest.update(piece.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
