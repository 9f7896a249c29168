"""How many directions a matrix really uses, from its singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.records import WeightRank

_EXACT_SECONDS = 0.6
_SKETCH = 128  # singular values that the sketch gives
_OVERSAMPLED = 10
_POWER_ITERATIONS = 1
# Multiply-adds for a second that one thread is sure to do; only decides which method is afforded.
_PRODUCTS_PER_S = 2e10
_EIGEN_PER_S = 4e9


def seconds_of_rank(rows: int, columns: int) -> float:
    """What `matrix_rank` will about take at most."""
    exact = _exact_seconds(rows, columns)
    return exact if exact <= _EXACT_SECONDS else _sketch_seconds(rows, columns)


def matrix_rank(values: Tensor, *, seed: int = 0) -> WeightRank:
    """The effective ranks of a matrix [rows, columns] of finite numbers.

    Small ones exactly, by the eigenvalues of the smaller Gram matrix in float64. Large ones by a
    randomized sketch: the largest singular values, with the energy (squared values) that they leave
    spread evenly over the rest, no value above the smallest one known. The stable rank is then
    accurate, and the entropy rank an upper estimate.

    Source: Roy and Vetterli 2007, The effective rank (entropy); Rudelson and Vershynin 2007
    (stable rank); Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1 (randomized SVD).
    """
    rows, columns = values.shape
    full = min(rows, columns)
    if _exact_seconds(rows, columns) <= _EXACT_SECONDS or full <= _SKETCH + _OVERSAMPLED:
        singular = _by_gram(values)
        method = "eigenvalues of the Gram matrix, float64"
        return _rank(singular, rows, columns, computed=full, method=method)
    energy = float(values.double().square().sum())
    largest = _by_sketch(values, seed)
    rest = max(0.0, energy - float(largest.square().sum()))
    left = full - len(largest)
    tail = min(float(largest[-1]), (rest / left) ** 0.5)
    singular = torch.cat((largest, torch.full((left,), tail, dtype=torch.float64)))
    method = (
        f"randomized SVD of {_SKETCH} directions, {_POWER_ITERATIONS} power iteration; the rest of"
        " the energy spread evenly"
    )
    return _rank(singular, rows, columns, computed=len(largest), method=method)


def _rank(singular: Tensor, rows: int, columns: int, *, computed: int, method: str) -> WeightRank:
    energies = singular.square()
    total = float(energies.sum())
    full = len(singular)
    if total == 0:
        return WeightRank(rows, columns, full, 0.0, 0.0, 0, 0, computed, method, computed == full)
    shares = singular / singular.sum()
    entropy = -float(torch.xlogy(shares, shares).sum())
    held = energies.cumsum(0) / total
    return WeightRank(
        rows=rows,
        columns=columns,
        full=full,
        stable=total / float(energies[0]),
        entropy=float(torch.tensor(entropy, dtype=torch.float64).exp()),
        energy_90=_first_beyond(held, 0.90, computed),
        energy_99=_first_beyond(held, 0.99, computed),
        computed=computed,
        method=method,
        is_exact=computed == full,
    )


def _first_beyond(held: Tensor, share: float, computed: int) -> int | None:
    # One part in a million millions is rounding, not a direction.
    reached = int((held < share - 1e-12).sum()) + 1
    return reached if reached <= computed else None


def _by_gram(values: Tensor) -> Tensor:
    wide = values.double()
    small = wide @ wide.t() if wide.shape[0] <= wide.shape[1] else wide.t() @ wide
    found: Tensor = torch.linalg.eigvalsh(small)
    return found.clamp_min(0).sqrt().flip(0)


def _by_sketch(values: Tensor, seed: int) -> Tensor:
    work = values.float()
    generator = torch.Generator().manual_seed(seed)
    width = _SKETCH + _OVERSAMPLED
    probe = torch.randn(work.shape[1], width, generator=generator)
    basis = torch.linalg.qr(work @ probe).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(work.t() @ basis).Q
        basis = torch.linalg.qr(work @ basis).Q
    return _by_gram(basis.t() @ work)[:_SKETCH]


def _exact_seconds(rows: int, columns: int) -> float:
    small, large = sorted((rows, columns))
    return large * small**2 / _PRODUCTS_PER_S + small**3 / _EIGEN_PER_S


def _sketch_seconds(rows: int, columns: int) -> float:
    passes = 2 + 2 * _POWER_ITERATIONS
    return passes * rows * columns * (_SKETCH + _OVERSAMPLED) / _PRODUCTS_PER_S
