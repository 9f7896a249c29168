"""The written source computes what the module computes, with torch and its weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import ExportFailed
from engine.export.cases import FlatCalls, FlatForward
from engine.export.codegen import Written, write_model
from engine.export.graphs import plain_graphs


class Tied(nn.Module):
    """Attention over embeddings whose table is the output head too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.tril(torch.ones(32, 32)))

    def forward(self, ids: Tensor) -> Tensor:
        tokens = ids.shape[1]
        x = self.table(ids)  # [batch, tokens, 8]
        for layer in self.layers:
            scores = x @ x.transpose(-1, -2)
            hidden = self.mask[:tokens, :tokens] == 0
            mixed = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ x
            x = x + layer(self.norm(mixed))
        return self.head(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def calls_of(module: nn.Module, *examples: Tensor) -> FlatCalls:
    names = tuple(f"input_{index}" for index in range(len(examples)))
    return FlatCalls("forward", FlatForward(module, None, {}), None, names, examples, 1)


def rebuilt(written: Written, folder: Path) -> Any:
    save_file(written.tensors, folder / "model.safetensors")
    space: dict[str, Any] = {"__name__": "artifact"}
    exec(compile(written.source, "model.py", "exec"), space)
    return space["build"](folder)


def test_written_source_computes_the_same_at_other_sizes(tmp_path: Path) -> None:
    module = Tied().eval()
    graphs = plain_graphs(calls_of(module, torch.randint(0, 11, (1, 6))))
    model = rebuilt(write_model({"forward_flat": graphs["forward"]}, title="tied"), tmp_path)
    ids = torch.randint(0, 11, (3, 9))
    torch.testing.assert_close(model.forward_flat(ids)[0], module(ids))


def test_tied_weights_are_stored_once() -> None:
    graphs = plain_graphs(calls_of(Tied().eval(), torch.randint(0, 11, (2, 6))))
    written = write_model({"forward_flat": graphs["forward"]}, title="tied")
    shapes = [tuple(each.shape) for each in written.tensors.values()]
    assert shapes.count((11, 8)) == 1
    assert "ALIASES = {'head.weight': 'table.weight'}" in written.source


def test_source_mentions_torch_only() -> None:
    graphs = plain_graphs(calls_of(Tied().eval(), torch.randint(0, 11, (2, 6))))
    source = write_model({"forward_flat": graphs["forward"]}, title="tied").source
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    roots = {line.split()[1].partition(".")[0] for line in imports}
    assert roots == {"math", "operator", "pathlib", "torch", "safetensors"}


def test_a_model_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(ExportFailed) as caught:
        plain_graphs(calls_of(Branching(), torch.ones(2, 3)))
    assert "torch.export cannot trace" in caught.value.message
    assert "\n" not in caught.value.message
