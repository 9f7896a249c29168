"""Attention of grouped queries reaches engines that know no groups."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from engine.inference.ungrouping import repeat_key_heads_


class Grouped(nn.Module):
    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=self.causal, scale=0.3, enable_gqa=True
        )


def operands(batch: int, tokens: int, past: int, heads: int = 8, groups: int = 2) -> list[Tensor]:
    shapes = [(batch, heads, tokens, 16), (batch, groups, past, 16), (batch, groups, past, 16)]
    return [torch.randn(shape) for shape in shapes]


def exported(module: nn.Module) -> torch.export.ExportedProgram:
    batch, past = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("past", min=1, max=64)
    free = ({0: batch}, {0: batch, 2: past}, {0: batch, 2: past})
    with torch.no_grad():
        return torch.export.export(module, tuple(operands(2, 5, 7)), dynamic_shapes=free)


@pytest.mark.parametrize("causal", [False, True])
def test_repeated_heads_give_the_same_answer_for_any_size(causal: bool) -> None:
    program = exported(Grouped(causal=causal))
    assert repeat_key_heads_(program) == 1
    assert not any(node.kwargs.get("enable_gqa") for node in program.graph.nodes)
    for batch, past in ((1, 3), (3, 9)):
        given = operands(batch, 5, past)
        torch.testing.assert_close(program.module()(*given), Grouped(causal=causal)(*given))
    assert repeat_key_heads_(program) == 0


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_openvino_takes_a_decoder_whose_queries_share_keys() -> None:
    from engine.inference.openvino_model import converted
    from engine.inference.openvino_package import openvino

    model = converted(exported(Grouped()), ["query", "key", "value"])
    ready = openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = operands(3, 5, 4)
    found = torch.from_numpy(ready([each.numpy() for each in given])[0])
    torch.testing.assert_close(found, Grouped()(*given), atol=1e-5, rtol=1e-5)
