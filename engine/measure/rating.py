"""Measures the products of a profile by every scheme that would compute them otherwise."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from engine.measure.undisturbed import lower_quartile, undisturbed_ratio
from engine.optimize.costs import OperatorCost
from engine.optimize.rates import product_of, scheme_of
from engine.optimize.technique import Technique
from engine.profile.product_probes import Call, eager, weight_bytes
from engine.program import synchronize
from engine.records import Product, ProductRate

# Weights that were read this many bytes ago are in no cache of one core.
_COLD_BYTES = 24 << 20
_MOST_COPIES = 16
_ROUNDS, _FEWEST_ROUNDS = 24, 6
_BLOCK_S = 0.002
_LONGEST_CALL_S = 0.5


def products_of(
    rows: Iterable[OperatorCost], *, threads: int | None, device: str
) -> dict[Product, float]:
    """The distinct products of a cost table with their time in ms, the longest first."""
    found: dict[Product, float] = defaultdict(float)
    for row in rows:
        product = product_of(row, threads=threads, device=device)
        if product is not None and product.dtype in ("float32", "float64"):
            found[product] += row.time_high_ms
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def measure_products(
    products: Iterable[Product],
    owners: Mapping[str, Technique],
    *,
    budget_seconds: float,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> tuple[ProductRate, ...]:
    """Each product by each technique that offers it, interleaved with eager PyTorch.

    Args:
        products: the most important first; those that the budget does not reach are left out.
        owners: techniques, with their defaults.
        budget_seconds: for all of them together.
        progress: called with a fraction 0 to 1 and a few words.
    """
    began = time.perf_counter()
    wanted = list(products)
    found: list[ProductRate] = []
    with _threads_restored():
        for index, product in enumerate(wanted):
            left = began + budget_seconds - time.perf_counter()
            if left <= 0:
                break
            progress(index / len(wanted), f"Timing product {index + 1} of {len(wanted)}")
            # A product gets more than its share where those before it took less.
            found += _measured(product, owners, limit_s=max(0.05, 3 * left / (len(wanted) - index)))
    return tuple(found)


@dataclass
class _Scheme:
    """Copies of one product under one scheme, and the seconds of one call in each round."""

    name: str
    copies: list[Call]
    calls: int = 1
    next: int = 0
    seconds: list[float] = field(default_factory=list)


def _measured(
    product: Product, owners: Mapping[str, Technique], *, limit_s: float
) -> Iterator[ProductRate]:
    began = time.perf_counter()
    if product.threads:
        torch.set_num_threads(product.threads)
    size = weight_bytes(product)
    copies = max(1, min(_MOST_COPIES, -(-_COLD_BYTES // size) if size else 1))
    reference = _scheme("", lambda: eager(product), copies)
    if reference is None:
        return
    schemes = [reference]
    for owner in owners.values():
        if product.kind in owner.probed_kinds:
            made = _scheme(
                scheme_of(owner, owner.configure({})),
                lambda owner=owner: owner.probe(product, owner.configure({})),  # type: ignore[misc]
                copies,
            )
            schemes += [made] if made else []
    if len(schemes) > 1:
        _rounds(schemes, product, deadline=began + limit_s)
    for each in schemes[1:]:
        yield _rate(product, reference, each)
    gc.collect()


def _scheme(name: str, make: Callable[[], Call | None], copies: int) -> _Scheme | None:
    """Warmed copies with enough calls for a block; None where there is no kernel or it is slow."""
    try:
        first = make()
        if first is None:
            return None
        first()
        began = time.perf_counter()
        first()
        once = time.perf_counter() - began
        if once > _LONGEST_CALL_S:
            return None
        made = [first, *(each for _ in range(copies - 1) if (each := make()) is not None)]
    except (RuntimeError, NotImplementedError, ValueError, TypeError, ImportError):
        return None  # no such kernel here: the technique's own constants stand in
    return _Scheme(name, made, calls=max(1, int(_BLOCK_S / max(once, 1e-7))))


def _rounds(schemes: list[_Scheme], product: Product, *, deadline: float) -> None:
    order = random.Random(0)
    for done in range(_ROUNDS):
        for each in order.sample(schemes, len(schemes)):
            if product.threads and torch.get_num_threads() != product.threads:
                torch.set_num_threads(product.threads)
            each.copies[-1]()  # another scheme's threads and code are in the way
            synchronize(product.device)
            began = time.perf_counter()
            for _ in range(each.calls):
                each.copies[each.next]()
                each.next = (each.next + 1) % len(each.copies)
            synchronize(product.device)
            each.seconds.append((time.perf_counter() - began) / each.calls)
        if done + 1 >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            return


def _rate(product: Product, reference: _Scheme, scheme: _Scheme) -> ProductRate:
    ratio = undisturbed_ratio(scheme.seconds, reference.seconds)
    return ProductRate(
        product, scheme.name, 1e3 * lower_quartile(reference.seconds),
        1e3 * lower_quartile(scheme.seconds), ratio, len(scheme.seconds), time.time(),
    )  # fmt: skip


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
