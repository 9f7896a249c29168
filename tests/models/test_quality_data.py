from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.models.data_rows import Row
from engine.models.opening import open_model
from engine.models.splitting import split
from engine.models.tokenizing import load_tokenizer
from engine.records import ModelReference, QualitySpec
from tests.tiny_models import huggingface_folder, python_file


def tokenizer_file(path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = {chr(97 + n): n + 3 for n in range(26)} | {" ": 29, "<unk>": 2}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.save(str(path))
    return path


def language_model(tmp_path):
    folder = huggingface_folder(tmp_path / "lm")
    tokenizer_file(folder / "tokenizer.json")
    return folder


def classifier(tmp_path, **values):
    folder = huggingface_folder(tmp_path / "bert", "BertForSequenceClassification", **values)
    tokenizer_file(folder / "tokenizer.json")
    return folder


def quality(model, path, **spec):
    reference = ModelReference(str(model))
    return open_model(
        reference, quality=QualitySpec(str(path), **spec), is_trusted=lambda code: True
    ).quality


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_text_becomes_windows_with_the_next_token_as_label(tmp_path):
    # 640 different letters pairs: windows of 64 tokens and one after them.
    text = "".join(f"{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(640))
    data = quality(language_model(tmp_path), write(tmp_path / "a.txt", text))

    assert data.metric == "perplexity"
    assert not data.higher_is_better
    first = data.evaluation[0]
    assert first.inputs["input_ids"].shape == first.labels.shape == (1, 64)
    assert torch.equal(first.inputs["input_ids"][:, 1:], first.labels[:, :-1])
    # 1280 tokens: 19 windows of 64 whose next token exists, a quarter of them for calibration.
    assert (len(data.calibration), len(data.evaluation)) == (5, 14)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables_with_text_and_labels_give_accuracy(tmp_path, suffix):
    rows = [{"text": f"word {chr(97 + n)}", "label": n % 3} for n in range(12)]
    if suffix == "jsonl":
        text = "\n".join(json.dumps(row) for row in rows)
    else:
        mark = "," if suffix == "csv" else "\t"
        text = "\n".join([f"text{mark}label", *(f"{r['text']}{mark}{r['label']}" for r in rows)])
    data = quality(classifier(tmp_path), write(tmp_path / f"a.{suffix}", text), metric="macro_f1")

    assert data.metric == "macro_f1"
    assert len(data.calibration) + len(data.evaluation) == 12
    assert {int(each.labels) for each in [*data.calibration, *data.evaluation]} == {0, 1, 2}
    assert {"input_ids", "attention_mask"} <= set(data.evaluation[0].inputs)


def test_labels_by_name_follow_the_config(tmp_path):
    names = {"bad": 2, "good": 0, "so so": 1}
    model = classifier(tmp_path, label2id=names, id2label={v: k for k, v in names.items()})
    rows = [{"text": f"a {word} {n}", "label": word} for n in "xyz" for word in names]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))

    data = quality(model, path)

    coder = load_tokenizer(model / "tokenizer.json")
    for each in data.evaluation:
        text = coder.decode(each.inputs["input_ids"][0].tolist()).replace(" ", "")
        word = next(name for name in names if name.replace(" ", "") in text)
        assert int(each.labels) == names[word]


def test_numbers_and_arrays_need_no_tokenizer(tmp_path):
    model = f"{python_file(tmp_path)}:build"
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(40, 8)), rng.integers(3, size=40)
    np.savez(tmp_path / "a.npz", inputs=values, labels=labels)
    lines = [",".join(map(str, [*row, label])) for row, label in zip(values, labels, strict=True)]
    names = ",".join([f"f{n}" for n in range(8)] + ["label"])
    table = write(tmp_path / "a.csv", "\n".join([names, *lines]))

    for data in (quality(model, tmp_path / "a.npz"), quality(model, table)):
        rows = [each.inputs[0] for each in [*data.calibration, *data.evaluation]]
        assert sum(len(each) for each in rows) == 40
        assert rows[0].dtype == torch.float32
        assert data.metric == "accuracy"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "empty"),
        ("a.txt", "   \n", "no examples"),
        ("a.txt", "a", "too short"),
        ("a.xyz", "a", "cannot be read from"),
        ("a.csv", "text,label\n", "no examples"),
        ("a.csv", "text,label\nhello\n", "number of columns"),
        ("a.csv", "words,class\nhello,1\n", "no number"),
        ("a.csv", "x,y\n1,2\n", "no text and no labels"),
        ("a.csv", "text,label\naa,1\nbb,7\ncc,2\n", "has the label 7"),
        ("a.csv", "text,label\naa,-1\nbb,-1\ncc,-1\n", "has the label -1"),
        ("a.csv", "text,label\naa,0.5\nbb,1\n", "answers 3 numbers"),
        ("a.csv", "text,label\naa,\nbb,\n", "2 of 2 rows have no 'label'"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "named columns"),
        ("a.jsonl", '{"text": 1, "label": 1}\n', "no text"),
        ("a.npz", "not a zip", "cannot be read as .npz"),
    ],
)
def test_bad_quality_data_is_refused_in_one_line(tmp_path, name, text, message):
    model = language_model(tmp_path) if name == "a.txt" else classifier(tmp_path)

    with pytest.raises(DataError, match=message) as refused:
        quality(model, write(tmp_path / name, text))
    assert "\n" not in refused.value.message


def test_missing_file_and_wrong_metric(tmp_path):
    model = classifier(tmp_path)
    path = write(tmp_path / "a.csv", "text,label\naa,1\nbb,2\n")

    with pytest.raises(DataError, match="There is no file"):
        quality(model, tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot give perplexity"):
        quality(model, path, metric="perplexity")
    with pytest.raises(DataError, match="must be one of"):
        quality(model, path, metric="beauty")
    with pytest.raises(DataError, match="not a causal language model"):
        quality(model, write(tmp_path / "a.txt", "hello there"))


def test_text_without_a_tokenizer_says_so(tmp_path):
    folder = huggingface_folder(tmp_path / "lm")

    with pytest.raises(DataError, match="no tokenizer"):
        quality(folder, write(tmp_path / "a.txt", "hello there"))


def test_arrays_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", inputs=np.zeros((4, 7)), labels=np.arange(4))

    with pytest.raises(DataError, match="cannot be called with the data"):
        quality(f"{python_file(tmp_path)}:build", tmp_path / "a.npz")


def test_npz_bomb_and_pickles_are_refused(tmp_path, monkeypatch):
    model = f"{python_file(tmp_path)}:build"
    np.savez(tmp_path / "a.npz", inputs=np.array([{"a": 1}], dtype=object), labels=np.arange(1))
    with pytest.raises(DataError, match="cannot be read"):
        quality(model, tmp_path / "a.npz")

    np.savez_compressed(tmp_path / "b.npz", inputs=np.zeros((10_000, 8)))
    monkeypatch.setattr("engine.models.data_arrays.MAX_ARRAY_BYTES", 100_000)
    with pytest.raises(DataError, match="would unpack to 640"):
        quality(model, tmp_path / "b.npz")


ROWS = st.lists(
    st.tuples(st.text("ab", max_size=4), st.none() | st.sampled_from(["x", "y", "z"])), min_size=1
)


@settings(max_examples=200, deadline=None)
@given(told=ROWS)
def test_parts_share_no_content_and_no_group(told):
    rows = [Row(text, None, group) for text, group in told]

    first, second = split(rows, calibration=100, evaluation=100)

    assert second
    assert not {each.values for each in first} & {each.values for each in second}
    groups = [{each.group for each in part} - {None} for part in (first, second)]
    assert not groups[0] & groups[1]
    assert {each.values for each in [*first, *second]} == {text for text, _ in told}
