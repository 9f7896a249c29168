"""Which parameters are experts that tokens are routed to, and how many of them a token meets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

# How models call the number of experts, and the number that one token is sent to.
_COUNTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts", "n_experts")
_ROUTED = (
    "top_k", "topk", "num_experts_per_tok", "num_experts_per_token", "experts_per_token",
    "moe_top_k", "moe_k", "moe_topk", "router_top_k", "num_selected_experts", "moe_router_topk",
    "top_k_experts", "num_experts_to_use", "k",
)  # fmt: skip
_TOP = re.compile(r"Top_?(\d+)(?:Router|Gat)", re.IGNORECASE)


@dataclass(frozen=True)
class ExpertBank:
    """Experts side by side, of which each token meets `routed`; None where nothing tells.

    `parameters` are those of all of them together.
    """

    module: str
    experts: int
    routed: int | None
    parameters: int


def expert_banks(module: nn.Module) -> tuple[ExpertBank, ...]:
    """Every bank of a model: weights with one matrix for each expert, or a list of modules.

    How many a token meets is told by the router beside the bank, by the modules around it or by
    the model's config.
    """
    named = dict(module.named_modules())
    found: list[ExpertBank] = []
    for name, each in named.items():
        count = _fused_experts(each) or _listed_experts(name, each)
        if count < 2 or any(_is_inside(name, bank.module) for bank in found):
            continue
        parameters = sum(weight.numel() for weight in each.parameters())
        found.append(ExpertBank(name, count, _routed(name, named, count), parameters))
    return tuple(found)


def active_parameters(name: str, parameters: int, banks: Sequence[ExpertBank]) -> int | None:
    """Parameters of a module that one token meets.

    Args:
        name: the module's path, empty for the model.
        parameters: all that it holds.
        banks: of the model.

    Returns:
        None where the module holds no bank, or one whose routing nothing tells.
    """
    inside = [each for each in banks if not name or _is_inside(each.module, name)]
    if not inside or any(each.routed is None for each in inside):
        return None
    idle = sum(
        each.parameters * (each.experts - (each.routed or 0)) // each.experts for each in inside
    )
    return parameters - idle


def _is_inside(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _fused_experts(module: nn.Module) -> int:
    """Experts whose matrices are stacked in one weight, [experts, ...] or [experts * rows, ...]."""
    own = [each for each in module._parameters.values() if each is not None]
    count = next((n for name in _COUNTS if (n := _number(module, name)) is not None), None)
    if count is None or not own or any(each.shape[0] % count for each in own if each.dim()):
        return 0
    is_stacked = any(each.dim() >= 3 and each.shape[0] == count for each in own)
    is_flat = "expert" in type(module).__name__.lower() and any(
        each.dim() == 2 and each.shape[0] > count for each in own
    )
    return count if is_stacked or is_flat else 0


def _listed_experts(name: str, module: nn.Module) -> int:
    """Experts that are modules of their own, all of the same shapes."""
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        return 0
    label = f"{name.rpartition('.')[2]} {type(module).__name__}".lower()
    if "expert" not in label or "shared" in label:
        return 0
    shapes = {
        tuple(tuple(weight.shape) for weight in child.parameters()) for child in module.children()
    }
    return len(module) if len(shapes) == 1 and shapes != {()} else 0


def _routed(name: str, named: dict[str, nn.Module], experts: int) -> int | None:
    for holder in _holders(name, named):
        for attribute in _ROUTED:
            told = _number(holder, attribute)
            if told is not None and 1 <= told <= experts:
                return told
        by_name = _TOP.search(type(holder).__name__)
        if by_name:
            return min(int(by_name[1]), experts)
    return None


def _holders(name: str, named: dict[str, nn.Module]) -> Iterator[Any]:
    """The bank, what stands beside it and around it, then the model's config."""
    path = name
    yield named[path]
    for _ in range(3):
        if not path:
            break
        path = path.rpartition(".")[0]
        around = named[path]
        yield around
        if not isinstance(around, nn.ModuleList | nn.ModuleDict):
            yield from around.children()
    config: Any = getattr(named[""], "config", None)
    yield config
    text = getattr(config, "get_text_config", None)
    if callable(text):
        yield text()


def _number(holder: Any, name: str) -> int | None:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
