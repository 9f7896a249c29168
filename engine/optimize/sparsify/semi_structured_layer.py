"""The 2:4 layer: half of the weights, for the sparse tensor cores of CUDA GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_ROW_STEP, _COLUMN_STEP = 32, 64
_DTYPES = (torch.float16, torch.bfloat16)


def semi_structured_reason(weight: Tensor) -> str:
    """Why a weight [out, in] cannot run by a 2:4 kernel; empty where it can."""
    if weight.device.type != "cuda":
        return f"2:4 kernels are on CUDA GPUs, and the weights are on {weight.device.type}"
    if torch.cuda.get_device_capability(weight.device) < (8, 0):
        return "2:4 kernels need compute capability 8.0"
    if weight.dtype not in _DTYPES:
        return "2:4 kernels take float16 and bfloat16: convert the model first"
    rows, columns = weight.shape
    if rows % _ROW_STEP or columns % _COLUMN_STEP:
        return (
            f"2:4 kernels take multiples of {_ROW_STEP} outputs and {_COLUMN_STEP} inputs, got"
            f" {rows} and {columns}"
        )
    return ""


class SemiStructuredLinear(nn.Module):
    """A Linear layer whose weights, two of each four, are packed for sparse tensor cores."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("bias", bias)
        self.packed: Any = None
        self.packed_bytes: dict[str, int] = {}
        self._pack(weight)

    def _pack(self, weight: Tensor) -> None:
        self.packed = torch.sparse.to_sparse_semi_structured(weight.detach().contiguous())
        names, _ = self.packed.__tensor_flatten__()
        parts = [getattr(self.packed, name) for name in names]
        kind = str(weight.dtype).removeprefix("torch.")
        self.packed_bytes = {kind: sum(each.numel() * each.element_size() for each in parts)}

    @property
    def weight(self) -> Tensor:
        """The dense weight [out, in], made anew by each look."""
        dense: Tensor = self.packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., out] of x [..., in]."""
        return nn.functional.linear(x, self.packed, self._buffers["bias"])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "packed": None, "dense": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        dense = state.pop("dense")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack(dense)
