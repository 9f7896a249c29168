"""Byte-level BPE tokenizer of text_classifier, learned on the training part only.

python -m sample_models.text_classifier.train_tokenizer
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

FOLDER = Path(__file__).parent
VOCABULARY = 8192


def main() -> None:
    """Writes tokenizer.json beside this file."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["[PAD]", "[CLS]", "[UNK]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with lzma.open(FOLDER / "data" / "train.jsonl.xz", "rt", encoding="utf-8") as lines:
        tokenizer.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    start = ("[CLS]", tokenizer.token_to_id("[CLS]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[start]
    )
    tokenizer.save(str(FOLDER / "tokenizer.json"))


if __name__ == "__main__":
    main()
