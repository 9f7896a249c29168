"""Whose code a file is: the person's own, a library of models, or the machinery below both."""

from __future__ import annotations

import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Literal, NamedTuple

from torch import nn

import engine
from engine.models.opened import OpenedModel

Whose = Literal["own", "library", "machinery"]
# Below the code that anybody would change for one model.
_MACHINERY = ("torch", "numpy", "accelerate", "safetensors", "torchao", "torchvision/transforms")
_MAX_DEPTH = 80


class Site(NamedTuple):
    """A line that runs, and the code object that it belongs to."""

    file: str
    line: int
    code: CodeType


class Origins:
    """Tells own files from libraries; the code that a model was opened from is always own."""

    def __init__(self, opened: OpenedModel) -> None:
        extra = opened.extra
        root = extra.get("code_root")
        files = [Path(root) / each for each in extra.get("code_files", ())] if root else []
        files += [Path(extra["code"])] if "code" in extra else []
        self._named = {str(each) for each in files}
        self._known: dict[str, Whose] = {}

    def of_file(self, file: str) -> Whose:
        """Whose file it is."""
        if file not in self._known:
            self._known[file] = self._look(file)
        return self._known[file]

    def of_code(self, code: CodeType) -> Whose:
        """Whose code it is."""
        return self.of_file(code.co_filename)

    def of_module(self, module: nn.Module) -> Whose:
        """Whose forward a module has: its class's, or one that was put on it."""
        forward = inspect.unwrap(getattr(module.forward, "__func__", module.forward))
        code = getattr(forward, "__code__", None)
        return self.of_code(code) if code is not None else "machinery"

    def sites(self, frame: FrameType | None) -> tuple[Site | None, Site | None, FrameType | None]:
        """The innermost line outside the machinery, the innermost own line, the former's frame."""
        first: Site | None = None
        own: Site | None = None
        owner: FrameType | None = None
        for each in _frames(frame):
            file = each.f_code.co_filename
            if _below(file, _OURS) and not _below(file, _WATCHERS):
                break  # what stands above called the workload and is no part of it
            whose = self.of_file(file)
            if whose == "machinery":
                continue
            here = Site(each.f_code.co_filename, each.f_lineno, each.f_code)
            if first is None:
                first, owner = here, each
            if whose == "own":
                own = here
                break
        return first, own, owner

    def _look(self, file: str) -> Whose:
        if file in self._named:
            return "own"
        if file.startswith("<frozen") or _below(file, _OURS):
            return "machinery"
        if _below(file, _SITES):
            inside = Path(file).as_posix()
            return (
                "machinery"
                if any(f"-packages/{each}/" in inside for each in _MACHINERY)
                else "library"
            )
        return "machinery" if _below(file, _STANDARD) else "own"


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_MAX_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _below(file: str, folders: tuple[str, ...]) -> bool:
    return any(file.startswith(each) for each in folders)


def _folders(*given: str | None) -> tuple[str, ...]:
    return tuple(f"{Path(each).resolve()}/" for each in given if each)


_OURS = _folders(str(Path(engine.__file__).parent))
# Our own frames that stand between the model's lines and torch while a run is watched.
_WATCHERS = tuple(f"{_OURS[0]}profile/{each}" for each in ("code/", "attribution.py", "phases.py"))
_SITES = tuple(
    dict.fromkeys(
        _folders(
            sysconfig.get_path("purelib"), sysconfig.get_path("platlib"),
            *site.getsitepackages(), site.getusersitepackages(),
        )
    )
)  # fmt: skip
_STANDARD = _folders(sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.prefix)
