"""Whether a quantization is real: bytes held, kernels that ran, share of FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.records import Fingerprint, Realness

# Below this share of the FLOPs a step reached the smaller part of the work.
_MOST = 0.5
_SIMULATING = ("fake_quantize", "fake_quant", "dequantize")


@dataclass(frozen=True)
class Scheme:
    """How a number format shows itself in a fingerprint.

    Attributes:
        title: for the message.
        dtypes: dtypes in which weights are held.
        kernels: parts of the names of operators that multiply in it; for weights that are widened
            inside the kernel, those that read them narrow.
        narrows_activations: whether the factors are narrow on both sides, so that FLOPs count as
            low precision.
    """

    title: str
    dtypes: tuple[str, ...]
    kernels: tuple[str, ...]
    narrows_activations: bool = True


INT8 = Scheme(
    "int8",
    ("int8",),
    ("linear_dynamic", "linear_relu_dynamic", "_int_mm", "qlinear_pointwise", "qconv_pointwise",
     "qconv2d_pointwise", "quantized::linear", "quantized::conv"),
)  # fmt: skip
FP8 = Scheme("fp8", ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"), ("_scaled_mm",))


def low_precision_realness(before: Fingerprint, after: Fingerprint, scheme: Scheme) -> Realness:
    """REAL, PARTIAL with its share, SIMULATED or NO-OP, and what it rests on.

    Weights must be held in the format and its kernels must have run; where float products run on
    rounded weights it is simulated. It is partial where less than half of the FLOPs of products is
    in low precision, or more bytes are held than before. Where FLOPs could not be counted the
    share is that of the bytes, and the detail says so.
    """
    held = _held(after, scheme) - _held(before, scheme)
    kernels = {
        name: count for name, count in after.operators.items()
        if any(each in name for each in scheme.kernels)
    }  # fmt: skip
    if held <= 0:
        return _without_bytes(before, after, scheme)
    calls = sum(kernels.values())
    size = f"{held / 1e6:.3g} MB held in {scheme.title}"
    if not calls:
        return Realness(
            "SIMULATED", f"{size}, but products run in floating point on widened weights", 0.0
        )
    share, basis = _share(after, scheme)
    detail = f"{size}, {calls} {scheme.title} products ({_listed(kernels)}) in a short run, {basis}"
    if after.bytes_held > before.bytes_held:
        return Realness("PARTIAL", f"{detail}; more bytes are held than before", share)
    if share < _MOST:
        return Realness("PARTIAL", detail, share)
    return Realness("REAL", detail, share)


def _held(fingerprint: Fingerprint, scheme: Scheme) -> int:
    return sum(fingerprint.dtype_bytes.get(each, 0) for each in scheme.dtypes)


def _without_bytes(before: Fingerprint, after: Fingerprint, scheme: Scheme) -> Realness:
    rounding = [
        name for name, count in after.operators.items()
        if any(each in name for each in _SIMULATING) and count > before.operators.get(name, 0)
    ]  # fmt: skip
    if rounding:
        return Realness(
            "SIMULATED",
            f"values are rounded by {rounding[0]} and multiplied in floating point; no weights are"
            f" held in {scheme.title}",
            0.0,
        )
    return Realness("NO-OP", f"no weights are held in {scheme.title}", 0.0)


def _share(after: Fingerprint, scheme: Scheme) -> tuple[float, str]:
    if after.flops and scheme.narrows_activations:
        share = after.low_precision_flops_share
        return share, f"{share:.0%} of the products' FLOPs in low precision"
    held = _held(after, scheme)
    elements = held + sum(
        size // _WIDTHS.get(name, 4)
        for name, size in after.dtype_bytes.items()
        if name not in scheme.dtypes
    )
    share = held / max(1, elements)
    why = after.flops_not_counted or "FLOPs are not counted"
    return share, f"{share:.0%} of the weights ({why})"


_WIDTHS = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1, "uint8": 1}


def _listed(kernels: dict[str, int]) -> str:
    return ", ".join(sorted(name.split("::")[-1] for name in kernels)[:3])
