"""The fp8 layer itself; its source travels with an exported model, so it needs torch alone."""

import inspect

import torch
from torch import nn


class Fp8Linear(nn.Module):
    """A Linear layer with weights and activations in 8-bit floating point (4 bits of exponent).

    One weight scale for each output channel and one activation scale for each row, or one of each
    for the whole tensor. Activations are scaled while the model runs; the product is
    `torch._scaled_mm`, which adds up in float32. The state dict: `weight` fp8 [out, in], `scale`
    float32 [out] or [1], `bias` in the dtype of the model.
    """

    def __init__(
        self, in_features: int, out_features: int, has_bias: bool, by_row: bool, kind: str
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.by_row, self.kind = by_row, kind
        self.fp8: torch.dtype = getattr(torch, kind)
        self.top = torch.finfo(self.fp8).max
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=self.fp8))
        self.register_buffer("scale", torch.ones(out_features if by_row else 1))
        self.bias: torch.Tensor | None
        self.register_buffer("bias", torch.zeros(out_features) if has_bias else None)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Rounds float weights [out, in]."""
        top = weight.abs().amax(dim=1) if self.by_row else weight.abs().amax().reshape(1)
        scale = top.float().clamp_min(1e-12) / self.top
        self.scale = scale
        self.weight = (weight.float() / scale[:, None]).clamp(-self.top, self.top).to(self.fp8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., out] in the dtype of x [..., in]."""
        rows = x.reshape(-1, self.in_features).float()
        top = rows.abs().amax(dim=1, keepdim=True) if self.by_row else rows.abs().amax()
        scale = top.clamp_min(1e-12) / self.top
        levels = (rows / scale).clamp(-self.top, self.top).to(self.fp8)
        # The row-wise kernel gives bfloat16 alone.
        wide = torch.bfloat16 if self.by_row or x.dtype == torch.bfloat16 else torch.float32
        weight_scale = self.scale.reshape(1, -1) if self.by_row else self.scale.reshape(())
        y = torch._scaled_mm(
            levels, self.weight.t(), scale_a=scale, scale_b=weight_scale, out_dtype=wide
        ).to(x.dtype)
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        shaped: torch.Tensor = y.reshape(*x.shape[:-1], self.out_features)
        return shaped

    def to_float(self) -> nn.Linear:
        """A float Linear with the same rounded weights."""
        has_bias, device = self.bias is not None, self.weight.device
        made = nn.Linear(self.in_features, self.out_features, bias=has_bias, device=device)
        with torch.no_grad():
            made.weight.copy_(self.weight.float() * self.scale[:, None])
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.requires_grad_(False).eval()

    def export_source(self) -> tuple[str, str]:
        """The source of this class, and the call that makes an empty layer like this one."""
        sizes = (self.in_features, self.out_features, self.bias is not None, self.by_row, self.kind)
        return f"import inspect\n\n\n{inspect.getsource(type(self))}", f"Fp8Linear{sizes}"

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.kind}"

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        weight, scale = self.weight, self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Only the device follows: rounded weights and their scales keep their dtypes.
        self.weight = weight.to(self.weight.device)
        self.scale = scale.to(self.weight.device)
        return self

    def __getstate__(self) -> dict[str, object]:
        # Pickling knows no storage of this dtype: the bytes go as bytes.
        buffers = {**self._buffers, "weight": self.weight.view(torch.uint8)}
        return {**self.__dict__, "_buffers": buffers}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.weight = self.weight.view(self.fp8)
