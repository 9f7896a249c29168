"""Data files of a person become examples of the metric, with what was left out in the notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import DataError
from engine.models.opening import open_model
from engine.models.tokenizing import byte_counts
from engine.records import ModelReference, QualitySpec
from tests.models.test_quality_data import (
    classifier,
    language_model,
    quality,
    tokenizer_file,
    write,
)

REGRESSION = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Linear(3, 1)
def example_inputs(*, batch=1):
    return (torch.zeros(batch, 3),)
"""
EMBEDDER = """
from pathlib import Path
import torch
from torch import nn
TOKENIZER = Path(__file__).parent / "tokenizer.json"
class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 4)
    def forward(self, input_ids, attention_mask):
        return self.embedding(input_ids)
def build():
    return Embedder()
def example_inputs(*, batch=1, sequence_length=4):
    ids = torch.zeros(batch, sequence_length, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
"""
PICTURES = """
import torch
from torch import nn
CLASSES = ("cat", "dog", "fox")
def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
def example_inputs(*, batch=1):
    return (torch.zeros(batch, 1, 8, 8),)
"""


def rows_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "\n".join(map(json.dumps, rows)))


def test_fractions_as_labels_give_r2(tmp_path: Path) -> None:
    model = write(tmp_path / "model.py", REGRESSION)
    rows = [{"a": n, "b": 1, "c": n % 3, "label": n / 4} for n in range(20)]

    data = quality(f"{model}:build", rows_file(tmp_path / "a.jsonl", rows))

    assert (data.metric, data.higher_is_better) == ("r2", True)
    labels = torch.cat([each.labels for each in [*data.calibration, *data.evaluation]])
    assert labels.dtype == torch.float32
    assert sorted(labels.tolist()) == [n / 4 for n in range(20)]


def test_equal_labels_of_a_regression_are_refused(tmp_path: Path) -> None:
    model = write(tmp_path / "model.py", REGRESSION)
    rows = [{"a": n, "b": 1, "c": 2, "label": 0.5} for n in range(20)]
    with pytest.raises(DataError, match=r"Every label of a.jsonl is 0.5"):
        quality(f"{model}:build", rows_file(tmp_path / "a.jsonl", rows))


def test_pairs_with_a_score_are_two_padded_rows(tmp_path: Path) -> None:
    tokenizer_file(tmp_path / "tokenizer.json")
    model = write(tmp_path / "model.py", EMBEDDER)
    rows = [{"sentence1": "a" * (n + 1), "sentence2": "b c d e", "score": n / 2} for n in range(8)]

    data = quality(f"{model}:build", rows_file(tmp_path / "a.jsonl", rows))

    assert data.metric == "rank_correlation"
    for each in data.evaluation:
        assert each.inputs["input_ids"].shape[0] == 2
        assert each.labels.shape == (1,)
        assert each.inputs["attention_mask"].sum(1).min() > 0


def test_vectors_as_labels_give_cosine(tmp_path: Path) -> None:
    model = write(tmp_path / "model.py", REGRESSION.replace("Linear(3, 1)", "Linear(3, 2)"))
    values = np.random.default_rng(0).normal(size=(12, 3))
    np.savez(tmp_path / "a.npz", inputs=values, labels=values[:, :2])

    data = quality(f"{model}:build", tmp_path / "a.npz")

    assert data.metric == "cosine"
    assert sum(len(each.labels) for each in [*data.calibration, *data.evaluation]) == 12


def test_images_are_resized_and_a_broken_one_is_counted(tmp_path: Path) -> None:
    model = write(tmp_path / "model.py", PICTURES)
    for index, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for n in range(4):
            place = tmp_path / "pets" / name / f"{n}.png"
            Image.new("RGB", (20, 10), (60 * n, 9, 90 * index)).save(place)
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n")

    data = quality(f"{model}:build", tmp_path / "pets")

    examples = [*data.calibration, *data.evaluation]
    assert len(examples) == 8
    assert {each.inputs[0].shape for each in examples} == {(1, 1, 8, 8)}
    assert data.class_names == ("cat", "dog", "fox")
    said = " ".join(data.notes)
    assert "images cannot be read and were left out" in said
    assert "No evaluation example is of the class fox" in said


def test_a_class_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    names = {"bad": 0, "good": 1, "so so": 2}
    model = classifier(tmp_path, label2id=names, id2label={v: k for k, v in names.items()})
    path = rows_file(
        tmp_path / "a.jsonl", [{"text": f"a {n}", "label": n} for n in ("good", "ugly", "bad")]
    )
    with pytest.raises(DataError, match="the class 'ugly', which the model does not know"):
        quality(model, path)


def test_notes_tell_what_was_cut_repeated_and_drawn(tmp_path: Path) -> None:
    rows = [{"text": letter * 3, "label": n % 2} for n, letter in enumerate("abcdefghij")]
    rows += [{"text": "a b " * 60, "label": 1}, *rows[:3]]

    data = quality(classifier(tmp_path), rows_file(tmp_path / "a.jsonl", rows))

    said = " ".join(data.notes)
    assert "3 of 14 rows repeat another and count once" in said
    assert "1 of" in said
    assert "texts are longer than 64 tokens and were cut" in said


def test_all_rows_equal_leave_one_example_and_say_so(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "a.jsonl", [{"text": "same", "label": 1}] * 5)

    data = quality(classifier(tmp_path), path)

    assert len(data.evaluation) == 1
    assert "4 of 5 rows repeat another and count once." in data.notes
    assert "There is one evaluation example: no interval can be given." in data.notes


def test_the_notes_reach_the_models_summary(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "a.jsonl", [{"body": "same", "mark": 1}] * 5)
    spec = QualitySpec(str(path), columns={"text": "body", "label": "mark"})

    opened = open_model(ModelReference(str(classifier(tmp_path))), quality=spec)

    assert "4 of 5 rows repeat another and count once." in opened.summary.notes


def test_windows_count_the_bytes_that_they_predict(tmp_path: Path) -> None:
    text = "".join(f"{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(640))

    data = quality(
        language_model(tmp_path), write(tmp_path / "a.txt", text), metric="bits_per_byte"
    )

    # The tokenizer has one letter a token: 64 next tokens are 64 bytes.
    assert {each.text_bytes for each in data.evaluation} == {(64,)}
    assert any("fill no window of 64" in each for each in data.notes)


def test_bytes_add_up_to_the_whole_text() -> None:
    text = " né à "
    # Tokens "né" and "à": the space before each counts for it, the last one for the last.
    assert byte_counts(text, [(1, 3), (4, 5)]) == [4, 4]
    assert sum(byte_counts(text, [(1, 3), (4, 5)])) == len(text.encode())


def test_own_calibration_that_is_also_evaluated_on_is_left_out(tmp_path: Path) -> None:
    own = """
def quality_data():
    rows = [torch.full((1, 3), float(n)) for n in range(4)]
    return {"metric": "mine", "calibration": [((rows[0],), None), ((rows[3],), None)],
            "evaluation": [((torch.cat(rows[1:]),), None), ((torch.zeros(1, 3) - 1,), None)]}
def evaluate(predict, examples):
    return [1.0 for each in examples]
"""
    model = write(tmp_path / "model.py", REGRESSION + own)

    opened = open_model(ModelReference(f"{model}:build"), is_trusted=lambda code: True)

    assert [each.inputs[0][0, 0].item() for each in opened.quality.calibration] == [0.0]
    assert opened.summary.notes == (
        "1 of 2 calibration examples share content with the evaluation and were left out.",
    )
