"""Which parameters several modules hold."""

from __future__ import annotations

from collections import Counter

from torch import nn


def shared_parameters(module: nn.Module) -> set[int]:
    """Ids of the parameters that more than one module holds, as tied embeddings do."""
    owners: Counter[int] = Counter()
    for owner in module.modules():
        owners.update(id(parameter) for parameter in owner.parameters(recurse=False))
    return {key for key, count in owners.items() if count > 1}


def replace_everywhere_(module: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Puts new modules wherever the old ones are held, a shared one in every place."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                parent._modules[name] = made[child]
