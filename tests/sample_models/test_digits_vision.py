from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sample_models.digits_vision import model as sample
from sample_models.digits_vision import prepare_data, train

PARTS = ("train", "validation", "calibration", "test")


def test_the_model_has_the_parameters_of_its_shape() -> None:
    # Convolutions without bias, norms of 2 a channel, 512 features to 256 to 10 classes.
    convolutions = 9 * (1 * 64 + 64 * 128 + 128 * 128 + 128 * 128)
    norms = 2 * (64 + 128 + 128 + 128)
    linears = 512 * 256 + 256 + 256 * 10 + 10
    parameters = sum(each.numel() for each in sample.build().parameters())
    assert parameters == convolutions + norms + linears == sample.CARD["parameters"]


def test_the_loaded_weights_are_those_of_the_file() -> None:
    model = sample.build()
    weights = load_file(sample.WEIGHTS)
    assert not model.training
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)


def test_building_on_the_meta_device_reads_no_weights(recwarn: pytest.WarningsRecorder) -> None:
    with torch.device("meta"):
        assert all(each.is_meta for each in sample.build().parameters())
    assert not recwarn.list


def test_held_out_top_1_is_that_of_the_card() -> None:
    model = sample.build()
    with torch.inference_mode():
        hits = [model(*x).argmax(dim=-1) == y for x, y in sample.quality_data()["evaluation"]]
    joined = torch.cat(hits)
    assert len(joined) == 599
    # One image of 599 is 0.0017: no image may change sides.
    assert float(joined.float().mean()) == pytest.approx(sample.CARD["metric_value"], abs=1e-4)


def test_no_image_is_in_two_parts() -> None:
    images = torch.cat([sample.read_part(part)[0] for part in PARTS])
    assert len(images) == 1797
    assert len(torch.unique(images.flatten(1), dim=0)) == 1797


def test_the_shipped_data_are_those_of_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install '.[test]'")
    monkeypatch.setattr(prepare_data, "DATA", tmp_path / "digits.npz")
    prepare_data.main()
    with np.load(tmp_path / "digits.npz") as made, np.load(sample.DATA) as shipped:
        assert set(made) == set(shipped)
        assert all(np.array_equal(made[name], shipped[name]) for name in made)


def test_an_image_seen_earlier_is_left_out_of_a_later_part() -> None:
    images = np.arange(12, dtype=np.uint8).repeat(64).reshape(12, 8, 8)
    images[11] = images[2]
    arrays = prepare_data.part_digits(images, np.arange(12, dtype=np.uint8))
    assert arrays["train_labels"].tolist() == [0, 1, 2, 3, 4, 5]
    assert arrays["test_labels"].tolist() == [8, 9, 10]


def test_example_inputs_follow_batch_and_seed() -> None:
    (images,) = sample.example_inputs(batch=3, seed=1)
    assert images.shape == (3, 1, 8, 8)
    assert torch.equal(images, sample.example_inputs(batch=3, seed=1)[0])
    assert sample.build()(images).shape == (3, 10)


def test_two_steps_of_training_are_reproducible(tmp_path: Path) -> None:
    for run in ("first", "second"):
        train.train(tmp_path / run, steps=2)
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert first.keys() == load_file(sample.WEIGHTS).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
