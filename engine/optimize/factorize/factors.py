"""The best factors of a weight for the inputs that it sees, and which rank each layer gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Directions that the calibration inputs hardly use keep this part of the mean variance: an input
# of another kind is not lost altogether.
_DAMPING = 1e-3
_BISECTIONS = 60
# Two products instead of one have to save at least this part of the parameters.
_WORTH_SAVING = 0.1


@dataclass(frozen=True)
class Spectrum:
    """What each direction of a layer's outputs carries on the calibration inputs.

    Attributes:
        energies: mean squares along the directions, the largest first [min(out, in)].
        basis: the directions, as far as a rank below break-even needs them [out, directions].
        mean: of the inputs [in], where the layer's bias can take it up; None else.
    """

    rows: int
    columns: int
    energies: Tensor
    basis: Tensor
    mean: Tensor | None

    def lost(self, rank: int) -> float:
        """Relative error of the layer's outputs at a rank, on the calibration inputs."""
        total = float(self.energies.sum())
        return (float(self.energies[rank:].sum()) / total) ** 0.5 if total else 0.0


def low_rank_break_even(rows: int, columns: int) -> int:
    """Largest rank at which two factors cost less than the dense matrix.

    A dense [rows, columns] product costs 2*rows*columns FLOPs per token, two factors of rank r cost
    2*r*(rows + columns).

    Source: Denton et al. 2014, section 3.
    """
    return -(-rows * columns // (rows + columns)) - 1


def spectrum(weight: Tensor, moments: Tensor, count: int, *, has_bias: bool) -> Spectrum:
    """The directions of the outputs of `weight` [out, in] on inputs with these second moments.

    The best layer of rank r in the mean square over the inputs projects the outputs on the r
    directions that carry most: W is replaced by U U^T W with U from the eigenvectors of W S W^T.
    With a bias the outputs' mean is left to it, and S is the covariance.

    Args:
        weight: [out, in].
        moments: sum of x x^T over the inputs with a one appended [in + 1, in + 1].
        count: inputs in that sum.
        has_bias: whether the layer has a bias.

    Source: Eckart and Young 1936; Chen et al. 2021, DRONE, section 3 (the data's own metric); Yuan
    et al. 2023, ASVD; Wang et al. 2024, SVD-LLM, section 3.1 (whitening by Cholesky).
    """
    dense, second = weight.double(), moments.double().to(weight.device) / max(count, 1)
    mean = second[:-1, -1] if has_bias else None
    covariance = second[:-1, :-1]
    if mean is not None:
        covariance = covariance - torch.outer(mean, mean)
    scale = covariance.diagonal().mean().clamp_min(1e-30)
    covariance = covariance + _DAMPING * scale * torch.eye(
        len(covariance), dtype=covariance.dtype, device=covariance.device
    )
    rows, columns = dense.shape
    widest = max(1, low_rank_break_even(rows, columns))
    if rows <= columns:
        energies, vectors = torch.linalg.eigh(dense @ covariance @ dense.t())
        basis = vectors.flip(1)[:, :widest]
    else:
        squares, axes = torch.linalg.eigh(covariance)
        root = (axes * squares.clamp_min(0).sqrt()) @ axes.t()
        shaped = dense @ root
        energies, vectors = torch.linalg.eigh(shaped.t() @ shaped)
        basis = torch.linalg.qr(shaped @ vectors.flip(1)[:, :widest]).Q
    return Spectrum(rows, columns, energies.flip(0).clamp_min(0).cpu(), basis.float().cpu(), mean)


def factors(
    weight: Tensor, bias: Tensor | None, found: Spectrum, rank: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inner factor [rank, in], outer factor [out, rank] and bias [out] of the best such layer."""
    outer = found.basis[:, :rank].double().to(weight.device)
    dense = weight.double()
    inner = outer.t() @ dense
    if bias is None or found.mean is None:
        return inner, outer, bias
    shift = dense @ found.mean
    return inner, outer, bias.double() + shift - outer @ (outer.t() @ shift)


def ranks_by_energy(
    spectra: Mapping[str, Spectrum], energy: float, round_to: int
) -> dict[str, int]:
    """The smallest rank of each layer that keeps this share of its outputs' energy.

    Layers that would not get smaller by it are left out.
    """
    wanted = {}
    for name, each in spectra.items():
        held = each.energies.cumsum(0)
        wanted[name] = int((held < (energy - 1e-12) * held[-1]).sum()) + 1
    return _worthwhile(spectra, {n: -(-r // round_to) * round_to for n, r in wanted.items()})


def ranks_by_budget(spectra: Mapping[str, Spectrum], keep: float, round_to: int) -> dict[str, int]:
    """Ranks with which all layers together keep this share of their parameters, at least loss.

    A rank costs rows + columns parameters and holds a share of its layer's energy: those that hold
    most for each parameter are taken, in whatever layer they are. A layer that reaches break-even
    stays dense.
    """
    budget = keep * sum(each.rows * each.columns for each in spectra.values())
    gains = {
        name: each.energies / each.energies.sum().clamp_min(1e-30) / (each.rows + each.columns)
        for name, each in spectra.items()
    }
    low, high = -80.0, 0.0  # the threshold's logarithm: everything passes, nothing does
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        ranks = _above(gains, middle)
        spent = sum(
            min(ranks[name] * (each.rows + each.columns), each.rows * each.columns)
            for name, each in spectra.items()
        )
        low, high = (low, middle) if spent <= budget else (middle, high)
    found = {n: max(round_to, r // round_to * round_to) for n, r in _above(gains, high).items()}
    return _worthwhile(spectra, found)


def ranks_by_share(spectra: Mapping[str, Spectrum], keep: float, round_to: int) -> dict[str, int]:
    """The rank with which each layer keeps this share of its own parameters."""
    wanted = {
        name: int(keep * each.rows * each.columns / (each.rows + each.columns))
        for name, each in spectra.items()
    }
    found = {name: max(round_to, rank // round_to * round_to) for name, rank in wanted.items()}
    return _worthwhile(spectra, found)


def _above(gains: Mapping[str, Tensor], logarithm: float) -> dict[str, int]:
    return {
        name: max(1, int((each.clamp_min(1e-300).log() >= logarithm).sum()))
        for name, each in gains.items()
    }


def _worthwhile(spectra: Mapping[str, Spectrum], ranks: Mapping[str, int]) -> dict[str, int]:
    return {
        name: rank
        for name, rank in ranks.items()
        if rank * (spectra[name].rows + spectra[name].columns)
        <= (1 - _WORTH_SAVING) * spectra[name].rows * spectra[name].columns
    }
