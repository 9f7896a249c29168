"""The tensors that a model holds, under every name that they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.optimize.quantize.int8_linear import uses_conv1d_layout

NO_WEIGHTS = "no weights are here, only shapes"
_LARGEST_SPARSE = 1 << 26


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


def plain(tensor: Tensor) -> tuple[Tensor | None, str]:
    """The tensor as strided real numbers on the CPU; None and why where it is not to be had."""
    if tensor.is_meta:
        return None, NO_WEIGHTS
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


def identity(each: Held) -> object:
    """The same for two names of one tensor; None for what has no storage to tell it by."""
    tensor = each.tensor
    if tensor is None or each.kind == "packed" or not has_storage(tensor) or not tensor.numel():
        return None
    place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return (tensor.untyped_storage()._cdata, *place, each.is_transposed)


def has_storage(tensor: Tensor) -> bool:
    """Whether it is a plain tensor, whose storage tells what shares it."""
    return tensor.layout == torch.strided and type(tensor) in (Tensor, nn.Parameter, nn.Buffer)


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
