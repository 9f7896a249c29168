"""Compiled packages as a runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext, technique
from engine.program import ExecutionContext, Program, held_bytes
from engine.runtimes.aot_inductor import decoder_examples, exported_decoder, package_key
from tests.optimize import tiny_models as tiny


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_the_same_tokens_for_any_batch_and_length(
    cached: Program, context: Callable[..., BuildContext], tmp_path: Path
) -> None:
    ids = tiny.prompt()
    plain = copy.deepcopy(cached)
    before = held_bytes(cached.module)
    settings = context("aot_inductor", (ids,))
    program = technique("aot_inductor").apply(cached, settings)
    for prompt in (ids, tiny.prompt(11, batch=3), tiny.prompt(1)):
        expected = plain.generate((prompt,), 9)
        found = program.generate((prompt,), 9)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-4)
    assert held_bytes(program.module) == before  # the library reads the module's own weights
    packages = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.pt2")}
    assert len(packages) == 2
    again = technique("aot_inductor").apply(plain, settings)
    assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.pt2")} == packages
    assert torch.equal(again.generate((ids,), 9).tokens, program.generate((ids,), 9).tokens)


def test_the_key_names_the_graph_and_not_the_large_weights(cached: Program) -> None:
    def key(program: Program, name: str = "step") -> str:
        examples = decoder_examples(program.module, tiny.prompt(), batch=3, tokens=5)
        return package_key(exported_decoder(program.module, name, examples[name]))

    before = key(cached)
    assert before == key(copy.deepcopy(cached))
    assert before != key(cached, "prefill")
    with torch.no_grad():
        cached.module.get_parameter("layers.0.norm1.weight").add_(1)
    assert before != key(cached)  # small tensors can be folded into the code


def test_training_is_refused(context: Callable[..., BuildContext]) -> None:
    program = Program(tiny.language())
    with pytest.raises(StepRefused, match="no gradients"):
        technique("aot_inductor").apply(
            program, context("aot_inductor", (tiny.prompt(),), "train_step")
        )


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_forward_with_named_inputs(context: Callable[..., BuildContext]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    x = torch.randn(1, 4)
    program = technique("aot_inductor").apply(
        Program(copy.deepcopy(model), context=ExecutionContext(gradients=False)),
        context("aot_inductor", {"input": x}, "forward"),
    )
    for inputs in ({"input": x}, (torch.randn(5, 4),)):
        expected = model(*(inputs.values() if isinstance(inputs, dict) else inputs))
        torch.testing.assert_close(program.forward(inputs), expected)
    assert set(dict(program.module.named_parameters())) == {"0.weight", "0.bias"}
