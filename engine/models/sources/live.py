"""A live module of a Python script or notebook, kept in the store so that jobs can open it."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from engine.errors import InputError, ModelError
from engine.models.probing import one_line
from engine.models.protocol import as_inputs, loaded_from
from engine.models.safety import regular_file
from engine.models.source import Loaded, Opening
from engine.models.trust import file_hash, require_trust
from engine.records import ModelReference

_PREFIX = "live:"
_EXTRAS = {"quality_data", "evaluate", "loss", "prompts", "default_workload", "TOKENIZER", "name"}


class _Store(Protocol):
    def add_file(self, path: Path | str) -> str: ...

    def file(self, hash: str) -> Path: ...

    def trust(self, hash: str, name: str) -> None: ...


class Live:
    """What `freeze` wrote; trusted by its hash, since this installation wrote it."""

    def matches(self, reference: ModelReference) -> bool:
        """Whether `freeze` gave this location."""
        return reference.location.startswith(_PREFIX)

    def open(self, reference: ModelReference, opening: Opening) -> Loaded:
        """A copy of the module as it was when it was frozen."""
        file = regular_file(Path(reference.location.removeprefix(_PREFIX)))
        content_hash = file_hash(file)
        require_trust(content_hash, opening.is_trusted, what="This frozen module")
        import cloudpickle

        try:
            with file.open("rb") as stream:
                told = cloudpickle.load(stream)
        except Exception as error:  # unpickling runs the classes' own code
            raise ModelError(f"The frozen module cannot be opened: {one_line(error)}.") from error
        module, inputs = told.pop("module"), told.pop("example_inputs")
        if reference.options:
            raise InputError("A live module takes no options.")
        return loaded_from(
            {**told, "example_inputs": lambda: inputs},
            name=told.get("name") or type(module).__name__,
            source="live",
            content_hash=content_hash[:16],
            build=lambda: module,
            options={},
            meta=opening.meta,
        )


def freeze(module: nn.Module, example_inputs: Any, *, store: _Store, **extras: Any) -> str:
    """Keeps a copy of a live module in the store and gives the location that opens it.

    Code that no job could import (a notebook's cells, files beside a script) is kept with it.

    Args:
        module: what is to be opened; later changes of it do not matter.
        example_inputs: the tuple or dict to call it with.
        store: where the copy goes; it is trusted there, since it was written here.
        **extras: what else the protocol knows: quality_data, evaluate, loss, prompts,
        default_workload,
            TOKENIZER, and a name.

    Raises:
        InputError: something that is no module, an unknown extra, or what cannot be pickled.
    """
    import cloudpickle

    if not isinstance(module, nn.Module):
        raise InputError(f"A live model must be an nn.Module, got {type(module).__name__}.")
    if unknown := set(extras) - _EXTRAS:
        raise InputError(
            f"A live module has no {sorted(unknown)[0]!r}.", hint=f"It takes {', '.join(_EXTRAS)}."
        )
    told = {
        "module": module,
        "example_inputs": copy.copy(as_inputs(example_inputs, "example_inputs")),
        **extras,
    }
    body = io.BytesIO()
    try:
        with _by_value(module, *extras.values()):
            cloudpickle.dump(told, body)
    except Exception as error:  # every object refuses in its own way
        raise InputError(f"This module cannot be kept: {one_line(error)}.") from error
    with tempfile.NamedTemporaryFile(suffix=".live") as file:
        file.write(body.getvalue())
        file.flush()
        content_hash = store.add_file(Path(file.name))
    store.trust(content_hash, f"live {type(module).__name__}")
    return f"{_PREFIX}{store.file(content_hash)}"


@contextlib.contextmanager
def _by_value(module: nn.Module, *others: Any) -> Iterator[None]:
    """Code outside of installed packages is pickled itself instead of by its import name."""
    import cloudpickle

    names = {type(each).__module__ for each in module.modules()}
    names |= {getattr(each, "__module__", None) or "" for each in others}
    registered = []
    for name in names - {"__main__", ""}:
        known = sys.modules.get(name)
        if known is not None and _is_local(known):
            cloudpickle.register_pickle_by_value(known)
            registered.append(known)
    try:
        yield
    finally:
        for known in registered:
            cloudpickle.unregister_pickle_by_value(known)


def _is_local(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] in {"engine", "sample_models", "torch"}:
        return False
    installed = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
    return not any(Path(file).is_relative_to(each) for each in installed)
