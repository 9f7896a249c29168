"""The graph of one call: exported, recorded, folded."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from engine.profile.counting import count
from engine.profile.graph import building
from engine.profile.graph.building import model_graph
from engine.profile.graph.exported import exported_graph
from engine.profile.graph.recorded import recorded_graph
from engine.program import Program
from engine.records import ModelGraph, Workload, from_json, to_json
from tests.profile.models import cached, decoder, mlp
from tests.tiny_models import huggingface_model

FORWARD = Workload()
IDS = {"input_ids": torch.arange(6)[None] + 3}


def graph_of(program, inputs, **how) -> ModelGraph:
    return model_graph(program, how.pop("workload", FORWARD), inputs, study="s", **how)


def names(graph, kinds=("operator",)) -> list[str]:
    return [each.operator for each in graph.nodes if each.kind in kinds]


def flows(graph) -> set[tuple[str, str]]:
    return {
        (graph.nodes[each.source].operator, graph.nodes[each.target].operator)
        for each in graph.edges
    }


def test_operators_stand_in_their_modules_with_shapes_and_costs():
    graph = graph_of(*mlp(rows=8))
    assert (graph.source, graph.reason) == ("torch.export", "")
    assert names(graph, ("input", "operator", "output")) == [
        "x", "aten::linear", "aten::relu", "aten::linear", "output",
    ]  # fmt: skip
    up = graph.nodes[1]
    assert graph.modules[up.module].name == "up"
    assert (up.shape, up.dtype) == ("[8, 32]", "float32")
    assert up.flops == 2 * 8 * 16 * 32  # rows * in * out multiply-adds
    # input [8, 16], weight [16, 32], bias [32], output [8, 32], 4 bytes each
    assert up.moved_bytes == 4 * (128 + 512 + 32 + 256)
    relu = graph.nodes[2]
    assert (relu.flops, relu.elementwise_flops) == (0, 8 * 32)  # one for each number
    assert ("x", "aten::linear") in flows(graph)
    assert ("aten::relu", "aten::linear") in flows(graph)
    assert len(graph.edges) == 4  # parameters are left out
    assert from_json(to_json(graph), ModelGraph) == graph


@pytest.mark.parametrize(
    ("architecture", "inputs"),
    [
        ("LlamaForCausalLM", IDS),
        ("MixtralForCausalLM", IDS),
        ("BertForSequenceClassification", {**IDS, "attention_mask": torch.ones(1, 6).long()}),
        ("ViTForImageClassification", {"pixel_values": torch.zeros(1, 3, 16, 16)}),
    ],
)
def test_exported_and_recorded_graphs_cost_what_the_count_says(architecture, inputs):
    program = Program(huggingface_model(architecture))
    graph = graph_of(program, inputs)
    flops = sum(each.flops or 0 for each in graph.nodes)
    assert graph.source == "torch.export"
    assert flops == count(program, FORWARD, inputs).totals.flops
    recorded = recorded_graph(program, inputs)
    assert sum(each.flops or 0 for each in recorded.nodes) == flops
    known = {name or "(model)" for name, _ in program.module.named_modules()}
    assert {each.name for each in graph.modules} <= known
    assert {each.name for each in recorded.modules} <= known


class Sorting(nn.Module):
    """Does what has no formula."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_what_has_no_formula_is_unknown_and_not_zero():
    graph = graph_of(Program(Sorting()), (torch.ones(4),))
    assert None in [each.flops for each in graph.nodes]


def test_layers_of_a_decoder_are_one_block_and_flow_on():
    graph = graph_of(Program(huggingface_model("LlamaForCausalLM")), IDS)
    layers = [each for each in graph.modules if each.name in ("model.layers.0", "model.layers.1")]
    assert len(layers) == 2
    assert layers[0].block == layers[1].block != graph.modules[0].block
    assert graph.modules[layers[0].parent].name == "model"
    between = {
        (graph.modules[graph.nodes[each.source].module].name.split(".self_attn")[0],
         graph.modules[graph.nodes[each.target].module].name.split(".input_layernorm")[0])
        for each in graph.edges
    }  # fmt: skip
    assert ("model.layers.0", "model.layers.1") in between


def test_a_generation_shows_the_call_on_its_prompt():
    program, inputs = decoder(tokens=5)
    graph = graph_of(program, inputs, workload=Workload("generate", new_tokens=3))
    assert graph.phase == "prefill"
    assert graph.nodes[0].shape == "[1, 5]"


class Branching(nn.Module):
    """Decides by a value, which torch.export cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.sum().item() > 0 else self.second(x)


def test_what_cannot_be_exported_is_recorded_with_the_reason():
    graph = graph_of(Program(Branching()), (-torch.ones(1, 4),))
    assert graph.source == "recorded run"
    assert graph.reason
    assert "second" in {each.name for each in graph.modules}
    assert "first" not in {each.name for each in graph.modules}


class Slow(nn.Module):
    """Takes as long as it is told to be traced."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            time.sleep(5)
        return x.exp()


def test_an_export_that_takes_too_long_is_given_up():
    began = time.perf_counter()
    graph = graph_of(Program(Slow()), (torch.ones(2),), limit_seconds=0.3)
    assert graph.reason == "it took longer than 0.3 s"
    assert names(graph) == ["aten::exp"]
    assert time.perf_counter() - began < 4


class Twice(nn.Module):
    """Calls one layer two times, and writes into what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        out = self.layer(self.layer(x))
        first = out[:, :2]
        out.add_(scale)
        return {"first": first.exp(), "all": out}


@pytest.mark.parametrize("read", [exported_graph, lambda m, i: recorded_graph(Program(m), i)])
def test_each_call_of_a_module_stands_apart(read):
    draft = read(Twice(), {"x": torch.ones(2, 4), "scale": torch.ones(4)})
    assert [(each.name, each.call) for each in draft.modules] == [
        ("(model)", 0), ("layer", 0), ("layer", 1),
    ]  # fmt: skip
    assert [each.operator for each in draft.nodes if each.kind == "input"] == ["x", "scale"]


def test_what_is_written_in_place_flows_on_to_its_views():
    draft = recorded_graph(Program(Twice()), {"x": torch.ones(2, 4), "scale": torch.ones(4)})
    assert ("aten::add_", "aten::exp") in flows(draft)
    assert ("aten::add_", "output") in flows(draft)


def test_a_cache_in_the_outputs_does_not_stop_the_graph():
    program, inputs = cached()
    graph = graph_of(program, inputs, workload=Workload("generate", new_tokens=2))
    assert "aten::linear" in names(graph)


def test_a_large_graph_is_folded_from_the_deepest_modules_on():
    program = Program(huggingface_model("LlamaForCausalLM"))
    whole = graph_of(program, IDS)
    small = graph_of(program, IDS, most_nodes=90)
    assert len(small.nodes) <= 90
    folds = [each for each in small.nodes if each.kind == "folded"]
    assert small.folded == sum(each.folded for each in folds) > 0
    shown = len(small.nodes) - len(folds)
    assert shown + small.folded == len(whole.nodes)
    assert sum(each.flops or 0 for each in small.nodes) == sum(e.flops or 0 for e in whole.nodes)
    assert all(each.source != each.target for each in small.edges)


def test_a_large_graph_without_modules_keeps_its_beginning():
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(30):
                x = x.sin()
            return x

    graph = graph_of(Program(Chain()), (torch.ones(2),), most_nodes=10)
    assert len(graph.nodes) == 10
    assert graph.nodes[-1].folded == 23  # 1 input + 30 operators + 1 output - 9 that stay


def test_a_model_without_weights_has_its_graph(monkeypatch):
    with torch.device("meta"):
        program, inputs = mlp()
    program.context.device = "meta"
    graph = graph_of(program, inputs)
    assert sum(each.flops or 0 for each in graph.nodes) == 8192 + 2048
    monkeypatch.setattr(building, "exported_graph", _refuse)
    assert sum(each.flops or 0 for each in graph_of(program, inputs).nodes) == 8192 + 2048


def test_the_verb_keeps_the_graph_of_the_study(tmp_path):
    from engine import api, work
    from engine.records import to_plain
    from engine.store import Store
    from tests.tiny_models import python_file

    class Job:
        store = Store(tmp_path / "store")

        def progress(self, fraction, words):
            pass

        def log(self, text):
            pass

    asked = api.request(f"{python_file(tmp_path)}:build", trust=True)
    made = work.WORK["graph"]({"request": to_plain(asked)}, Job())
    assert Job.store.get("graph", made.study, ModelGraph) == made
    assert names(made) == ["aten::linear", "aten::relu", "aten::linear"]


def _refuse(module, inputs):
    raise RuntimeError("no")
