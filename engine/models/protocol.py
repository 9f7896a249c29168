"""A model from a set of functions: build, example_inputs and what else its author wrote.

The protocol, which samples, Python files and packages follow:

    build(**options) -> nn.Module                      needed
    example_inputs(*, batch, sequence_length,          needed; takes what of these it follows
        image_size, seed)
    default_workload() -> dict                         fields of Workload, and max_length
    quality_data() -> dict                             metric, calibration and evaluation: lists of
                                                       (inputs, labels)
    evaluate(predict, examples) -> list[float]         a metric of one's own, by example
    loss(outputs, labels) -> Tensor                    for train_step
    prompts() -> list[Tensor]                          held-out prompts for generation
    TOKENIZER                                          path of a tokenizer.json or its folder
    CLASSES                                            names of the class ids, in their order
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import DataError, InputError, ModelError, WorkbenchError
from engine.models.probing import device_of, one_line, recompute_decoder, vocabulary_of
from engine.models.quality import Example, QualityData
from engine.models.source import Loaded, Sizes
from engine.program import Inputs

AXES = ("batch", "sequence_length", "image_size")
_SIZES = {"max_length", "image_divisor", "vocabulary"}
_LOWER_IS_BETTER = {"perplexity", "loss", "mse", "mae", "rmse", "wer", "cer", "error"}


def loaded_from(
    functions: Mapping[str, Any],
    *,
    name: str,
    source: str,
    content_hash: str,
    task: str = "",
    build: Callable[..., Any],
    options: Mapping[str, Any],
    meta: bool,
) -> Loaded:
    """The model that the functions describe.

    Raises:
        ModelError: `build` or another function is missing, raises, or gives back something else.
    """
    module = built(build, options, meta=meta)
    example = functions.get("example_inputs")
    if not callable(example):
        raise ModelError(
            f"{name} has no example_inputs().",
            hint="Add example_inputs(*, batch=1) that gives the tuple or dict to call with.",
        )
    defaults = _called(functions.get("default_workload"), "default_workload", options) or {}
    if not isinstance(defaults, dict):
        raise ModelError("default_workload() must give a dict of workload fields.")
    loaded = Loaded(
        module=module,
        name=name,
        source=source,
        task=task,
        content_hash=content_hash,
        make_inputs=_inputs_maker(example, options),
        axes=frozenset(_followed(example)),
        defaults={key: value for key, value in defaults.items() if key not in _SIZES},
        loss=functions.get("loss"),
        make_quality=lambda: _quality(functions, options),
        tokenizer=_tokenizer(functions),
        max_length=defaults.get("max_length"),
        image_divisor=int(defaults.get("image_divisor") or 1),
        vocabulary=defaults.get("vocabulary"),
        extra=_classes(functions),
    )
    _probe(loaded)
    return loaded


def built(build: Callable[..., Any], options: Mapping[str, Any], *, meta: bool) -> nn.Module:
    """What `build` gives, in evaluation mode; on the meta device where that is asked."""
    _check_options(build, options)
    try:
        module = _on_meta(build, options) if meta else build(**options)
    except WorkbenchError:
        raise
    except Exception as error:
        raise ModelError(f"build() failed: {one_line(error)}.") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"build() must give an nn.Module, got {type(module).__name__}.")
    return module.eval()


def as_inputs(value: Any, owner: str) -> Inputs:
    """Example inputs as a tuple or a dict; a bare tensor is one positional input.

    Raises:
        ModelError: anything else.
    """
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, Mapping) and value:
        return dict(value)
    if isinstance(value, list | tuple) and value:
        return tuple(value)
    raise ModelError(
        f"{owner} must give a tensor, a tuple or a dict of tensors, got {type(value).__name__}."
    )


def _on_meta(build: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        with torch.device("meta"), warnings.catch_warnings():
            # load_state_dict into meta parameters does nothing, which is what is wanted here.
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            module = build(**options)
    except Exception:  # a build() that computes with its weights cannot run without them
        module = build(**options)
    return module.to("meta") if isinstance(module, nn.Module) else module


def _check_options(build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(build).bind(**options)
    except TypeError as error:
        taken = [name for name in _parameters(build) if not name.startswith("_")]
        listed = ", ".join(taken) or "none"
        raise InputError(f"build(): {error}.", hint=f"Its options are: {listed}.") from error
    except ValueError:  # a class of C code without a signature
        return


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def _followed(example: Callable[..., Any]) -> list[str]:
    taken = _parameters(example)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return list(AXES)
    return [axis for axis in AXES if axis in taken]


def _inputs_maker(
    example: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[[Sizes], Inputs]:
    taken = set(_parameters(example))
    axes = _followed(example)

    def make(sizes: Sizes) -> Inputs:
        asked = {axis: getattr(sizes, axis) for axis in axes}
        given = {axis: value for axis, value in asked.items() if value is not None}
        given |= {key: value for key, value in options.items() if key in taken and key not in given}
        if "seed" in taken:
            given["seed"] = sizes.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sizes.seed)
            return as_inputs(_run(example, "example_inputs", given), "example_inputs()")

    return make


def _called(function: Any, name: str, options: Mapping[str, Any]) -> Any:
    """What an optional function gives; it takes those of build's options that it names."""
    if function is None:
        return None
    taken = _parameters(function)
    given = {key: value for key, value in options.items() if key in taken}
    return _run(function, name, given)


def _run(function: Callable[..., Any], name: str, given: Mapping[str, Any]) -> Any:
    try:
        return function(**given)
    except WorkbenchError:
        raise
    except Exception as error:
        raise ModelError(f"{name}() failed: {one_line(error)}.") from error


def _tokenizer(functions: Mapping[str, Any]) -> Path | None:
    given = functions.get("TOKENIZER")
    if given is None or not Path(given).exists():
        return None
    return Path(given)


def _quality(functions: Mapping[str, Any], options: Mapping[str, Any]) -> QualityData | None:
    told = _called(functions.get("quality_data"), "quality_data", options)
    prompts = _called(functions.get("prompts"), "prompts", options) or []
    if told is None:
        return QualityData("fidelity", prompts=list(prompts)) if prompts else None
    if not isinstance(told, Mapping) or "evaluation" not in told:
        raise DataError(
            "quality_data() must give a dict with metric, calibration and evaluation.",
        )
    metric = str(told.get("metric", "fidelity"))
    return QualityData(
        metric=metric,
        calibration=_examples(told.get("calibration", [])),
        evaluation=_examples(told["evaluation"]),
        higher_is_better=bool(told.get("higher_is_better", metric not in _LOWER_IS_BETTER)),
        evaluate=functions.get("evaluate"),
        prompts=list(prompts),
        class_names=tuple(_classes(functions).get("classes", ())),
    )


def _classes(functions: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the classes; CLASSES of another kind (a count) belongs to the author alone."""
    names = functions.get("CLASSES")
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        return {}
    return {"classes": tuple(names)}


def _examples(pairs: Any) -> list[Example]:
    found = []
    for each in pairs:
        inputs, labels = each if isinstance(each, tuple) and len(each) == 2 else (each, None)
        found.append(Example(as_inputs(inputs, "quality_data()"), labels))
    return found


def _is_transformers(module: nn.Module) -> bool:
    names = {each.__module__.partition(".")[0] for each in type(module).__mro__}
    return "transformers" in names and callable(getattr(module, "can_generate", None))


def _probe(loaded: Loaded) -> None:
    """Finds out by a small run whether the module is a causal language model."""
    small = Sizes(batch=1, sequence_length=4 if "sequence_length" in loaded.axes else None)
    inputs = loaded.make_inputs(small)
    if _is_transformers(loaded.module):
        from engine.models.huggingface_decoding import decoder_for

        meta = device_of(loaded.module) == "meta"
        loaded.decoder, note = decoder_for(loaded.module, inputs, meta=meta)
        loaded.notes += [note] if note else []
        loaded.generates_with_gradients = False  # transformers' own generate() turns them off
        loaded.prompt_apart = bool(getattr(loaded.module.config, "is_encoder_decoder", False))
    else:
        loaded.decoder = recompute_decoder(loaded.module, inputs)
    if loaded.decoder is not None and not loaded.prompt_apart:
        loaded.vocabulary = loaded.vocabulary or vocabulary_of(loaded.module, inputs)
    loaded.task = loaded.task or ("text-generation" if loaded.decoder is not None else "forward")
