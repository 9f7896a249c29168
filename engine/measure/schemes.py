"""The columns of a sensitivity map: ways to make one layer cheaper, as steps; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.errors import InputError
from engine.records import SensitivityScheme, Step

DEFAULT_SCHEMES = ("int8", "int4", "prune", "rank")


@dataclass(frozen=True)
class _Kind:
    """One way; `value` is what stands behind = where nothing does, None where it takes none."""

    title: Callable[[float], str]
    steps: Callable[[float], tuple[Step, ...]]
    value: float | None = None
    low: float = 0.0
    high: float = 0.0
    allowed: tuple[float, ...] = ()


def _int8(value: float) -> tuple[Step, ...]:
    # Nothing is refined and nothing left out: a cell is what plain rounding does.
    loose = {"min_features": 1, "max_layer_error": 1.0}
    return (
        Step("dynamic_int8", {**loose, "refine_above": 1.0, "max_error": 1.0}),
        Step("static_int8", {**loose, "min_channels": 1}),
    )


def _int4(value: float) -> tuple[Step, ...]:
    params = {"bits": 4, "group_size": int(value), "min_features": 1}
    return (Step("weight_only_int", params),)


def _prune(value: float) -> tuple[Step, ...]:
    return tuple(
        Step("structured_prune", {"ratio": value, "target": target})
        for target in ("ffn", "heads", "channels")
    )


def _zeros(value: float) -> tuple[Step, ...]:
    return (Step("magnitude_prune", {"sparsity": value}),)


def _rank(value: float) -> tuple[Step, ...]:
    return (Step("low_rank", {"by": "layer", "keep": value, "min_features": 1}),)


_KINDS: dict[str, _Kind] = {
    "int8": _Kind(lambda value: "int8 weights and activations", _int8),
    "int4": _Kind(
        lambda value: f"int4 weights in groups of {value:.0f}", _int4, 32.0,
        allowed=(32.0, 64.0, 128.0, 256.0),
    ),
    "prune": _Kind(
        lambda value: f"{value:.0%} of its channels or heads removed", _prune, 0.25, 0.01, 0.9
    ),
    "zeros": _Kind(lambda value: f"{value:.0%} of its weights zero", _zeros, 0.5, 0.05, 0.99),
    "rank": _Kind(
        lambda value: f"two factors with {value:.0%} of its weights", _rank, 0.5, 0.05, 0.9
    ),
}  # fmt: skip


def scheme(text: str) -> SensitivityScheme:
    """The scheme that is written `name` or `name=value`: `int8`, `int4=64`, `prune=0.5`.

    Raises:
        InputError: an unknown name, or a value that it cannot have.
    """
    name, equals, written = text.strip().partition("=")
    kind = _KINDS.get(name)
    if kind is None:
        raise InputError(f"No scheme is called {name!r}.", hint=f"There are: {', '.join(_KINDS)}.")
    if kind.value is None:
        if equals:
            raise InputError(f"The scheme {name} takes no value, got {written!r}.")
        return SensitivityScheme(name, kind.title(0.0), kind.steps(0.0))
    value = _value(name, kind, written) if equals else kind.value
    shown = name if value == kind.value else f"{name}={value:g}"
    return SensitivityScheme(shown, kind.title(value), kind.steps(value))


def schemes(texts: Iterable[str] = ()) -> tuple[SensitivityScheme, ...]:
    """The schemes in the given order, each once; the usual ones where none is named."""
    found = {each.name: each for each in map(scheme, list(texts) or DEFAULT_SCHEMES)}
    return tuple(found.values())


def _value(name: str, kind: _Kind, written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = float("nan")
    fits = value in kind.allowed if kind.allowed else kind.low <= value <= kind.high
    if not fits:
        rule = (
            f"be one of {', '.join(f'{each:g}' for each in kind.allowed)}" if kind.allowed
            else f"lie between {kind.low:g} and {kind.high:g}"
        )  # fmt: skip
        raise InputError(f"The value of the scheme {name} must {rule}, got {written!r}.")
    return value
