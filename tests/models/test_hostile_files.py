"""Files that lie, each refused in one line before a loader sees it."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from engine.errors import ModelError, UnsafeFile, WorkbenchError
from engine.models.opening import open_model
from engine.models.safetensors_header import read_safetensors_header
from engine.models.weights import load_weights, read_header, read_weights
from engine.records import ModelReference
from tests.tiny_models import huggingface_folder


def archive(path, body: bytes, *, data=(), compression=zipfile.ZIP_STORED, extra=()):
    """A file as torch.save lays it out, with a pickle of our own."""
    with zipfile.ZipFile(path, "w", compression) as written:
        written.writestr("archive/data.pkl", body)
        for key, content in data:
            written.writestr(f"archive/data/{key}", content)
        for name, content in extra:
            written.writestr(name, content)
        written.writestr("archive/version", "3\n")
    return path


class Storage:
    def __init__(self, items, key="0", kind="FloatStorage"):
        self.told = ("storage", getattr(torch, kind), key, "cpu", items)


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return thing.told if isinstance(thing, Storage) else None


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def pickled(value) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def tensor(shape, stride, *, items=4, offset=0):
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, Storage(items), offset, shape, stride, False, None)


FOUR = [("0", struct.pack("4f", 1, 2, 3, 4))]


def test_honest_archive_is_read_without_its_tensors(tmp_path):
    path = archive(tmp_path / "a.pt", pickled({"w": tensor((2, 2), (2, 1))}), data=FOUR)

    assert read_header(path)["w"].shape == (2, 2)
    assert read_header(path)["w"].size_bytes == 16  # 4 items of 4 bytes


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": tensor((1 << 40,), (0,))}, "larger than its 4 stored items"),
        ({"w": tensor((2, 2), (3, 1))}, "larger than its 4 stored items"),
        ({"w": tensor((4,), (1,), offset=1)}, "larger than its 4 stored items"),
        ({"w": tensor((4,), (1,), items=1 << 40)}, "lies about the size"),
        ({"w": Call(bytearray, 1 << 50)}, "bytearray"),
        ({"w": Call(os.system, "touch ran")}, "system"),
        ({"w": Call(eval, "1")}, "eval"),
        ({"w": Call(nn.Linear, 1, 1)}, "Linear"),
    ],
)
def test_pickle_that_is_not_plain_weights_is_refused(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", pickled(value), data=FOUR)

    with pytest.raises(UnsafeFile, match=message) as refused:
        read_weights(path)
    assert "\n" not in refused.value.message
    assert not (tmp_path / "ran").exists()


def test_huge_memo_is_refused(tmp_path):
    body = b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."

    with pytest.raises(UnsafeFile, match="memo"):
        read_header(archive(tmp_path / "a.pt", body))


def test_billion_laughs_are_not_expanded(tmp_path):
    laugh = ["ha"] * 10
    for _ in range(60):
        laugh = [laugh] * 10

    with pytest.raises(ModelError, match="holds no weights"):
        read_weights(archive(tmp_path / "a.pt", pickled({"a": laugh})))


def test_zip_bomb_is_refused(tmp_path):
    path = archive(
        tmp_path / "a.pt", pickled({}), data=[("0", bytes(10_000_000))],
        compression=zipfile.ZIP_DEFLATED,
    )  # fmt: skip

    with pytest.raises(UnsafeFile, match="zip bomb"):
        read_header(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_second_pickle_is_refused(tmp_path):
    for name in ("archive/data.pkl", "other/data.pkl"):
        path = archive(tmp_path / "a.pt", pickled({}), extra=[(name, pickled({}))])
        with pytest.raises(UnsafeFile, match="twice"):
            read_header(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_truncation_is_told(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    state = {"w": torch.ones(2, 2)}
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    whole = path.read_bytes()

    for length in (0, 1, 7, 8, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as refused:
            load_weights(nn.Linear(2, 2, bias=False), path, meta=False)
        assert "\n" not in refused.value.message


def test_flipped_byte_in_the_data_is_found(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.full((2, 2), 1.5)}, path)
    body = path.read_bytes()
    data = torch.full((2, 2), 1.5).numpy().tobytes()
    path.write_bytes(body.replace(data, data[:-1] + b"\x40"))

    assert torch.load(path)["w"][1, 1] != 1.5  # torch does not look
    with pytest.raises(ModelError, match="damaged"):
        read_weights(path)


def header(told, data=b"", length=None) -> bytes:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (header({}, length=1 << 40), "declares a header"),
        (header({}, length=1000), "truncated"),
        (header({"w": entry(offsets=(0, 8))}, bytes(8)), "lies about 'w'"),
        (header({"w": entry(shape=(1 << 62, 4))}, bytes(4)), "lies about 'w'"),
        (header({"w": entry(shape=(-1,))}, bytes(4)), "lies about 'w'"),
        (header({"w": entry(dtype="F99")}, bytes(4)), "lies about 'w'"),
        (header({"w": {"dtype": "F32"}}, bytes(4)), "lies about 'w'"),
        (header({"w": entry(), "v": entry()}, bytes(4)), "overlap or leave a gap"),
        (header({"w": entry(offsets=(4, 8))}, bytes(8)), "overlap or leave a gap"),
        (header({"w": entry()}, bytes(8)), "no tensor owns"),
        (header({"w": entry()}, bytes(2)), "truncated"),
        (header(b'{"w": {}, "w": {}}'), "stands twice"),
        (header(b"[1]"), "not a JSON object"),
        (header(b"[" * 100_000), "not valid JSON"),
        (header({str(n): entry(shape=(0,), offsets=(0, 0)) for n in range(100_001)}), "tensors"),
    ],
)  # fmt: skip
def test_lying_safetensors_header_is_refused(tmp_path, body, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(body)

    with pytest.raises(ModelError, match=message):
        read_safetensors_header(path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1))
def test_damaged_safetensors_are_read_rightly_or_refused(tmp_path_factory, changes):
    body = bytearray(save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)}))
    for place, value in changes:
        body[place % len(body)] = value
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    path.write_bytes(body)
    try:
        declared = read_safetensors_header(path)
    except WorkbenchError:
        return
    data = len(body) - 8 - int.from_bytes(body[:8], "little")
    assert sum(each.size_bytes for each in declared.values()) == data


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1))
def test_damaged_archives_are_refused_or_read(tmp_path_factory, changes):
    stream = io.BytesIO()
    torch.save({"w": torch.ones(2, 2)}, stream)
    body = bytearray(stream.getvalue())
    for place, value in changes:
        body[place % len(body)] = value
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    path.write_bytes(body)
    try:
        found = read_weights(path)
    except WorkbenchError:
        return
    assert all(each.numel() <= 4 for each in found.values())


# ---- Hugging Face folders


def opened(folder):
    return open_model(ModelReference(str(folder)))


def changed_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\\b", "..", 3, ["x"]])
def test_shard_index_cannot_name_files_outside(tmp_path, name):
    folder = huggingface_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    index = {"weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(UnsafeFile, match=r"index|outside"):
        opened(folder)


def test_link_out_of_the_folder_is_refused(tmp_path):
    folder = huggingface_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")

    with pytest.raises(UnsafeFile, match="link"):
        opened(folder)


def test_links_of_a_hub_cache_are_followed(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir(parents=True)
    huggingface_folder(snapshot)
    for index, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(index))
        file.symlink_to(blobs / str(index))

    assert opened(snapshot).summary.parameters > 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_pipe_in_a_folder_is_never_opened(tmp_path, name):
    folder = huggingface_folder(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    with pytest.raises(UnsafeFile, match="not a regular file"):
        opened(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "nonsense"}, "does not know"),
        ({"model_type": "nonsense", "auto_map": {"AutoModel": "x.Y"}}, "never run"),
        ({"architectures": ["os.system"]}, "not a model class"),
        ({"architectures": ["NoSuchModel"], "auto_map": {"AutoModel": "x.Y"}}, "never run"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"vocab_size": 10**9}, "describes"),
        ({"hidden_size": 32}, "does not fit|cannot be"),
        ({"hidden_size": "wide"}, "cannot be"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "missing"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "cannot be"),
    ],
)
def test_config_that_does_not_belong_is_refused_in_one_line(tmp_path, values, message):
    folder = huggingface_folder(tmp_path / "model")
    changed_config(folder, **values)

    with pytest.raises(ModelError, match=message) as refused:
        opened(folder)
    assert "\n" not in refused.value.message


def test_code_beside_a_native_model_is_not_run(tmp_path):
    folder = huggingface_folder(tmp_path / "model")
    changed_config(folder, auto_map={"AutoModelForCausalLM": "own.Own"})
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    model = opened(folder)

    assert any("auto_map" in note for note in model.summary.notes)
    assert not (tmp_path / "ran").exists()


def test_pickled_checkpoint_that_runs_code_is_refused(tmp_path):
    folder = huggingface_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    body = pickled({"lm_head.weight": Call(os.system, f"touch {tmp_path / 'ran'}")})
    archive(folder / "pytorch_model.bin", body)

    with pytest.raises(UnsafeFile, match="system"):
        opened(folder)
    assert not (tmp_path / "ran").exists()


def test_weights_only_checkpoint_opens_in_its_own_dtype(tmp_path):
    from safetensors.torch import load_file

    folder = huggingface_folder(tmp_path / "model")
    state = {
        name: each.bfloat16() for name, each in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")

    assert opened(folder).summary.dtype == "bfloat16"


def test_a_folder_without_its_config_is_refused(tmp_path):
    folder = huggingface_folder(tmp_path / "model")
    (folder / "config.json").unlink()

    with pytest.raises(ModelError, match=r"config\.json"):
        opened(folder)


def test_a_folder_without_its_weights_says_so(tmp_path):
    folder = huggingface_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()

    assert opened(folder).summary.has_weights is False


def test_adapter_says_what_it_is(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(ModelError, match="adapter"):
        opened(tmp_path)
