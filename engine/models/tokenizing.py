"""Text to token ids and back, by the tokenizer that belongs to a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.errors import ModelError
from engine.models.safety import MAX_JSON_BYTES, regular_file


class TextCoder(Protocol):
    """What both kinds of tokenizer can do."""

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without what marks its start or end."""
        ...

    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids as `encode` gives them, and the UTF-8 bytes of text that each adds.

        The second is empty where the tokenizer does not tell where its tokens stand.
        """
        ...

    def encode_pair(self, text: str, second: str | None, longest: int | None) -> dict[str, Any]:
        """Input names to ids of one text, or of two, as a classifier takes them."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


def load_tokenizer(path: Path) -> TextCoder:
    """The tokenizer at the path: a tokenizer.json, or a folder that transformers knows.

    Raises:
        ModelError: it cannot be read; code that came with a folder is never run.
    """
    try:
        if path.is_dir():
            return _Folder(path)
        if regular_file(path).stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path.name} is larger than {MAX_JSON_BYTES} bytes.")
        return _Single(path)
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"The tokenizer {path.name} cannot be read: {first}.") from error


def byte_counts(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """UTF-8 bytes that each token adds, from the characters [start, end) that it stands for.

    What lies between two tokens (a space that a tokenizer drops) counts for the later one, and what
    follows the last for the last, so that the counts add up to the whole text.
    """
    found, done = [], 0
    for index, (_, end) in enumerate(offsets):
        end = len(text) if index == len(offsets) - 1 else max(end, done)
        found.append(len(text[done:end].encode("utf-8", "surrogatepass")))
        done = end
    return found


class _Single:
    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return list(found.ids), byte_counts(text, found.offsets)

    def encode_pair(self, text: str, second: str | None, longest: int | None) -> dict[str, Any]:
        if longest is not None:
            self._tokenizer.enable_truncation(longest)
        given = (text,) if second is None else (text, second)
        found = self._tokenizer.encode(*given)
        self._tokenizer.no_truncation()
        return {
            "input_ids": list(found.ids),
            "attention_mask": list(found.attention_mask),
            "token_type_ids": list(found.type_ids),
        }

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


class _Folder:
    def __init__(self, path: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        if not self._tokenizer.is_fast:
            return self.encode(text), []
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(found["input_ids"]), byte_counts(text, found["offset_mapping"])

    def encode_pair(self, text: str, second: str | None, longest: int | None) -> dict[str, Any]:
        limit = {"truncation": True, "max_length": longest} if longest is not None else {}
        return dict(self._tokenizer(text, second, **limit))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))
