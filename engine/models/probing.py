"""What a module turns out to be when it is run once on something small."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.program import Inputs, RecomputeDecoder, call, logits_of, to_device, token_ids
from engine.shapes import RememberedShapes

# Logits of a causal model at earlier positions do not change with a later token, apart from the
# order in
# which a matmul of another shape or a batched kernel adds up.
_CAUSAL_TOLERANCE = 1e-3


def one_line(error: BaseException) -> str:
    """The kind of an error and its first line, without a full stop."""
    first = str(error).strip().split("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def recompute_decoder(module: nn.Module, inputs: Inputs) -> RecomputeDecoder | None:
    """A decoder for a module from token ids [batch, tokens] to causal logits; None for others."""
    ids = _only_ids(inputs)
    if ids is None:
        return None
    try:
        outputs = _logits(module, ids)
    except Exception:  # a module that cannot be called on ids alone does not generate
        return None
    if outputs.dim() != 3 or outputs.shape[:2] != ids.shape or outputs.shape[2] < 2:
        return None
    if outputs.device.type != "meta" and not _is_causal(module, ids, outputs):
        return None
    return RecomputeDecoder()


def vocabulary_of(module: nn.Module, inputs: Inputs) -> int:
    """The last dimension of a language model's logits."""
    return int(_logits(module, token_ids(inputs)).shape[-1])


def device_of(module: nn.Module) -> str:
    """Where the module's first parameter or buffer lies; the CPU where it has none."""
    for tensor in [*module.parameters(), *module.buffers()]:
        return str(tensor.device)
    return "cpu"


def fails_on(module: nn.Module, inputs: Inputs) -> Exception | None:
    """The error of one call on these inputs; None where it works.

    For a module on the meta device the error may be one of `reads_values`, which decides nothing.

    Tried without computing first (on the meta device, weights replaced by their shapes); only where
    that fails, which code that reads values does too, is it tried for real.
    """
    shapes = {
        name: tensor.detach().to("meta")
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    with torch.inference_mode():
        try:
            placed = to_device(args, "meta"), to_device(kwargs, "meta")
            with RememberedShapes():
                torch.func.functional_call(module, shapes, *placed)
            return None
        except Exception as error:
            if device_of(module) == "meta":
                return error
        try:
            call(module, to_device(inputs, device_of(module)))
        except Exception as error:
            return error
    return None


def reads_values(error: BaseException) -> bool:
    """Whether code failed on the meta device because it looks at values, which are not there."""
    told = str(error)
    signs = ("meta tensor", "data-dependent", "meta device", "register_meta function")
    return any(sign in told.lower() for sign in signs)


def _only_ids(inputs: Inputs) -> Tensor | None:
    if isinstance(inputs, dict):
        if set(inputs) != {"input_ids"}:
            return None
        ids = inputs["input_ids"]
    else:
        if len(inputs) != 1:
            return None
        ids = inputs[0]
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.dim() != 2:
        return None
    return ids


def _logits(module: nn.Module, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return logits_of(module(ids.to(device_of(module))))


def _is_causal(module: nn.Module, ids: Tensor, outputs: Tensor) -> bool:
    if ids.shape[1] < 2:
        return True
    changed = ids.clone()
    changed[:, -1] = torch.where(changed[:, -1] > 0, changed[:, -1] - 1, changed[:, -1] + 1)
    earlier = outputs[:, :-1].float()
    difference = (_logits(module, changed)[:, :-1].float() - earlier).abs().max()
    return bool(difference <= _CAUSAL_TOLERANCE * earlier.abs().max().clamp(min=1e-6))
