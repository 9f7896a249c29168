import csv
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from sample_models.tiny_gpt import model as sample
from sample_models.tiny_gpt import prepare_data, train

PARTS = ("train", "validation", "calibration", "test")


@pytest.fixture(scope="module")
def model() -> sample.TinyGPT:
    return sample.build()


@pytest.fixture(scope="module")
def sources() -> dict[str, list[dict[str, str]]]:
    return {part: sample.read_part(part) for part in PARTS}


def test_the_model_has_the_parameters_of_its_shape(model: sample.TinyGPT) -> None:
    # A layer: q, k, v 3*128*128; projection 128*128 + 128; feed-forward 128*512 + 512 + 512*128 +
    # 128; two norms of 2*128.
    layer = 3 * 128 * 128 + 128 * 128 + 128 + 2 * 128 * 512 + 512 + 128 + 4 * 128
    # Tokens (tied to the head), positions, last norm.
    expected = 1024 * 128 + 256 * 128 + 4 * layer + 2 * 128
    assert sum(each.numel() for each in model.parameters()) == expected == sample.CARD["parameters"]


def test_the_output_layer_is_the_token_embedding(model: sample.TinyGPT) -> None:
    assert model.head.weight is model.token_embedding.weight


def test_the_loaded_weights_are_those_of_the_file(model: sample.TinyGPT) -> None:
    state = model.state_dict()
    for name, weight in load_file(sample.WEIGHTS).items():
        assert torch.equal(state[name], weight), name
    assert not model.training


def test_building_on_the_meta_device_reads_no_weights(recwarn: pytest.WarningsRecorder) -> None:
    with torch.device("meta"):
        model = sample.build()
    assert model.head.weight.is_meta
    assert model.head.weight is model.token_embedding.weight
    assert not recwarn.list


def test_a_request_costs_the_flops_of_the_card(model: sample.TinyGPT) -> None:
    # Prefixes of 8 to 107 tokens, 5750 tokens in all, each through 4 layers of 12*128^2 weights
    # and the head of 1024*128; scores and mixing are 2 * 2*T^2*128 a layer, T^2 adding up to
    # 413950.
    expected = 2 * 5750 * (4 * 12 * 128**2 + 1024 * 128) + 4 * 4 * 128 * 413_950
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sample.generate(model, sample.prompts()[0], 100)
    assert counter.get_total_flops() == expected == sample.CARD["flops_per_request"]


def test_the_newcomers_loop_keeps_logits_with_gradients(model: sample.TinyGPT) -> None:
    ids, logits = sample.generate(model, torch.tensor([[5, 6, 7]]), 4)
    assert ids.shape == (1, 7)
    assert [tuple(each.shape) for each in logits] == [(1, t, 1024) for t in (3, 4, 5, 6)]
    assert all(each.requires_grad for each in logits)
    assert ids[0, 3:].tolist() == [int(each[0, -1].argmax()) for each in logits]


def test_later_tokens_change_no_earlier_logits(model: sample.TinyGPT) -> None:
    (ids,) = sample.example_inputs(sequence_length=32)
    changed = ids.clone()
    changed[:, 20:] = 0
    with torch.inference_mode():
        assert torch.equal(model(ids)[:, :20], model(changed)[:, :20])


def test_held_out_perplexity_is_that_of_the_card(model: sample.TinyGPT) -> None:
    examples = sample.quality_data()["evaluation"]
    with torch.inference_mode():
        losses = [float(sample.loss(model(*inputs), labels)) for inputs, labels in examples]
    assert all(len(labels) == 4 for _, labels in examples)
    # The card rounds to three places; sums in another order move the sixth.
    assert math.exp(sum(losses) / len(losses)) == pytest.approx(
        sample.CARD["metric_value"], abs=1e-3
    )


def test_labels_are_the_next_tokens() -> None:
    for (ids,), labels in sample.quality_data()["calibration"]:
        assert torch.equal(ids[:, 1:], labels[:, :-1])


def test_no_source_file_is_in_two_parts(sources: dict[str, list[dict[str, str]]]) -> None:
    names = [source["source"] for part in PARTS for source in sources[part]]
    assert len(set(names)) == len(names)


def test_a_page_and_its_module_share_a_part(sources: dict[str, list[dict[str, str]]]) -> None:
    part_of = {source["source"]: part for part in PARTS for source in sources[part]}
    for page in ("queue", "argparse", "netrc", "json", "webbrowser"):
        modules = [n for n in part_of if n in {f"lib/{page}.py", f"lib/{page}/__init__.py"}]
        assert {part_of[name] for name in modules} == {part_of[f"doc/library/{page}"]}


def test_no_long_paragraph_is_in_two_parts(sources: dict[str, list[dict[str, str]]]) -> None:
    def paragraphs(part: str) -> set[str]:
        texts = (source["text"].split("\n\n") for source in sources[part])
        contents = (" ".join(each.split()) for text in texts for each in text)
        return {content for content in contents if len(content) >= 80}

    held_out = [paragraphs(part) for part in PARTS[1:]]
    assert not set.intersection(*held_out)
    assert paragraphs("train").isdisjoint(set.union(*held_out))
    assert sum(map(len, held_out)) == len(set.union(*held_out))


def test_64_different_prompts_of_8_tokens() -> None:
    prompts = sample.prompts()
    assert len({tuple(prompt[0].tolist()) for prompt in prompts}) == 64
    assert {(prompt.shape, prompt.dtype) for prompt in prompts} == {((1, 8), torch.int64)}


def test_the_tokenizer_gives_every_text_back() -> None:
    text = "def café(x): return x  # ∑ 日本\n"
    assert sample.decode(sample.encode(text)) == text


def test_the_trained_computation_is_the_models_own(model: sample.TinyGPT) -> None:
    (ids,) = sample.example_inputs(batch=2, sequence_length=64)
    train.check_equal(model, ids)
    with torch.no_grad():
        model.blocks[0].attention.heads[1].key.weight.mul_(2)
        sums = train.fused_logits(model, ids), model(ids)
        model.blocks[0].attention.heads[1].key.weight.div_(2)
    torch.testing.assert_close(*sums, atol=train.LOGITS_TOLERANCE, rtol=0)


def test_two_steps_of_training_are_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [{"source": "a", "text": "Return the next item of the queue.\n" * 400}]
    monkeypatch.setattr(train, "read_part", lambda part: some)
    monkeypatch.setattr(train, "BATCH", 2)
    for run in ("first", "second"):
        train.train(tmp_path / run, steps=2)
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert first.keys() == load_file(sample.WEIGHTS).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with (tmp_path / "first" / "training_log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2"]


def test_the_committed_log_ends_where_training_ends() -> None:
    with (sample.FOLDER / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == train.STEPS
    assert float(rows[-1]["validation_loss"]) == min(float(row["validation_loss"]) for row in rows)


def test_the_corpus_is_made_of_pages_and_docstrings(tmp_path: Path) -> None:
    documentation, library = tmp_path / "pages", tmp_path / "lib"
    (documentation / "library").mkdir(parents=True)
    (library / "test").mkdir(parents=True)
    (documentation / "library" / "thing.rst.txt").write_text("Thing\n=====\n\n\n\nIt does.  \n")
    (library / "thing.py").write_text('"""A thing."""\ndef do():\n    """Does it."""\n')
    (library / "test" / "test_thing.py").write_text('"""Not in the corpus."""\n')
    arguments = [str(documentation), "--library", str(library), "--out", str(tmp_path / "out")]
    prepare_data.main(arguments)
    lines = []
    for part in PARTS:
        with prepare_data.lzma.open(tmp_path / "out" / f"{part}.jsonl.xz", "rt") as file:
            found = [json.loads(line) for line in file]
        assert len(found) in (0, 2)  # both are about `thing`
        lines += found
    assert {line["source"]: line["text"] for line in lines} == {
        "doc/library/thing": "Thing\n=====\n\nIt does.\n",
        "lib/thing.py": "thing\nA thing.\n\nthing.do\nDoes it.\n",
    }
