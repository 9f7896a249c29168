"""One product as an engine computes it, on made-up data, to be timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.records import Product


def onnx_product(product: Product, precision: str) -> Callable[[], Any] | None:
    """A session of this product alone, fed with the same numbers at each call.

    None where ONNX Runtime has no kernel for it: on another device, or in 16 bits.
    """
    from engine.inference.onnx_files import absent_packages, write_onnx
    from engine.inference.onnx_session import OnnxGraph
    from engine.runtimes.onnxruntime import CHANGES

    if product.device != "cpu" or product.dtype != "float32" or absent_packages():
        return None
    if precision != "float32" and product.kind != "linear":
        precision = "float32"
    module, example = _layer(product)
    with tempfile.TemporaryDirectory(prefix="workbench-probe-") as folder, torch.no_grad():
        path = Path(folder) / "product.onnx"
        exported = torch.export.export(module, (example,))
        write_onnx(exported, path, inputs=["x"], outputs=["y"])
        CHANGES[precision](path)
        graph = OnnxGraph(path, product.threads or torch.get_num_threads())
    values = [graph.native(example)]
    return lambda: graph.run(values)


def openvino_product(product: Product, config: Any) -> Callable[[], Any] | None:
    """A compiled graph of this product alone, fed with the same numbers at each call.

    None on another device, and where OpenVINO is absent.
    """
    from engine.inference.openvino_graph import OpenVinoGraph
    from engine.inference.openvino_model import converted, saved
    from engine.inference.openvino_package import absent_packages
    from engine.runtimes.openvino import changed, settings_of

    if product.device != "cpu" or product.dtype not in ("float32", "bfloat16"):
        return None
    if absent_packages():
        return None
    module, example = _layer(product)
    settings = settings_of(config, product.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory(prefix="workbench-probe-") as folder, torch.no_grad():
        path = Path(folder) / "product.xml"
        model = converted(torch.export.export(module, (example,)), ["x"])
        saved(changed(model, config.precision, [(example,)]), path)
        graph = OpenVinoGraph(path, settings)
    values = [graph.native(example)]
    return lambda: graph.run(values)


def _layer(product: Product) -> tuple[nn.Module, torch.Tensor]:
    """The product as a module with an example of its input."""
    dtype = getattr(torch, product.dtype)
    if product.kind == "conv2d":
        stride: Any = product.stride or (1, 1)
        padding: Any = product.padding or (0, 0)
        window: Any = product.window
        made: nn.Module = nn.Conv2d(
            product.inputs, product.outputs, window, stride, padding, groups=product.groups
        )
        example = torch.randn(product.rows, product.inputs, *product.spatial)
    else:
        made = nn.Linear(product.inputs, product.outputs)
        example = torch.randn(product.rows, product.inputs)
    made.requires_grad_(False)
    return made.eval().to(dtype), example.to(dtype)
