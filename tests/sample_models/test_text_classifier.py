import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix, f1_score

from sample_models.text_classifier import model as sample
from sample_models.text_classifier import prepare_data, train

PARTS = ("train", "validation", "calibration", "test")


@pytest.fixture(scope="module")
def model() -> sample.TextClassifier:
    return sample.build()


@pytest.fixture(scope="module")
def parts() -> dict[str, list[dict[str, str]]]:
    return {part: sample.read_part(part) for part in PARTS}


@pytest.fixture(scope="module")
def answers(model: sample.TextClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and right class ids of the whole evaluation data."""
    examples = sample.quality_data()["evaluation"]
    with torch.inference_mode():
        predicted = torch.cat([model(**inputs).argmax(-1) for inputs, _ in examples])
    return predicted, torch.cat([labels for _, labels in examples])


def test_the_loaded_weights_are_those_of_the_file(model: sample.TextClassifier) -> None:
    weights = load_file(sample.WEIGHTS)
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert not model.training


def test_building_on_the_meta_device_reads_no_weights(recwarn: pytest.WarningsRecorder) -> None:
    with torch.device("meta"):
        assert all(each.is_meta for each in sample.build().parameters())
    assert not recwarn.list


def test_padding_changes_no_answer(model: sample.TextClassifier) -> None:
    short, long = "Return the socket's peer name.", "Send a message to every listener. " * 5
    with torch.inference_mode():
        alone = model(**sample.encode([short]))
        beside = model(**sample.encode([short, long]))
    torch.testing.assert_close(alone[0], beside[0], atol=1e-4, rtol=1e-4)


def test_held_out_quality_is_that_of_the_card(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    predicted, labels = answers
    # The card rounds to four places; no text may change sides.
    accuracy = float((predicted == labels).float().mean())
    assert accuracy == pytest.approx(sample.CARD["metric_value"], abs=1e-4)
    assert f1_score(labels, predicted, average="macro") == pytest.approx(
        sample.CARD["macro_f1"], abs=1e-4
    )


def test_the_confusion_matrix_of_the_readme_is_the_measured_one(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    predicted, labels = answers
    readme = (sample.FOLDER / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| **")]
    told = [[int(cell) for cell in line.strip("| ").split("|")[1:]] for line in rows]
    assert told == confusion_matrix(labels, predicted).tolist()


def test_no_file_and_no_text_is_in_two_parts(parts: dict[str, list[dict[str, str]]]) -> None:
    files = [{row["source"] for row in parts[part]} for part in PARTS]
    assert sum(map(len, files)) == len(set.union(*files))
    texts = [" ".join(row["text"].split()) for part in PARTS for row in parts[part]]
    assert len(set(texts)) == len(texts)


def test_every_area_is_in_every_part(parts: dict[str, list[dict[str, str]]]) -> None:
    for part in PARTS:
        assert {row["label"] for row in parts[part]} == set(sample.CLASSES)


def test_the_committed_log_ends_once_the_loss_has_stopped_falling() -> None:
    with (sample.FOLDER / "training_log.csv").open() as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    assert losses.index(min(losses)) == len(losses) - 1 - train.PATIENCE


def test_two_steps_of_training_are_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [{"text": f"Send {n} bytes.", "label": area} for n, area in enumerate(sample.CLASSES)]
    monkeypatch.setattr(train, "read_part", lambda part: some)
    for run in ("first", "second"):
        train.train(tmp_path / run, most_steps=2)
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert first.keys() == load_file(sample.WEIGHTS).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_docstrings_and_code_become_texts_with_their_area(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    body = "    return [each for each in range(100) if each % 7 == 0]\n"
    (tmp_path / "json.py").write_text(
        '"""A module about the encoding of many things."""\n'
        f'def first(x):\n    """Gives back the first of the things that are asked."""\n{body}'
    )
    (tmp_path / "test" / "test_json.py").write_text(f"def test_first():\n{body}")
    (tmp_path / "unheard_of.py").write_text(f"def other():\n{body}")
    found = list(prepare_data.read_library(tmp_path))
    assert {(s.source, s.area) for s in found} == {
        ("json.py", "formats"), ("test/test_json.py", "formats"),
    }  # fmt: skip
    texts = {(s.kind, s.text) for s in found if s.source == "json.py"}
    assert ("docstring", "A module about the encoding of many things.") in texts
    assert ("docstring", "Gives back the first of the things that are asked.") in texts
    assert ("code", f"def first(x):\n{body.rstrip()}") in texts
