"""The int8 layer itself; its source travels with an exported model, so it needs torch alone."""

import inspect
import warnings
from typing import Any

import torch
from torch import nn


class Int8Linear(nn.Module):
    """A Linear layer with int8 weights and dynamic int8 activations.

    One weight scale for each output channel, one activation scale for each row (token). A refined
    layer adds a second product with what rounding the activations left over: about 16 bits for
    them, for layers whose inputs have a few very large values. On x86 the weights are packed, for
    FBGEMM, whose one call costs least for one row, or for oneDNN, which is faster for many;
    elsewhere, and where a compiler or exporter has to trace it, they are plain int8 tensors for
    `torch._int_mm`. The state dict is the same in both forms: `weight` int8 [out, in],
    `scale` float32 [out], `bias` float32 [out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        has_bias: bool = False,
        is_refined: bool = False,
        takes_many_rows: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.is_refined = is_refined
        self.takes_many_rows = takes_many_rows and hasattr(torch.ops.onednn, "qlinear_pointwise")
        # Without VNNI the kernel adds pairs in 16 bits: activations then use 7 bits, or sums
        # saturate.
        self.reduces_range = not torch.cpu._is_vnni_supported()
        self.packs = "fbgemm" in torch.backends.quantized.supported_engines
        self.packed = None
        self.packed_bytes: dict[str, int] = {}
        self.register_buffer("bias", torch.zeros(out_features) if has_bias else None)
        self.set_weights(
            torch.zeros(out_features, in_features, dtype=torch.int8), torch.ones(out_features)
        )

    def set_weights(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        """Takes over int8 weights [out, in] and their scales [out]."""
        for name in ("weight", "scale"):
            self._buffers.pop(name, None)
        self.packed, self.packed_bytes = None, {}
        if not self.packs or weight.device.type != "cpu":
            self.register_buffer("weight", weight)
            self.register_buffer("scale", scale)
            return
        if self.takes_many_rows:
            self.register_buffer("scale", scale)
            self.pack_for_many_rows(weight)
            return
        zeros = torch.zeros(self.out_features, dtype=torch.int64)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"  # a packed weight keeps the engine that made it
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # the quantized dtype is on its way out, the kernel stays
                levels = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
                self.packed = torch.ops.quantized.linear_prepack(levels, None)
        finally:
            torch.backends.quantized.engine = engine
        # Scales, and column sums for the activations' zero point, stand beside the weights.
        self.packed_bytes = {"int8": weight.numel(), "float32": 8 * self.out_features}

    def pack_for_many_rows(self, weight: torch.Tensor) -> None:
        """The layout of oneDNN for [out, in]; scales stay beside it."""
        with warnings.catch_warnings():
            # Bytes of the quantized dtype are on their way out; torch says so at the first.
            warnings.simplefilter("ignore")
            torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        self.packed_bytes = {"int8": weight.numel(), "int32": 4 * self.out_features}

    def plain_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Int8 weights [out, in] and their scales [out]."""
        if self.packed is None:
            return self.get_buffer("weight"), self.get_buffer("scale")
        if self.takes_many_rows:
            packed: torch.Tensor = self.packed
            return packed.to_dense().t().contiguous(), self._buffers["scale"]
        levels, _ = torch.ops.quantized.linear_unpack(self.packed)
        return levels.int_repr(), levels.q_per_channel_scales().float()

    def make_traceable_(self) -> None:
        """Goes over to plain int8 tensors, for compilers and exporters."""
        weight, scale = self.plain_weights()
        self.packs = False
        self.set_weights(weight, scale)

    def to_float(self) -> nn.Linear:
        """A float Linear with the same rounded weights."""
        weight, scale = self.plain_weights()
        made = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device=weight.device
        )
        with torch.no_grad():
            made.weight.copy_(weight * scale[:, None])
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., out] in the dtype of x [..., in]."""
        if self.packed is None:
            return self.traced(x)
        if x.dtype != torch.float32:
            return self.forward(x.float()).to(x.dtype)
        if x.dim() < 2:  # the kernel wants rows
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.numel() == self.in_features and not self.takes_many_rows:
            y = self.product(x)
            return y if self.bias is None else y + self.bias
        # The kernel takes one scale a call: rows brought to the same largest value have one each.
        top = torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True).clamp_min(1e-20)
        y = self.many_rows(x / top) if self.takes_many_rows else self.product(x / top)
        return y * top if self.bias is None else torch.addcmul(self.bias, y, top)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The packed weights times x, which gets one scale."""
        linear, low = torch.ops.quantized.linear_dynamic, self.reduces_range
        y: torch.Tensor = linear(x, self.packed, low)
        if self.is_refined:
            scale, zero = torch._choose_qparams_per_tensor(x, low)
            top = 127 if low else 255
            y = y + linear(
                x - torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, top), self.packed, low
            )
        return y

    def many_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The packed weights times rows within -1 and 1."""
        half = 63 if self.reduces_range else 127
        levels = self.levels(x, 1 / half, half + 1)
        y = self.level_product(levels, 1 / half, half + 1)
        if self.is_refined:
            rest = x - (levels.float() - (half + 1)) / half
            step = 1 / (2 * half * half)
            y = y + self.level_product(self.levels(rest, step, half + 1), step, half + 1)
        return y

    def levels(self, x: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
        """round(x / scale) + zero as bytes."""
        held = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
        # The same memory as plain bytes: int_repr() would copy it.
        plain = torch.empty(0, dtype=torch.uint8)
        return plain.set_(held.untyped_storage(), 0, held.shape, held.stride())

    def level_product(self, levels: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
        """The packed weights times levels, float32."""
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, scale, zero, self.packed, self._buffers["scale"], self.zeros, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        return y

    def traced(self, x: torch.Tensor) -> torch.Tensor:
        """The same arithmetic in operators that torch.compile and torch.export know."""
        rows = x.reshape(-1, self.in_features).float()
        top = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-20)
        exact = rows * (127 / top)
        levels = torch.round(exact)
        if self.is_refined:
            levels = torch.cat((levels, torch.round((exact - levels) * 254)))
        levels = levels.to(torch.int8)
        if x.device.type == "cuda":  # its kernel wants more than 16 rows
            levels = nn.functional.pad(levels, (0, 0, 0, 17))
        product = torch._int_mm(levels, self.weight.t()).float()
        y = product[: rows.shape[0]]
        if self.is_refined:
            y = y + product[rows.shape[0] : 2 * rows.shape[0]] / 254
        y = y * self.scale * (top / 127)
        if self.bias is not None:
            y = y + self.bias
        shaped: torch.Tensor = y.reshape(*x.shape[:-1], self.out_features)
        return shaped.to(x.dtype)

    def export_source(self) -> tuple[str, str]:
        """The source of this class, and the call that makes an empty layer like this one."""
        sizes = (self.in_features, self.out_features, self.bias is not None)
        call = f"Int8Linear{(*sizes, self.is_refined, self.takes_many_rows)}"
        needs = "import inspect\nimport warnings\nfrom typing import Any"
        return f"{needs}\n\n\n{inspect.getsource(type(self))}", call

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, int8" + (
            ", refined" if self.is_refined else ""
        )

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        """`weight` and `scale` are found in the packed form too: some modules ask for the dtype."""
        if name in ("weight", "scale") and self.__dict__.get("packed") is not None:
            return self.plain_weights()[name == "scale"]
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight, scale = self.plain_weights()
        destination[prefix + "weight"], destination[prefix + "scale"] = weight, scale

    def _load_from_state_dict(self, state_dict, prefix, *others):  # type: ignore[no-untyped-def]
        held = {name: state_dict.get(prefix + name) for name in ("weight", "scale")}
        weight, scale = held["weight"], held["scale"]
        if weight is not None and scale is not None:
            self.set_weights(weight.clone(), scale.clone())
        plain = dict(state_dict)
        for name in ("weight", "scale"):
            if name not in self._buffers:
                plain.pop(prefix + name, None)
        super()._load_from_state_dict(plain, prefix, *others)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        weight, scale = self.plain_weights()
        packs, self.packs = self.packs, False
        self.set_weights(weight, scale)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.packs = packs
        # Scales stay float32 whatever the model around is converted to.
        self.set_weights(self.weight, scale.to(self.weight.device))
        return self

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["packed"] = None
        state["plain"] = self.plain_weights() if self.packed is not None else ()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        plain: tuple[torch.Tensor, ...] = state.pop("plain")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if plain:
            self.set_weights(*plain)
