"""Where each module lives when not all fit: on devices first, then in memory, then on disk."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import nn

from engine.errors import StepRefused

MIB = 1 << 20


def plan(module: nn.Module, *, device: str, budget_bytes: int | None) -> dict[str, str]:
    """A device map: module names to `device`, "cpu" or "disk", filled in that order.

    Blocks that repeat (layers of a list, what transformers calls not to be split) stay whole.

    Args:
        module: the model, in memory.
        device: the device that computes, such as "cuda:0", "mps" or "cpu".
        budget_bytes: bytes of weights that may lie in the device's memory (in main memory where the
            device is the CPU); None asks accelerate what is free.

    Raises:
        StepRefused: the largest block alone is over the budget.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_max_memory

    limits: dict[int | str, int | str] = dict(get_max_memory())
    key: int | str = int(device.partition(":")[2] or 0) if device.startswith("cuda") else device
    if budget_bytes is not None:
        limits[key] = budget_bytes
    if device == "cpu":
        limits = {"cpu": limits["cpu"]}
    whole = repeated_blocks(module)
    if budget_bytes is not None:
        _refuse_small_budget(module, whole, budget_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = infer_auto_device_map(
            module, max_memory=limits, no_split_module_classes=sorted(whole), clean_result=False
        )
    return {name: _device_name(place) for name, place in found.items()}


def dispatch(module: nn.Module, device_map: dict[str, str], folder: Path) -> nn.Module:
    """The module with its parts moved: what lies elsewhere is fetched when it is called.

    What is mapped to "disk" is written to `folder` and read by memory mapping.
    """
    from accelerate import dispatch_model

    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dispatched: nn.Module = dispatch_model(
            module, device_map=device_map, offload_dir=str(folder), force_hooks=True
        )
    return dispatched


def repeated_blocks(module: nn.Module) -> set[str]:
    """Class names of the modules that stand in lists: the layers of a network."""
    found = set(getattr(module, "_no_split_modules", None) or ())
    for each in module.modules():
        if isinstance(each, nn.ModuleList):
            found |= {type(child).__name__ for child in each if _has_weights(child)}
    return found


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _refuse_small_budget(module: nn.Module, whole: set[str], budget_bytes: int) -> None:
    sizes = [
        (sum(parameter.nbytes for parameter in each.parameters()), name)
        for name, each in module.named_modules()
        if type(each).__name__ in whole or not any(each.children())
    ]
    size, name = max(sizes, default=(0, ""))
    if size > budget_bytes:
        raise StepRefused(
            f"budget_mib must be at least {-(-size // MIB)}: {name} alone holds that much,"
            f" got {budget_bytes // MIB}."
        )


def _device_name(place: object) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)
