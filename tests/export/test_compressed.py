"""Compressed weights come back to the last bit; an artifact reads them alone."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import ExportFailed
from engine.export.clean import compressed
from tests.export.conftest import decoder, export

KINDS = {
    "float64": torch.randn(33, dtype=torch.float64),
    "float32": torch.randn(700, 500),
    "bfloat16": (0.02 * torch.randn(700, 500)).bfloat16(),
    "float16": torch.randn(300).half(),
    "float8": torch.randn(300).to(torch.float8_e4m3fn),
    "int8": torch.arange(-100, 100).to(torch.int8),
    "int64": torch.arange(300_001),
    "bool": torch.rand(50) > 0.5,
    "scalar": torch.tensor(-0.0),
    "empty": torch.empty(0, 3),
    "not finite": torch.tensor([float("nan"), -float("inf"), 1e-45]),
    "transposed": torch.randn(40, 30).t(),
}


@pytest.mark.parametrize("codec", compressed.CODECS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_comes_back(kind: str, codec: str) -> None:
    tensor = KINDS[kind]
    blob, entry = compressed.pack(tensor, codec)
    assert compressed.same_bits(compressed.unpack(blob, entry, codec), tensor)


def ratio(tensor: Tensor, codec: str) -> float:
    blob, _ = compressed.pack(tensor, codec)
    return tensor.nbytes / blob.nbytes


@pytest.mark.parametrize("codec", compressed.CODECS)
def test_exponents_take_what_their_entropy_says(codec: str) -> None:
    # Exponents of a normal distribution have 2.55 bits of entropy (counted below), so that
    # bfloat16 takes 8 + 2.55 bits of 16; a real code stays within 5 % of that.
    torch.manual_seed(0)
    tensor = torch.randn(1 << 19).bfloat16()
    exponents = (tensor.view(torch.int16).numpy().view(np.uint16) >> 7) & 0xFF
    shares = np.bincount(exponents) / len(exponents)
    entropy = -sum(share * np.log2(share) for share in shares if share)
    best = 16 / (8 + entropy)
    assert 0.95 * best < ratio(tensor, codec) <= best * 1.01


def test_noise_is_not_made_larger() -> None:
    noise = torch.randint(-128, 128, (1 << 19,), dtype=torch.int8)
    assert ratio(noise, "zstd") == 1.0


def test_float32_that_was_bfloat16_before_shrinks_almost_to_a_third() -> None:
    # The two low bytes of each number are zero: 32 bits hold what 10.6 do.
    assert ratio(torch.randn(1 << 19).bfloat16().float(), "zstd") > 2.7


def test_a_file_holds_everything(tmp_path: Path) -> None:
    tensors = {**KINDS, "complex": torch.randn(4, dtype=torch.complex64)}
    size = compressed.save(tensors, tmp_path / "w.safetensors", "zlib")
    assert size == (tmp_path / "w.safetensors").stat().st_size
    found = compressed.load(tmp_path / "w.safetensors")
    assert set(found) == set(tensors)
    plain = {name: each for name, each in tensors.items() if name != "complex"}
    assert all(compressed.same_bits(found[name], each) for name, each in plain.items())
    assert torch.equal(found["complex"], tensors["complex"])


@pytest.mark.parametrize("codec", compressed.CODECS)
@pytest.mark.parametrize("place", [0, 100, -1])
def test_damaged_bytes_raise_a_value_error_or_change_numbers_only(codec: str, place: int) -> None:
    blob, entry = compressed.pack(KINDS["bfloat16"], codec)
    damaged = blob.copy()
    damaged[place] ^= 0x55
    with contextlib.suppress(ValueError):
        found = compressed.unpack(damaged, entry, codec)
        assert found.shape == KINDS["bfloat16"].shape


@pytest.mark.parametrize(
    "lengths", [[], [1], [10**15, 1], [-5, 5]], ids=["none", "few", "too much", "negative"]
)
def test_an_index_that_does_not_fit_is_refused(lengths: list[int]) -> None:
    blob, entry = compressed.pack(KINDS["float16"], "zlib")
    with pytest.raises(ValueError, match="damaged"):
        compressed.unpack(blob, {**entry, "lengths": lengths}, "zlib")


def test_zstd_without_a_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_ZSTD", ("no_such_package",))
    assert compressed.zstd_package() is None
    with pytest.raises(ValueError, match="pip install zstandard"):
        compressed.pack(KINDS["float16"], "zstd")


@pytest.mark.parametrize("recipe", ["kv_cache,compress_weights", "compress_weights:codec=zlib"])
def test_an_artifact_reads_its_compressed_weights_alone(recipe: str, tmp_path: Path) -> None:
    made = export(decoder(), recipe, "safetensors", tmp_path / "out")
    assert made.verdict == "PASSED"
    assert made.max_relative_error < 1e-6
    manifest = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    told = manifest["compressed"]
    assert told["stored_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert any("every bit came back" in note for note in made.certificate.notes)


def test_the_weights_of_a_compressed_artifact_are_those_of_a_plain_one(tmp_path: Path) -> None:
    export(decoder(), "inference_mode", "safetensors", tmp_path / "plain")
    export(decoder(), "inference_mode,compress_weights", "safetensors", tmp_path / "packed")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    packed = compressed.load(tmp_path / "packed" / "model.safetensors")
    assert set(plain) == set(packed)
    assert all(compressed.same_bits(packed[name], each) for name, each in plain.items())


@pytest.mark.parametrize("format", ["torch_export", "onnx", "huggingface"])
def test_formats_that_others_read_refuse_compressed_weights(format: str, tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="choose safetensors"):
        export(decoder(), "compress_weights", format, tmp_path / "out")
