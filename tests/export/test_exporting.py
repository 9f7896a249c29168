"""An export is whole, stands alone and says what was proved; a bad one is refused or kept apart."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.errors import ExportFailed, InputError, StorageFull, UntrustedCode
from engine.export import exporting
from engine.export.certifying import code_hash
from engine.export.formats.torch_export import TorchExport
from engine.export.verifying import verify_folder
from engine.records import Artifact, Workload
from tests.export.conftest import decoder, export, opened


class Named(nn.Module):
    """Takes named inputs and gives a dict, as many models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, values: Tensor, scale: Tensor, flag: bool = False) -> dict[str, Tensor]:
        return {"logits": self.linear(values) * scale, "sum": values.sum(-1)}


def copied(artifact: Artifact, folder: Path) -> Path:
    return Path(shutil.copytree(Path(artifact.path).parent, folder / "artifact"))


def test_a_cached_decoder_passes_on_whole_generations(cached_export: Artifact) -> None:
    assert cached_export.verdict == "PASSED"
    assert cached_export.max_relative_error < 1e-3
    names = [each.name for each in cached_export.certificate.checks]
    assert "same tokens (workload)" in names
    assert "same outputs (other sizes)" in names


def test_an_export_holds_everything_that_it_needs(cached_export: Artifact) -> None:
    folder = Path(cached_export.path).parent
    files = {each.name for each in folder.iterdir()}
    assert files == {
        "model.safetensors", "model.py", "load.py", "model.json", "reference.safetensors",
        "recipe.yaml", "certificate.json", "certificate.html",
    }  # fmt: skip
    assert not any(each.name.startswith(".") for each in folder.parent.iterdir())


def test_an_export_generates_what_the_original_does(cached_export: Artifact) -> None:
    space: dict[str, Any] = {"__file__": "load.py", "__name__": "load"}
    folder = Path(cached_export.path).parent
    exec((folder / "load.py").read_text(encoding="utf-8"), space)
    model = space["load"](folder)
    ids = np.array([[1, 2, 3, 4, 5]], dtype=np.int64)
    tokens, _ = model.generate({"input_ids": ids}, 8)
    torch.manual_seed(0)
    original = decoder().program.generate((torch.from_numpy(ids),), 8)
    assert tokens.tolist() == original.tokens.tolist()
    with pytest.raises(ValueError, match="must be at most"):
        model.generate({"input_ids": ids}, 1000)


def test_the_certificate_tells_recipe_versions_and_hashes(cached_export: Artifact) -> None:
    folder = Path(cached_export.path).parent
    written = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    assert written["recipe"] == "fuse_attention,kv_cache,inference_mode"
    assert "torch" in written["versions"]
    assert set(written["hashes"]) >= {"model.safetensors", "model.py", "load.py"}
    page = (folder / "certificate.html").read_text(encoding="utf-8")
    assert "PASSED" in page
    assert "http" not in page.replace("https://", "")


@pytest.mark.parametrize("format", ["torch_export", "onnx"])
def test_graph_formats_carry_prefill_and_step(format: str, tmp_path: Path) -> None:
    made = export(decoder(), "inference_mode,kv_cache", format, tmp_path / "out")
    assert made.verdict == "PASSED"
    manifest = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert manifest["mode"] == "flat_cache"
    assert set(manifest["files"]) == {"forward", "step"}


def test_a_decoder_without_a_cache_runs_the_prefix_again(tmp_path: Path) -> None:
    made = export(decoder(), "inference_mode", "safetensors", tmp_path / "out")
    assert made.verdict == "PASSED"
    assert any("whole prefix" in note for note in made.certificate.notes)


def test_named_inputs_and_several_outputs_are_carried(tmp_path: Path) -> None:
    inputs = {"values": torch.randn(2, 4), "scale": torch.ones(2, 1), "flag": True}
    model = opened(Named(), Workload(batch=2), inputs)
    made = export(model, "inference_mode", "onnx", tmp_path / "out")
    assert made.verdict == "PASSED"
    manifest = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert manifest["inputs"] == ["values", "scale"]
    assert manifest["outputs"] == 2


def test_an_artifact_that_answers_wrongly_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "out"
    export(decoder(), "kv_cache", "torch_export", good)
    before = (good / "certificate.json").read_bytes()
    write = TorchExport.write

    def write_another_model(self: TorchExport, job: Any) -> None:
        with torch.no_grad():
            for parameter in job.calls.forward.parameters():
                parameter.add_(0.1)
        write(self, job)

    monkeypatch.setattr(TorchExport, "write", write_another_model)
    made = export(decoder(), "kv_cache", "torch_export", good)
    assert made.verdict == "FAILED"
    assert Path(made.path).parent == tmp_path / "out.FAILED"
    assert (good / "certificate.json").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="no export"):
        export(decoder(), "inference_mode", "safetensors", tmp_path)
    assert [each.name for each in tmp_path.iterdir() if each.name != "home"] == ["thesis.tex"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting.shutil, "copyfile", full)
    with pytest.raises(StorageFull, match="is full"):
        export(decoder(), "inference_mode", "safetensors", tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_format_that_cannot_carry_the_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="only a transformers model"):
        export(decoder(), "inference_mode", "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="No format is called 'zip'"):
        export(decoder(), "inference_mode", "zip", tmp_path / "out")


def test_an_export_verifies_again_elsewhere(cached_export: Artifact, tmp_path: Path) -> None:
    folder = copied(cached_export, tmp_path)
    again = verify_folder(folder, is_trusted=lambda code: code == code_hash(folder))
    assert again.verdict == "PASSED"
    assert Path(again.path) == folder / "model.safetensors"


def test_a_changed_weight_file_fails_verification(cached_export: Artifact, tmp_path: Path) -> None:
    folder = copied(cached_export, tmp_path)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 0x40
    weights.write_bytes(bytes(content))
    again = verify_folder(folder, is_trusted=lambda code: True)
    assert again.verdict == "FAILED"
    assert "model.safetensors was changed" in again.certificate.checks[0].detail


def test_code_that_was_changed_does_not_run(cached_export: Artifact, tmp_path: Path) -> None:
    folder = copied(cached_export, tmp_path)
    trusted = code_hash(folder)
    marker = tmp_path / "ran"
    with (folder / "model.py").open("a", encoding="utf-8") as stream:
        stream.write(f"\nopen({str(marker)!r}, 'w')\n")
    with pytest.raises(UntrustedCode):
        verify_folder(folder, is_trusted=lambda code: code == trusted)
    assert not marker.exists()


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"certificate\.json is missing"):
        verify_folder(tmp_path, is_trusted=lambda code: True)


@pytest.mark.parametrize("mapped", [True, False])
def test_weights_are_mapped_unless_a_copy_is_asked_for(
    mapped: bool, cached_export: Artifact, tmp_path: Path
) -> None:
    folder = copied(cached_export, tmp_path)
    space: dict[str, Any] = {"__file__": "load.py", "__name__": "load"}
    exec((folder / "load.py").read_text(encoding="utf-8"), space)
    model = space["load"](folder, mapped=mapped)
    wanted = model.forward({"input_ids": np.array([[1, 2, 3]])})[0]
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert (str(folder / "model.safetensors") in maps.read_text()) is mapped
    if not mapped:  # a copy outlives its file
        (folder / "model.safetensors").write_bytes(b"")
        again = model.forward({"input_ids": np.array([[1, 2, 3]])})[0]
        np.testing.assert_array_equal(again, wanted)
