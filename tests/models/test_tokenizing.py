from __future__ import annotations

import pytest

from engine.errors import ModelError
from engine.models.tokenizing import load_tokenizer


def test_folder_with_a_word_list_encodes_and_decodes(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "there"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')

    coder = load_tokenizer(tmp_path)

    assert coder.encode("hello there") == [5, 6]
    assert coder.encode_pair("hello", "there", None)["input_ids"] == [2, 5, 3, 6, 3]
    assert coder.encode_pair("hello there", None, 3)["input_ids"] == [2, 5, 3]
    assert coder.decode([5, 6]) == "hello there"


@pytest.mark.parametrize("text", ["{}", "not json", '{"model": {"type": "Unheard"}}'])
def test_broken_tokenizer_is_told_in_one_line(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)

    with pytest.raises(ModelError, match="cannot be read") as refused:
        load_tokenizer(path)
    assert "\n" not in refused.value.message
