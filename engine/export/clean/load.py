"""Loads the model in this folder. It stands alone: the project that wrote it need not be installed.

    from load import load

    model = load()
    logits = model.forward({"ids": ids})[0]                 # numpy arrays, by the names in
    model.json tokens, scores = model.generate({"ids": prompt}, 100)   # greedy, where the model
    generates

model.json tells the format, the inputs and the recipe; certificate.json what was proved.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[list[Any]], list[Any]]


class Model:
    """A loaded artifact.

    Attributes:
        manifest: the content of model.json.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        calls: dict[str, Call],
        to_native: Callable[[np.ndarray], Any],
        to_numpy: Callable[[Any], np.ndarray],
    ) -> None:
        self.manifest = manifest
        self._calls = calls
        self._to_native = to_native
        self._to_numpy = to_numpy

    def forward(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One forward pass: arrays by name in, the floating-point outputs in order out."""
        count = self.manifest["outputs"]
        outputs = self._calls["forward"](self._native(inputs))
        return [self._to_numpy(each) for each in outputs[:count]]

    def generate(
        self, inputs: dict[str, np.ndarray], new_tokens: int, forced: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Greedy generation.

        Args:
            inputs: the prompt by name; token ids [batch, tokens].
            new_tokens: tokens to make, at least 1.
            forced: tokens to feed instead of the model's own [batch, new_tokens].

        Returns:
            The new tokens [batch, new_tokens] and the logits of each [batch, new_tokens,
            vocabulary].
        """
        longest = self.manifest.get("max_length")
        ids = inputs[self.manifest["inputs"][0]]
        if longest and ids.shape[1] + new_tokens > longest:
            raise ValueError(
                f"prompt and new tokens must be at most {longest},"
                f" got {ids.shape[1]} + {new_tokens}."
            )
        state = self._native(inputs)
        chosen: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        for index in range(new_tokens):
            outputs = self._calls["step" if index and "step" in self._calls else "forward"](state)
            logits = self._to_numpy(outputs[0])
            logits = logits[:, -1] if logits.ndim == 3 else logits
            scores.append(logits)
            chosen.append(logits.argmax(-1)[:, None].astype(np.int64))
            fed = chosen[-1] if forced is None else forced[:, index : index + 1].astype(np.int64)
            if "step" in self._calls:
                state = [self._to_native(fed), *outputs[1:]]
            else:
                ids = np.concatenate((ids, fed), axis=1)
                state = self._native({**inputs, self.manifest["inputs"][0]: ids})
        return np.concatenate(chosen, axis=1), np.stack(scores, axis=1)

    def _native(self, inputs: dict[str, np.ndarray]) -> list[Any]:
        names = self.manifest["inputs"]
        missing = [name for name in names if name not in inputs]
        if missing:
            raise ValueError(f"inputs must hold {names}, {missing[0]!r} is missing.")
        return [self._to_native(inputs[name]) for name in names]


def load(folder: str | Path | None = None, *, device: str = "cpu", mapped: bool = True) -> Model:
    """The model in `folder` (this file's own where none is given), ready to be called.

    Args:
        folder: of the artifact.
        device: where torch formats compute.
        mapped: leave safetensors weights in their file, mapped into memory: read when they are
            first used, and shared with other processes that map them. Without it they are copied
            at once, so that the file may be changed or removed.
    """
    place = Path(folder) if folder else Path(__file__).resolve().parent
    manifest = json.loads((place / "model.json").read_text(encoding="utf-8"))
    manifest["mapped"] = mapped
    engines = {"onnx": _onnx_model, "openvino": _openvino_model}
    if manifest["format"] in engines:
        return engines[manifest["format"]](place, manifest)
    return _torch_model(place, manifest, device)


def _onnx_model(folder: Path, manifest: dict[str, Any]) -> Model:
    import onnxruntime as ort

    options = ort.SessionOptions()
    if manifest.get("threads"):
        options.intra_op_num_threads = manifest["threads"]

    def call_of(name: str) -> Call:
        session = ort.InferenceSession(str(folder / name), options)
        names = [each.name for each in session.get_inputs()]

        def call(values: list[Any]) -> list[Any]:
            named = dict(zip(names, values, strict=True))
            return list(session.run_with_ort_values(None, named))

        return call

    calls = {role: call_of(name) for role, name in manifest["files"].items()}
    return Model(manifest, calls, ort.OrtValue.ortvalue_from_numpy, lambda value: value.numpy())


def _openvino_model(folder: Path, manifest: dict[str, Any]) -> Model:
    import sys

    # OpenVINO reports to a server from its import on, unless this package is absent.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino as ov

    core = ov.Core()

    def call_of(name: str) -> Call:
        compiled = core.compile_model(core.read_model(folder / name), "CPU", manifest["settings"])
        request = compiled.create_infer_request()

        def call(values: list[Any]) -> list[Any]:
            for index, value in enumerate(values):
                request.set_input_tensor(index, value)
            request.infer()
            outputs = []
            for index in range(len(compiled.outputs)):
                found = request.get_output_tensor(index)
                outputs.append(ov.Tensor(found.element_type, found.shape))
                found.copy_to(outputs[-1])
            return outputs

        return call

    calls = {role: call_of(name) for role, name in manifest["files"].items()}

    def to_numpy(value: Any) -> np.ndarray:
        if value.element_type == ov.Type.bf16:
            wide: np.ndarray = value.data.view(np.uint16).astype(np.uint32) << 16
            return wide.view(np.float32)
        return np.array(value.data)

    return Model(manifest, calls, lambda array: ov.Tensor(np.ascontiguousarray(array)), to_numpy)


def _torch_model(folder: Path, manifest: dict[str, Any], device: str) -> Model:
    import torch

    if manifest.get("threads"):
        torch.set_num_threads(manifest["threads"])
    openers = {
        "safetensors": _safetensors_calls,
        "huggingface": _huggingface_calls,
        "torch_export": _exported_calls,
        "aot_inductor": _compiled_calls,
    }
    calls = openers[manifest["format"]](folder, manifest, device)

    def quiet(call: Call) -> Call:
        def run(values: list[Any]) -> list[Any]:
            with torch.inference_mode():
                return call(values)

        return run

    def to_numpy(value: Any) -> np.ndarray:
        plain = value.detach().cpu()
        return np.asarray(plain.float() if plain.is_floating_point() else plain)

    return Model(
        manifest,
        {role: quiet(call) for role, call in calls.items()},
        lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device),
        to_numpy,
    )


def _safetensors_calls(folder: Path, manifest: dict[str, Any], device: str) -> dict[str, Call]:
    model = _import(folder / "model.py").build(folder, _weights(folder, manifest)).to(device)
    roles = {"forward": model.forward_flat}
    if manifest["mode"] == "flat_cache":
        roles["step"] = model.step_flat
    if manifest.get("compile"):
        import torch

        roles = {role: torch.compile(each, dynamic=True) for role, each in roles.items()}
    return {role: _listed(function) for role, function in roles.items()}


def _weights(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The tensors by name: mapped, copied, or decoded where they are stored compressed."""
    from safetensors.torch import load_file

    path = folder / manifest["main_file"]
    if manifest.get("compressed"):
        found: dict[str, Any] = _import(folder / "compressed.py").load(path)
        return found
    mapped = load_file(path)
    if manifest.get("mapped", True):
        return dict(mapped)
    return {name: tensor.clone() for name, tensor in mapped.items()}


def _huggingface_calls(folder: Path, manifest: dict[str, Any], device: str) -> dict[str, Call]:
    import transformers

    owner = getattr(transformers, manifest["class"])
    model = owner.from_pretrained(folder, local_files_only=True, dtype="auto").to(device).eval()
    if not manifest.get("mapped", True):
        model._apply(lambda tensor: tensor.clone())
    names = manifest["inputs"]

    def forward(values: list[Any]) -> list[Any]:
        return _floating(model(**dict(zip(names, values, strict=True))))

    def prefill(values: list[Any]) -> list[Any]:
        outputs = model(**dict(zip(names, values, strict=True)), use_cache=True)
        return [outputs.logits, outputs.past_key_values]

    def step(values: list[Any]) -> list[Any]:
        outputs = model(input_ids=values[0], past_key_values=values[1], use_cache=True)
        return [outputs.logits, outputs.past_key_values]

    if manifest["mode"] == "native":
        return {"forward": prefill, "step": step}
    return {"forward": forward}


def _exported_calls(folder: Path, manifest: dict[str, Any], device: str) -> dict[str, Call]:
    import torch

    opened = {role: torch.export.load(folder / name) for role, name in manifest["files"].items()}
    return {role: _listed(each.module().to(device)) for role, each in opened.items()}


def _compiled_calls(folder: Path, manifest: dict[str, Any], device: str) -> dict[str, Call]:
    import torch

    load_package = torch._inductor.aoti_load_package
    return {
        role: _listed(load_package(str(folder / name))) for role, name in manifest["files"].items()
    }


def _listed(function: Any) -> Call:
    def call(values: list[Any]) -> list[Any]:
        outputs = function(*values)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    return call


def _floating(outputs: Any) -> list[Any]:
    import torch

    found: list[Any] = []
    pending = [outputs]
    while pending:
        value = pending.pop(0)
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            pending = [*value.values(), *pending]
        elif isinstance(value, list | tuple):
            pending = [*value, *pending]
    return [each for each in found if each.is_floating_point()]


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"artifact_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path.name} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
