"""A variant as functions of flat tensors, and the cases that an artifact is held against."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import ExportFailed, NumericalFailure
from engine.program import Inputs, Program, output_tensors, to_device
from engine.records import Workload

# Recorded logits are kept below this, by recording fewer tokens of a very wide vocabulary.
_MAX_LOGIT_BYTES = 32 << 20
_QUIET = {"return_dict": True, "use_cache": False}


class FlatForward(nn.Module):
    """A module that takes tensors by position and gives its floating-point outputs as a tuple.

    Args:
        inner: the module.
        names: of the tensor inputs, in order; None where `inner` takes them by position.
        constants: the inputs that are no tensors, by name.
    """

    def __init__(
        self, inner: nn.Module, names: tuple[str, ...] | None, constants: dict[str, Any]
    ) -> None:
        super().__init__()
        self.inner = inner
        self.names = names
        self.constants = constants

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The floating-point outputs in order."""
        if self.names is None:
            return tuple(output_tensors(self.inner(*tensors, **self.constants)))
        named = dict(zip(self.names, tensors, strict=True))
        return tuple(output_tensors(self.inner(**named, **self.constants)))


@dataclass
class FlatCalls:
    """A variant ready for a graph format.

    Attributes:
        mode: "forward" (one pass), "recompute" (a decoder that runs the prefix again) or
        "flat_cache"
            (prefill and step with flat cache tensors).
        forward: takes the tensors called `names`; for "flat_cache" it returns (logits, *cache).
        step: takes (token, *cache) and returns (logits, *cache); None in the other modes.
        names: of forward's inputs.
        examples: forward's inputs, on the program's device.
        outputs: how many of forward's outputs belong to the answer.
    """

    mode: str
    forward: nn.Module
    step: nn.Module | None
    names: tuple[str, ...]
    examples: tuple[Tensor, ...]
    outputs: int


def flat_calls(
    program: Program, inputs: Inputs, *, generates: bool, max_length: int | None
) -> FlatCalls:
    """The variant as functions of flat tensors.

    A decoder that keeps a cache of its own kind (transformers' cache objects) is derived anew with
    flat cache tensors; one that keeps none is called on the whole prefix.

    Raises:
        ExportFailed: inputs that are not tensors.
        StepRefused: a cache that cannot be made flat.
    """
    from engine.optimize.graph.decoding import DecoderGraphs, derive_decoder_graphs

    named, constants, positional = named_tensors(program, inputs)
    names, examples = tuple(named), tuple(named.values())
    decoder = program.decoder if generates else None
    if decoder is not None and decoder.keeps_cache:
        ids = named.get("input_ids", examples[0])
        graphs = program.module
        if not isinstance(graphs, DecoderGraphs):
            graphs = derive_decoder_graphs(graphs, ids, max_length=max_length)
        return FlatCalls("flat_cache", graphs.prefill, graphs.step, ("input_ids",), (ids,), 1)
    forward = FlatForward(program.module, None if positional else names, constants)
    with torch.no_grad():
        count = len(forward(*examples))
    mode = "forward" if decoder is None else "recompute"
    return FlatCalls(mode, forward, None, names, examples, count)


def named_tensors(
    program: Program, inputs: Inputs
) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Tensor inputs by name, the other inputs, and whether the tensors go by position.

    Raises:
        ExportFailed: an input that is neither a tensor nor a plain value.
    """
    placed = to_device(inputs, program.context.device)
    parameters = inspect.signature(program.module.forward).parameters
    quiet = {name: value for name, value in _QUIET.items() if name in parameters}
    if isinstance(placed, dict):
        named = {name: value for name, value in placed.items() if isinstance(value, Tensor)}
        constants = {name: value for name, value in placed.items() if name not in named}
        return named, {**constants, **quiet}, False
    if not all(isinstance(value, Tensor) for value in placed):
        raise ExportFailed("Every positional input must be a tensor to be exported.")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [name for name, each in parameters.items() if each.kind in kinds]
    if program.decoder is not None:
        # One name for one thing: a decoder's prompt is input_ids, whatever its author calls it.
        known = ["input_ids", *known[1:]]
    known += [f"input_{index}" for index in range(len(known), len(placed))]
    return dict(zip(known, placed, strict=False)), quiet, True


def record_cases(
    program: Program, inputs: Inputs, workload: Workload, max_length: int | None, path: Path
) -> list[dict[str, Any]]:
    """Runs the variant on two sizes of inputs and records inputs and outputs in a safetensors file.

    Returns:
        One entry a case for model.json: its name, kind, and the keys of its tensors in the file.

    Raises:
        NumericalFailure: an output that is NaN or Inf.
    """
    recorded: dict[str, Tensor] = {}
    cases = [_record("workload", program, inputs, workload, recorded)]
    other = _other_sizes(inputs, workload, max_length)
    try:
        cases.append(_record("other sizes", program, other, workload, recorded))
    except (RuntimeError, ValueError, IndexError):
        # The model itself takes one size only; the artifact need not do more.
        recorded = {key: value for key, value in recorded.items() if "other_sizes" not in key}
    save_file({key: value.contiguous() for key, value in recorded.items()}, path)
    return cases


def _record(
    name: str,
    program: Program,
    inputs: Inputs,
    workload: Workload,
    recorded: dict[str, Tensor],
) -> dict[str, Any]:
    prefix = name.replace(" ", "_")
    named, constants, positional = named_tensors(program, inputs)
    case: dict[str, Any] = {"name": name, "inputs": {}}
    for key, value in named.items():
        case["inputs"][key] = f"{prefix}.input.{key}"
        recorded[case["inputs"][key]] = value.detach().cpu().clone()
    with torch.no_grad():
        if program.decoder is not None and workload.kind == "generate":
            return case | _generation(prefix, program, inputs, workload, recorded)
        forward = FlatForward(program.module, None if positional else tuple(named), constants)
        outputs = forward(*named.values())
    case["kind"], case["outputs"] = "forward", []
    for index, output in enumerate(outputs):
        key = f"{prefix}.output.{index}"
        case["outputs"].append(key)
        recorded[key] = _finite(output)
    return case


def _generation(
    prefix: str,
    program: Program,
    inputs: Inputs,
    workload: Workload,
    recorded: dict[str, Tensor],
) -> dict[str, Any]:
    first = program.generate(inputs, 1)
    token_bytes = 4 * first.logits.shape[0] * first.logits.shape[-1]
    wanted = workload.new_tokens or 16
    made = program.generate(inputs, min(wanted, max(4, _MAX_LOGIT_BYTES // token_bytes)))
    keys = {"tokens": f"{prefix}.tokens", "logits": f"{prefix}.logits"}
    recorded[keys["tokens"]] = made.tokens.detach().cpu().clone()
    recorded[keys["logits"]] = _finite(made.logits)
    return {"kind": "generate", **keys}


def _finite(output: Tensor) -> Tensor:
    if not torch.isfinite(output).all():
        raise NumericalFailure(
            "The variant's outputs hold NaN or Inf: there is nothing to prove an export against.",
            hint="Compare the variant's steps one by one; a float16 overflow is the usual cause.",
        )
    return output.detach().float().cpu().clone()


def _other_sizes(inputs: Inputs, workload: Workload, max_length: int | None) -> Inputs:
    """The inputs with one more row and, for token ids, another length."""
    spare = (max_length or 1 << 30) - (workload.new_tokens or 0)

    def varied(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != workload.batch:
            return value
        longer = torch.cat((value, value[:1]))
        if value.ndim >= 2 and not value.is_floating_point() and value.shape[1] > 2:
            grown = torch.cat((longer, longer[:, :3]), dim=1)
            longer = grown if grown.shape[1] <= spare else longer[:, :-1]
        return longer

    if isinstance(inputs, dict):
        return {name: varied(value) for name, value in inputs.items()}
    return tuple(varied(value) for value in inputs)
