"""Layers with int8 weights and activations of fixed scales; their source travels with a model."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class StaticInt8Layer(nn.Module):
    """A product with int8 weights and 8-bit activations whose scale was observed before.

    Weights have one scale for each output channel. Inputs become levels from 0 to `top`,
    round(x / input_scale) + input_zero, unless they come as levels already, from a neighbour whose
    `emit` says so. On x86 the weights are packed for oneDNN; elsewhere, and where a compiler or
    exporter has to trace it, they are plain int8 tensors. The state dict is the same in both forms:
    `weight` int8, `scale` float32 [out], `bias` float32 [out] and, for inputs that are divided by a
    factor each, `smooth` float32 [in].
    """

    def __init__(
        self, shape: Sequence[int], has_bias: bool, is_smoothed: bool, levels: Sequence[Any]
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.input_scale, self.input_zero, self.top = levels
        self.output_scale, self.output_zero, self.rectifies = 0.0, 0, False
        self.dtype = torch.float32
        self.packs = hasattr(torch.ops.onednn, "qlinear_pointwise")
        self.packed: torch.Tensor | None = None
        self.packed_bytes: dict[str, int] = {}
        outputs = self.shape[0]
        self.register_buffer("bias", torch.zeros(outputs) if has_bias else None)
        self.register_buffer("smooth", torch.ones(self.shape[1]) if is_smoothed else None)
        self.register_buffer("zeros", torch.zeros(outputs, dtype=torch.int32), persistent=False)
        self.set_weights(torch.zeros(self.shape, dtype=torch.int8), torch.ones(outputs))

    def emit(self, scale: float, zero: int, rectifies: bool) -> "StaticInt8Layer":
        """Outputs become levels of that scale, for a neighbour that takes them; 0 goes back."""
        self.output_scale, self.output_zero, self.rectifies = scale, zero, rectifies
        return self

    def pack(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The weights as the kernel wants them."""
        raise NotImplementedError

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """The plain weights again."""
        raise NotImplementedError

    def product(self, levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Outputs of the packed weights: levels where a neighbour takes them, else `dtype`."""
        raise NotImplementedError

    def traced(self, levels: torch.Tensor) -> torch.Tensor:
        """Sums of levels without their zero point times weights, [..., out, ...], float32."""
        raise NotImplementedError

    def set_weights(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        """Takes over int8 weights and their scales [out]."""
        self._buffers.pop("weight", None)
        self.packed, self.packed_bytes = None, {}
        self.register_buffer("scale", scale)
        self.zeros = self.get_buffer("zeros").to(scale.device)
        if self.packs and weight.device.type == "cpu":
            with warnings.catch_warnings():
                # Bytes of the quantized dtype are on their way out; torch says so at the first.
                warnings.simplefilter("ignore")
                torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
            self.packed = self.pack(weight, scale)
            self.packed_bytes = {"int8": weight.numel()}
        else:
            self.register_buffer("weight", weight)

    def plain_weight(self) -> torch.Tensor:
        """Int8 weights, output channels first."""
        return self.get_buffer("weight") if self.packed is None else self.unpack(self.packed)

    def make_traceable_(self) -> None:
        """Goes over to plain int8 tensors, for compilers and exporters."""
        weight, self.packs = self.plain_weight(), False
        self.set_weights(weight, self.get_buffer("scale"))

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Levels of the inputs, uint8."""
        if x.dtype == torch.uint8:
            return x
        if self.smooth is not None:
            x = x / self.smooth
        if self.packed is not None:
            x = x.float()
            if self.top < 255:
                x = x.clamp(max=(self.top - self.input_zero) * self.input_scale)
            # 3 to 4 times faster than float operators that round.
            held = torch.quantize_per_tensor(x, self.input_scale, self.input_zero, torch.quint8)
            # The same memory as plain bytes: int_repr() would copy it.
            levels = torch.empty(0, dtype=torch.uint8)
            return levels.set_(held.untyped_storage(), 0, held.shape, held.stride())
        exact: torch.Tensor = torch.round(x.float() * (1 / self.input_scale)) + self.input_zero
        return exact.clamp(0, self.top).to(torch.uint8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs in the dtype of x, or of the model around where x are levels."""
        dtype = x.dtype if x.is_floating_point() else self.dtype
        levels = self.quantize(x)
        if self.packed is not None:
            return self.product(levels, dtype)
        shape = self.channels_last_shape()
        y: torch.Tensor = self.traced(levels) * (self.get_buffer("scale") * self.input_scale).view(
            shape
        )
        if self.bias is not None:
            y = y + self.bias.view(shape)
        if self.rectifies:
            y = y.relu()
        if not self.output_scale:
            return y.to(dtype)
        exact = torch.round(y * (1 / self.output_scale)) + self.output_zero
        return exact.clamp(0, self.top).to(torch.uint8)

    def channels_last_shape(self) -> tuple[int, ...]:
        """How a value for each output channel lies against the outputs."""
        return (-1, *(1,) * (len(self.shape) - 2))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        weight, packs = self.plain_weight(), self.packs
        kept = {name: each for name, each in self._buffers.items() if each is not None}
        self.dtype = fn(torch.zeros(1)).dtype
        device = fn(torch.zeros(1)).device
        # Scales stay float32 whatever the model around is converted to.
        for name, each in kept.items():
            self._buffers[name] = each.to(device)
        self.packs = packs
        self.set_weights(weight.to(device), self.get_buffer("scale"))
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.plain_weight()

    def _load_from_state_dict(self, state_dict, prefix, *others):  # type: ignore[no-untyped-def]
        weight, scale = state_dict.get(prefix + "weight"), state_dict.get(prefix + "scale")
        if weight is not None and scale is not None:
            self.set_weights(weight.clone(), scale.clone())
        plain = dict(state_dict)
        if "weight" not in self._buffers:
            plain.pop(prefix + "weight", None)
        super()._load_from_state_dict(plain, prefix, *others)

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        """`weight` is found in the packed form too: some modules ask for its dtype."""
        if name == "weight" and self.__dict__.get("packed") is not None:
            return self.plain_weight()
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["packed"] = None
        state["plain"] = None if self.packed is None else self.plain_weight()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        plain = state.pop("plain")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if plain is not None:
            self.set_weights(plain, self.get_buffer("scale"))

    def arguments(self) -> tuple[Any, ...]:
        """What makes an empty layer like this one."""
        levels = (self.input_scale, self.input_zero, self.top)
        return (self.shape, self.bias is not None, self.smooth is not None, levels)

    def export_source(self) -> tuple[str, str]:
        """The source of this class with its base, and the call that makes an empty layer."""
        own, base = inspect.getsource(type(self)), inspect.getsource(StaticInt8Layer)
        emitted = (self.output_scale, self.output_zero, self.rectifies)
        call = f"{type(self).__name__}{self.arguments()}.emit{emitted}"
        needs = "import inspect\nimport warnings\nfrom collections.abc import Sequence"
        needs += "\nfrom typing import Any"
        return f"{needs}\n\n\n{base}\n\n{own}", call

    def extra_repr(self) -> str:
        """Sizes and scales, for printing."""
        taken = f"{self.shape}, int8, input_scale={self.input_scale:.4g}"
        return f"{taken}, emits levels" if self.output_scale else taken


class StaticInt8Linear(StaticInt8Layer):
    """A Linear layer [out, in] in int8 with a fixed scale of its inputs."""

    def __init__(
        self, shape: Sequence[int], has_bias: bool, is_smoothed: bool, levels: Sequence[Any]
    ) -> None:
        super().__init__(shape, has_bias, is_smoothed, levels)
        self.out_features, self.in_features = self.shape

    def pack(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The layout of oneDNN for [out, in]."""
        packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        return packed

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """[out, in] again."""
        return packed.to_dense().t().contiguous()

    def product(self, levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Outputs [..., out]."""
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, self.input_scale, self.input_zero, self.packed, self.scale, self.zeros,
            self.bias, self.output_scale or 1.0, self.output_zero,
            torch.uint8 if self.output_scale else torch.float32,
            "relu" if self.rectifies else "none", [], "",
        )  # fmt: skip
        return y if self.output_scale else y.to(dtype)

    def traced(self, levels: torch.Tensor) -> torch.Tensor:
        """The product in an operator that torch.compile and torch.export know."""
        rows = (levels.reshape(-1, self.shape[1]).to(torch.int16) - 128).to(torch.int8)
        count = rows.shape[0]
        if rows.device.type == "cuda":  # its kernel wants more than 16 rows
            rows = nn.functional.pad(rows, (0, 0, 0, 17))
        sums = torch._int_mm(rows, self.weight.t())[:count].float()
        y = sums - (self.input_zero - 128) * self.weight.sum(1, dtype=torch.float32)
        shaped: torch.Tensor = y.reshape(*levels.shape[:-1], self.shape[0])
        return shaped


class StaticInt8Conv2d(StaticInt8Layer):
    """A Conv2d layer [out, in, height, width] in int8 with a fixed scale of its inputs."""

    def __init__(
        self, shape: Sequence[int], has_bias: bool, is_smoothed: bool, levels: Sequence[Any],
        window: Sequence[Sequence[int]] = ((1, 1), (0, 0), (1, 1)),
    ) -> None:  # fmt: skip
        self.window = tuple(tuple(each) for each in window)  # stride, padding, dilation
        self.lays_plainly = False  # whether outputs lie as [batch, out, ...], at a copy's cost
        super().__init__(shape, has_bias, is_smoothed, levels)
        self.out_channels, self.in_channels, *self.kernel_size = self.shape
        self.stride, self.padding, self.dilation = self.window
        self.groups = 1

    def arguments(self) -> tuple[Any, ...]:
        """What makes an empty layer like this one."""
        return (*super().arguments(), self.window)

    def pack(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The layout of oneDNN for [out, in, height, width]."""
        packed: torch.Tensor = torch.ops.onednn.qconv_prepack(
            weight, scale, self.input_scale, self.input_zero, *self.window, 1, None
        )
        return packed

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """[out, in, height, width] again."""
        return packed.to_dense().contiguous()

    def product(self, levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Outputs [batch, out, height, width]."""
        y: torch.Tensor = torch.ops.onednn.qconv2d_pointwise(
            levels, self.input_scale, self.input_zero, self.packed, self.scale, self.zeros,
            self.bias, *self.window, 1, self.output_scale or 1.0, self.output_zero,
            torch.uint8 if self.output_scale else torch.float32,
            "relu" if self.rectifies else "none", [], "",
        )  # fmt: skip
        if self.lays_plainly:
            y = y.contiguous()
        return y if self.output_scale else y.to(dtype)

    def traced(self, levels: torch.Tensor) -> torch.Tensor:
        """The same sums by a float convolution of whole numbers, exact up to 2 to the 24."""
        whole = levels.float() - self.input_zero
        stride, padding, dilation = self.window
        sums: torch.Tensor = nn.functional.conv2d(
            whole, self.weight.float(), None, stride, padding, dilation
        )
        return sums
