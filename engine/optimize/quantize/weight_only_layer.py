"""The weight-only layer itself; its source travels with an exported model: it needs torch alone."""

import inspect
from typing import Any

import torch
from torch import nn


class WeightOnlyLinear(nn.Module):
    """A Linear layer with weights in 8, 4 or 3 bits and floating activations.

    A weight is `level * scale + offset`, with one scale for each output channel and group of
    inputs. Levels of 8 bits are int8 [out, columns] without an offset. Levels of 4 bits are uint8
    [out, columns / 2]: the low half byte holds the first half of the columns. Levels of 3 bits are
    uint8 [out, 3, columns / 8], one plane for each bit; bit i of a plane holds the i-th eighth of
    the columns. `columns` is in_features rounded up to whole groups. `input_scale` [in], where
    there is one, multiplies the inputs first (AWQ).
    """

    weight: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None
    bias: torch.Tensor | None
    input_scale: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        has_bias: bool = False,
        bits: int = 8,
        group_size: int = 0,
        has_input_scale: bool = False,
        scale_bits: int = 32,
        many_rows_in_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bits = bits
        self.group_size = group_size
        self.many_rows_in_bfloat16 = many_rows_in_bfloat16
        self.packed_bytes: dict[str, int] = {}
        self.is_traceable = False
        # Groups are multiples of 8, so that whole groups fill whole bytes too.
        unit = group_size or {8: 1, 4: 2, 3: 8}[bits]
        self.columns = -(-in_features // unit) * unit
        shape = {8: (self.columns,), 4: (self.columns // 2,), 3: (3, self.columns // 8)}[bits]
        kind = torch.int8 if bits == 8 else torch.uint8
        groups = self.columns // group_size if group_size else 1
        number = torch.float16 if scale_bits == 16 else torch.float32
        self.register_buffer("weight", torch.zeros(out_features, *shape, dtype=kind))
        self.register_buffer("scale", torch.ones(out_features, groups, dtype=number))
        offset = None if bits == 8 else torch.zeros(out_features, groups, dtype=number)
        self.register_buffer("offset", offset)
        self.register_buffer("bias", torch.zeros(out_features) if has_bias else None)
        self.register_buffer("input_scale", torch.ones(in_features) if has_input_scale else None)

    def set_levels(self, levels: torch.Tensor) -> None:
        """Takes over levels [out, columns]: -127 to 127 for 8 bits, from 0 up for fewer."""
        if self.bits == 8:
            self.weight = levels.to(torch.int8).contiguous()
            return
        levels = levels.to(torch.uint8)
        if self.bits == 4:
            low, high = levels.chunk(2, dim=1)
            self.weight = low | (high << 4)
            return
        eighths = levels.view(self.out_features, 8, -1)
        planes = []
        for bit in range(3):
            plane = torch.zeros_like(eighths[:, 0])
            for index in range(8):
                plane |= ((eighths[:, index] >> bit) & 1) << index
            planes.append(plane)
        self.weight = torch.stack(planes, dim=1)

    def levels(self) -> list[torch.Tensor]:
        """Levels by parts of the columns, in order; each [out, columns / parts], integers."""
        if self.bits == 8:
            return [self.weight]
        if self.bits == 4:
            return [self.weight & 15, self.weight >> 4]
        one, two, four = self.weight.unbind(1)
        return [
            ((one >> i) & 1) | (((two >> i) & 1) << 1) | (((four >> i) & 1) << 2) for i in range(8)
        ]

    def dense(self) -> torch.Tensor:
        """The rounded weight [out, in] in float32, for inputs that `input_scale` has multiplied."""
        whole = torch.cat([each.flatten(1) for each in self._parts()], dim=1)
        return whole[:, : self.in_features]

    def to_float(self) -> nn.Linear:
        """A float Linear with the same rounded weights."""
        weight = self.dense()
        if self.input_scale is not None:
            weight = weight * self.input_scale
        made = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device=weight.device
        )
        with torch.no_grad():
            made.weight.copy_(weight)
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.requires_grad_(False).eval()

    def make_traceable_(self) -> None:
        """Goes over to operators that compilers fuse into one pass over the packed weights."""
        self.is_traceable = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., out] in the dtype of x [..., in]."""
        scaled = x if self.input_scale is None else x * self.input_scale.to(x.dtype)
        if self.is_traceable or torch.compiler.is_compiling():
            # A size that is free in an exported graph is no int: the choice then is many rows.
            rows = x.shape[-2] if x.dim() > 1 else 1
            y = self.one_row(scaled) if isinstance(rows, int) and rows == 1 else self.many(scaled)
        elif self._has_kernel(x):
            flat = scaled.reshape(-1, self.in_features).to(torch.bfloat16)
            y = torch._weight_int8pack_mm(flat, self.weight, self.scale[:, 0].to(torch.bfloat16))
            y = y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)
        else:
            y = self.many(scaled)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def one_row(self, x: torch.Tensor) -> torch.Tensor:
        """The product as one sum, which Inductor makes one loop that reads packed weights once."""
        padded = nn.functional.pad(x, (0, self.columns - self.in_features)).float().contiguous()
        # Without a view by strides, which Inductor makes from memory, it computes what stands
        # before (a norm with its root) again for each output.
        padded = padded.as_strided(padded.shape, padded.stride())
        if self.bits == 8 and not self.group_size:
            total = (padded.unsqueeze(-2) * self.weight.float()).sum(-1)
            return (total * self.scale[:, 0]).to(x.dtype)
        parts = self._parts()
        # Groups stay a dimension of their own: their scales are then read once a group.
        inputs = padded.view(*x.shape[:-1], 1, len(parts), *parts[0].shape[1:]).unbind(-3)
        terms = inputs[0] * parts[0]
        for part, weight in zip(inputs[1:], parts[1:], strict=True):
            terms = terms + part * weight
        return terms.sum((-2, -1)).to(x.dtype)

    def many(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the weights unpacked to floating point first, as many rows want it."""
        kind = torch.bfloat16 if self.many_rows_in_bfloat16 else x.dtype
        if self.bits == 8 and not self.group_size:
            # Levels are exact in 8 bits of mantissa; scales need more, and come after.
            y = nn.functional.linear(x.to(kind), self.weight[:, : self.in_features].to(kind))
            return (y.float() * self.scale[:, 0]).to(x.dtype)
        return nn.functional.linear(x.to(kind), self.dense().to(kind)).to(x.dtype)

    def _parts(self) -> list[torch.Tensor]:
        """Rounded weights by parts of the columns, each [out, groups, columns of a group]."""
        levels = self.levels()
        if self.group_size and self.columns // len(levels) % self.group_size:
            levels = [torch.cat(levels, dim=1)]  # a group lies in two parts of the bytes
        width = self.group_size or self.columns // len(levels)
        made = []
        for index, each in enumerate(levels):
            count = each.shape[1] // width
            start = index * count if self.group_size else 0
            held = slice(start, start + count)
            weight = each.float().view(self.out_features, count, width)
            weight = weight * self.scale[:, held, None].float()
            if self.offset is not None:
                weight = weight + self.offset[:, held, None].float()
            made.append(weight)
        return made

    def _has_kernel(self, x: torch.Tensor) -> bool:
        """Whether torch's own int8 kernel takes these rows and is faster than unpacking."""
        # It reads whole vectors of 16 inputs: beyond the end of a row of another length.
        fits = x.device.type == "cpu" and self.in_features % 16 == 0
        return (
            fits
            and self.bits == 8
            and not self.group_size
            and 0 < x.numel() <= 8 * self.in_features
        )

    def export_source(self) -> tuple[str, str]:
        """The source of this class, and the call that makes an empty layer like this one."""
        arguments = (
            self.in_features, self.out_features, self.bias is not None, self.bits, self.group_size,
            self.input_scale is not None, 8 * self.scale.element_size(), self.many_rows_in_bfloat16,
        )  # fmt: skip
        return inspect.getsource(type(self)), f"WeightOnlyLinear{arguments}"

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        group = f"groups of {self.group_size}" if self.group_size else "per channel"
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, {self.bits} bits, {group}"

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        kept = {name: getattr(self, name) for name in ("scale", "offset")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Scales keep their format whatever the model around is converted to.
        for name, tensor in kept.items():
            if tensor is not None:
                setattr(self, name, tensor.to(getattr(self, name).device))
        return self
