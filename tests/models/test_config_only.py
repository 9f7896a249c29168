"""A config.json alone opens for counts, and says what it cannot do."""

from __future__ import annotations

import json
import resource
import sys

import pytest

from engine.errors import InputError, ModelError
from engine.models.opening import open_model
from engine.profile.counting import count
from engine.records import (
    ModelReference,
    ModelSummary,
    QualitySpec,
    Study,
    StudyRequest,
    WorkloadRequest,
    to_plain,
)
from engine.work import WORK
from tests.advise.profiles import machine

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 48, "torch_dtype": "bfloat16",
}  # fmt: skip
OTHERS = {
    "BertForSequenceClassification": {
        "model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 48,
    },
    "ViTForImageClassification": {
        "model_type": "vit", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    },
    "WhisperForConditionalGeneration": {
        "model_type": "whisper", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "vocab_size": 60, "max_source_positions": 50, "num_mel_bins": 8,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
        "suppress_tokens": [], "begin_suppress_tokens": [],
    },
}  # fmt: skip


class Job:
    """What a verb needs of a job."""

    def __init__(self, store):
        self.store = store

    def progress(self, fraction, words):
        pass

    def log(self, text):
        pass


def write(path, config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_a_config_alone_gives_counts(tmp_path):
    opened = open_model(ModelReference(write(tmp_path / "llama", LLAMA)))
    assert opened.summary.has_weights is False
    assert any("no weights" in note for note in opened.summary.notes)
    assert opened.workload.kind == "forward"
    assert opened.summary.workloads == ("forward", "generate", "train_step")
    counts = count(opened.program, opened.workload, opened.inputs)
    # Each layer: queries and output 32x32, keys and values 32x16, three products of 32x64.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert counts.totals.parameters == 2 * (layer + 2 * 32) + 32 + 2 * 48 * 32
    assert counts.totals.parameter_bytes == pytest.approx(2 * counts.totals.parameters, rel=0.01)
    attention = 2 * 2 * 4 * 128 * 128 * (8 + 8)
    assert counts.totals.flops == 2 * 128 * (2 * layer + 48 * 32) + attention


def test_the_config_file_itself_opens_too(tmp_path):
    folder = write(tmp_path / "llama", LLAMA)
    opened = open_model(ModelReference(f"{folder}/config.json"))
    assert opened.summary.has_weights is False


def test_a_generation_can_be_counted_too(tmp_path):
    opened = open_model(
        ModelReference(write(tmp_path / "llama", LLAMA)),
        WorkloadRequest(kind="generate", prompt_tokens=4, new_tokens=3),
    )
    phases = {
        each.phase for each in count(opened.program, opened.workload, opened.inputs).operators
    }
    assert phases == {"prefill", "decode"}


@pytest.mark.parametrize("architecture", OTHERS)
def test_other_kinds_of_model_open_from_their_config(architecture, tmp_path):
    config = {"architectures": [architecture], **OTHERS[architecture]}
    opened = open_model(ModelReference(write(tmp_path / "model", config)))
    assert opened.summary.architecture == architecture
    counts = count(opened.program, opened.workload, opened.inputs)
    assert counts.totals.flops > 0
    assert counts.not_counted == ()


def test_weights_in_a_foreign_format_are_refused(tmp_path):
    folder = write(tmp_path / "llama", LLAMA)
    (tmp_path / "llama" / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"weights in model\.gguf, which cannot be read"):
        open_model(ModelReference(folder))


@pytest.mark.parametrize(
    ("verb", "arguments", "reason"),
    [
        ("compare", {"recipes": ["inference_mode"]}, "cannot be optimized or measured"),
        ("optimize", {"recipe": "inference_mode"}, "cannot be optimized or measured"),
        ("export", {"recipe": "", "format": "safetensors", "out": "x"}, "cannot be exported"),
        ("code", {}, "analysed by running it"),
    ],
)
def test_what_needs_weights_is_refused_in_one_line(verb, arguments, reason, tmp_path, store):
    request = to_plain(StudyRequest(ModelReference(write(tmp_path / "llama", LLAMA))))
    with pytest.raises(InputError, match=f"^llama has a config and no weights: it.*{reason}"):
        WORK[verb]({"request": request, **arguments}, Job(store))


def test_profiling_makes_counts_and_says_so(tmp_path, store):
    request = to_plain(StudyRequest(ModelReference(write(tmp_path / "llama", LLAMA))))
    found = WORK["profile"]({"request": request, "runtime": True}, Job(store))
    assert found.latency_ms is None
    assert found.totals.flops > 0
    assert any("no weights" in each for each in found.warnings)
    assert store.get("profile", found.study.id, type(found)) == found


def test_seventy_billion_parameters_take_no_memory(tmp_path):
    big = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
           "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = open_model(ModelReference(write(tmp_path / "llama", {**LLAMA, **big})))
    counts = count(opened.program, opened.workload, opened.inputs)
    assert counts.totals.parameters == 70_553_706_496
    unit = 1 if sys.platform == "darwin" else 1024
    grown = unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 1 << 30  # its weights are 141 GB


def test_an_older_study_has_weights():
    summary = ModelSummary("m", "python", "M", "t", 1, 4, "float32", "h")
    study = Study("s", ModelReference("m"), summary, None, QualitySpec(), machine(), 0.0)
    assert study.model.has_weights
