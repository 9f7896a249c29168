from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.errors import (
    InputError,
    ModelError,
    UnsafeFile,
    UntrustedCode,
    WeightsMismatch,
)
from engine.models.opening import open_model
from engine.models.sources.live import freeze
from engine.program import RecomputeDecoder
from engine.records import ModelReference, WorkloadRequest
from engine.store import Store
from tests.tiny_models import TinyDecoder, huggingface_folder, python_file


def opened(location, *, options=None, weights=None, trust=True, meta=False, **workload):
    reference = ModelReference(str(location), options or {}, str(weights) if weights else None)
    return open_model(
        reference, WorkloadRequest(**workload), is_trusted=lambda code: trust, meta=meta
    )


LANGUAGE = """
import torch
from tests.tiny_models import TinyDecoder


def build():
    torch.manual_seed(0)
    return TinyDecoder()


def example_inputs(*, batch=1, sequence_length=8):
    return torch.randint(32, (batch, sequence_length))


def default_workload():
    return {"kind": "generate", "prompt_tokens": 8, "new_tokens": 16, "max_length": 64}


def loss(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())
"""


# ---- code and trust ----------------------------------------------------------------------------


def test_python_file_opens_only_when_its_hash_is_trusted(tmp_path):
    file = python_file(tmp_path, "open('ran', 'w')\n" + python_file(tmp_path).read_text())
    with pytest.raises(UntrustedCode) as refused:
        opened(f"{file}:build", trust=False)

    assert len(refused.value.detail) == 64
    asked = []
    with pytest.raises(UntrustedCode):
        open_model(ModelReference(f"{file}:build"), is_trusted=lambda code: asked.append(code))
    assert asked == [refused.value.detail]
    assert not (tmp_path / "ran").exists()


def test_trust_ends_when_a_local_import_changes(tmp_path):
    source = "from parts.layers import make as build\nfrom parts.inputs import *\n"
    file = python_file(tmp_path, source)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "layers.py").write_text(
        "import torch\ndef make(): return torch.nn.Linear(2, 2)\n"
    )
    (tmp_path / "parts" / "inputs.py").write_text(
        "import torch\ndef example_inputs(): return torch.ones(1, 2)\n"
    )
    seen = []
    for text in ("", "# changed\n"):
        with (tmp_path / "parts" / "layers.py").open("a") as stream:
            stream.write(text)
        open_model(ModelReference(f"{file}:build"), is_trusted=lambda code: not seen.append(code))

    assert seen[0] != seen[1]


def test_local_file_that_was_not_hashed_cannot_be_imported(tmp_path):
    source = "import importlib\nhidden = importlib.import_module('hid' + 'den')\n"
    file = python_file(tmp_path, source + python_file(tmp_path).read_text())
    (tmp_path / "hidden.py").write_text("")

    with pytest.raises(ModelError, match="hidden"):
        opened(f"{file}:build")


def test_relative_imports_work_in_a_package(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("WIDTH = 5\n")
    source = "from .layers import WIDTH\n" + python_file(tmp_path).read_text()
    file = python_file(package, source.replace("width=8", "width=WIDTH"))

    assert opened(f"{file}:build").program.module[0].out_features == 5


def test_two_models_with_modules_of_the_same_name_do_not_mix(tmp_path):
    widths = []
    for width in (3, 4):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "layers.py").write_text(f"WIDTH = {width}\n")
        source = "from layers import WIDTH\n" + python_file(folder).read_text()
        file = python_file(folder, source.replace("width=8", "width=WIDTH"))
        widths.append(opened(f"{file}:build").program.module[0].out_features)

    assert widths == [3, 4]


def test_package_function_is_found_without_running_the_package(tmp_path, monkeypatch):
    package = tmp_path / "packed"
    package.mkdir()
    (package / "__init__.py").write_text("open('ran', 'w')\n")
    python_file(package)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UntrustedCode):
        opened("packed.tiny:build", trust=False)
    assert not (tmp_path / "ran").exists()
    assert opened("packed.tiny:build").summary.parameters == 8 * 8 + 8 + 8 * 3 + 3


def test_standard_library_is_no_model():
    with pytest.raises(ModelError, match="belongs to Python"):
        opened("os:abort")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", "is not Python"),
        ("raise RuntimeError('boom')", "boom"),
        ("raise SystemExit(3)", "cannot be imported"),
        ("def other(): pass", "no function build"),
        ("def build(): return 1\ndef example_inputs(): return 1", "must give an nn.Module"),
        ("import torch\ndef build(): return torch.nn.Linear(1, 1)", "no example_inputs"),
        ("def build(): raise ValueError('a\\nb')", "ValueError: a"),
    ],
)
def test_broken_file_is_one_line(tmp_path, source, message):
    file = python_file(tmp_path, source)

    with pytest.raises(ModelError, match=message) as refused:
        opened(f"{file}:build")
    assert "\n" not in refused.value.message


def test_unknown_option_names_what_build_takes(tmp_path):
    with pytest.raises(InputError) as refused:
        opened(f"{python_file(tmp_path)}:build", options={"wide": 3})

    assert "width" in refused.value.hint


# ---- what is found out --------------------------------------------------------------------------


def test_causal_language_model_generates_by_recomputing(tmp_path):
    model = opened(f"{python_file(tmp_path, LANGUAGE)}:build")

    assert isinstance(model.program.decoder, RecomputeDecoder)
    assert model.program.context.gradients
    assert model.summary.workloads == ("forward", "generate", "train_step")
    assert model.summary.vocabulary == 32
    assert model.inputs[0].shape == (1, 8)
    assert model.program.generate(model.inputs, 3).tokens.shape == (1, 3)


def test_model_that_sees_later_tokens_does_not_generate(tmp_path):
    source = LANGUAGE.replace("return TinyDecoder()", "return Backwards()") + (
        "\nclass Backwards(TinyDecoder):\n"
        "    def forward(self, ids):\n"
        "        return super().forward(ids.flip(1))\n"
    )

    model = opened(f"{python_file(tmp_path, source)}:build")

    assert model.program.decoder is None
    assert model.workload.kind == "forward"


def test_classifier_does_not_generate(tmp_path):
    with pytest.raises(InputError, match="cannot run generate"):
        opened(f"{python_file(tmp_path)}:build", kind="generate")


def test_inputs_follow_the_seed(tmp_path):
    location = f"{python_file(tmp_path)}:build"
    first, again, other = (opened(location, seed=seed).inputs[0] for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fidelity_examples_differ_where_example_inputs_are_fixed(tmp_path):
    source = python_file(tmp_path).read_text().replace("randn(batch, 8)", "ones(batch, 8)")
    quality = opened(f"{python_file(tmp_path, source)}:build").quality

    rows = torch.cat([each.inputs[0] for each in [*quality.calibration, *quality.evaluation]])
    assert quality.metric == "fidelity"
    assert len(torch.unique(rows, dim=0)) == len(rows)


# ---- workloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"prompt_tokens": 60, "new_tokens": 5}, "at most 64 together, got 60 \\+ 5 = 65"),
        ({"kind": "forward", "sequence_length": 65}, "at most 64, got 65"),
        ({"batch": 0}, "batch must be between 1"),
        ({"image_size": 32}, "does not take an image size"),
        ({"device": "abacus"}, "is not a device"),
        ({"threads": 0}, "threads must be"),
        ({"kind": "dance"}, "A workload is one of"),
    ],
)
def test_impossible_workload_is_refused_with_its_rule(tmp_path, workload, message):
    with pytest.raises(InputError, match=message):
        opened(f"{python_file(tmp_path, LANGUAGE)}:build", **workload)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_device_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no device cuda"):
        opened(f"{python_file(tmp_path)}:build", device="cuda")


def test_default_new_tokens_make_room_for_a_longer_prompt(tmp_path):
    workload = opened(f"{python_file(tmp_path, LANGUAGE)}:build", prompt_tokens=60).workload

    assert (workload.prompt_tokens, workload.new_tokens) == (60, 4)


def test_image_size_must_fit_the_patches(tmp_path):
    folder = huggingface_folder(tmp_path / "vit", "ViTForImageClassification")

    with pytest.raises(InputError, match="multiple of 8, got 20"):
        opened(folder, image_size=20)
    with pytest.raises(InputError, match="cannot be called with"):
        opened(folder, image_size=24)


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_loaded_in_their_own_dtype(tmp_path, suffix):
    file = python_file(tmp_path)
    state = {
        name: torch.full_like(value, 0.5).bfloat16()
        for name, value in opened(f"{file}:build").program.module.state_dict().items()
    }
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    source = file.read_text().replace("torch.randn(batch, 8)", "torch.randn(batch, 8).bfloat16()")
    python_file(tmp_path, source)

    model = opened(f"{file}:build", weights=path)

    assert model.summary.dtype == "bfloat16"
    assert (model.program.module[0].weight == 0.5).all()


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = {"0.weight": torch.ones(8, 9), "0.bias": torch.ones(8), "9.bias": torch.ones(1)}
    save_file(state, path)

    with pytest.raises(WeightsMismatch) as refused:
        opened(f"{python_file(tmp_path)}:build", weights=path)

    assert "2 missing (2.weight, 2.bias)" in refused.value.message
    assert "1 unexpected (9.bias)" in refused.value.message
    assert "0.weight [8, 9] instead of [8, 8]" in refused.value.message


def test_nan_weights_are_refused_by_name(tmp_path):
    source = (
        python_file(tmp_path)
        .read_text()
        .replace("return nn.Seq", "return nan(nn.Seq")
        .replace("(width, 3))", "(width, 3)))")
        + "\ndef nan(m):\n    m[2].bias.data[1] = float('nan')\n    return m\n"
    )

    with pytest.raises(ModelError, match=r"2\.bias holds 1 of 3 values"):
        opened(f"{python_file(tmp_path, source)}:build")


def test_weights_beside_a_folder_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(1)}, path)

    with pytest.raises(InputError, match="brings its own weights"):
        opened(huggingface_folder(tmp_path / "model"), weights=path)


def test_weights_change_the_content_hash(tmp_path):
    location = f"{python_file(tmp_path)}:build"
    hashes = {opened(location).summary.content_hash}
    for value in (1.0, 2.0):
        state = opened(location).program.module.state_dict()
        path = tmp_path / f"{value}.safetensors"
        save_file({name: torch.full_like(each, value) for name, each in state.items()}, path)
        hashes.add(opened(location, weights=path).summary.content_hash)
    assert len(hashes) == 3


# ---- the other sources --------------------------------------------------------------------------


def test_meta_opening_reads_no_weights(tmp_path):
    folder = huggingface_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()

    model = opened(folder, meta=True)

    assert {each.device.type for each in model.program.module.parameters()} == {"meta"}
    assert model.inputs["input_ids"].device.type == "meta"


def test_config_of_70_billion_parameters_opens_on_meta_within_seconds(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256, architectures=["LlamaForCausalLM"],
    ).save_pretrained(tmp_path)  # fmt: skip
    start = time.perf_counter()

    model = opened(tmp_path, meta=True)

    assert model.summary.parameters > 70e9
    assert time.perf_counter() - start < 60  # 2.6 s alone; the machine may be busy


def test_live_module_is_frozen_and_opened(tmp_path):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    store = Store(tmp_path / "store")
    live = Doubled(3, 2)
    location = freeze(live, (torch.ones(1, 3),), store=store)
    with torch.no_grad():
        wanted = live(torch.ones(1, 3))
        live.weight.zero_()

    model = open_model(ModelReference(location), is_trusted=store.is_trusted)

    torch.testing.assert_close(model.program.forward(model.inputs), wanted)
    with pytest.raises(UntrustedCode):
        open_model(ModelReference(location))


def test_exported_program_opens_with_its_own_inputs(tmp_path):
    module = nn.Linear(4, 2).eval()
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module, (torch.ones(3, 4),)), path)

    with pytest.raises(UntrustedCode):
        opened(path, trust=False)
    model = opened(path)
    torch.testing.assert_close(model.program.forward(model.inputs), module(torch.ones(3, 4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["torchscript", "module"])
def test_whole_modules_need_trust_and_a_shape(tmp_path, kind):
    module = nn.Sequential(nn.Linear(4, 2))
    path = tmp_path / "model.pt"
    torch.jit.script(module).save(str(path)) if kind == "torchscript" else torch.save(module, path)

    with pytest.raises(UntrustedCode):
        opened(path, trust=False)
    with pytest.raises(InputError, match="does not tell its inputs"):
        opened(path)
    model = opened(path, options={"shape": "2x4"}, batch=3)
    assert model.program.forward(model.inputs).shape == (3, 2)


def test_weights_alone_say_what_is_missing(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(TinyDecoder().state_dict(), path)

    with pytest.raises(ModelError, match="without the code"):
        opened(path)


@pytest.mark.parametrize("location", ["", "no/such/folder/at/all", "nothing.py:build", "./x.pt"])
def test_missing_model_is_told_in_one_line(location):
    with pytest.raises(ModelError) as refused:
        opened(location)
    assert "\n" not in refused.value.message


def test_file_of_another_kind_says_what_opens(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("x")

    with pytest.raises(ModelError, match="not of a kind"):
        opened(path)


def test_hub_id_is_never_fetched_unless_asked(monkeypatch):
    import huggingface_hub

    asked = []

    def download(*args, local_files_only, **how):
        asked.append(local_files_only)
        raise FileNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="local hub cache"):
        opened("someone/some-model")
    with pytest.raises(ModelError, match="could not be downloaded"):
        opened("someone/some-model", options={"download": "true"})
    assert asked == [True, False]


def test_pipe_is_never_opened(tmp_path):
    import os

    for name in ("pipe.py", "pipe.pt", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UnsafeFile):
            opened(f"{tmp_path / name}:build" if name.endswith("py") else tmp_path / name)
