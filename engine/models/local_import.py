"""Runs trusted local code: exactly the bytes that were hashed, importable under their own names."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from engine.errors import ModelError, WorkbenchError
from engine.models.trust import code_hash


class LocalCode(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules in bytes that were read before, and only those.

    A module of the folder that was not read (and so not hashed and not trusted) cannot be imported.
    """

    def __init__(self, code: dict[str, bytes], root: Path) -> None:
        self.code = code
        self.root = root
        self.hash = code_hash(code)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that is in the code; None leaves the name to the other finders."""
        below = name.replace(".", "/")
        for file in (f"{below}/__init__.py", f"{below}.py"):
            if file in self.code:
                return self._spec(name, file)
        if any(each.startswith(f"{below}/") for each in self.code):
            spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
            spec.submodule_search_locations = [str(self.root / below)]
            return spec
        return None

    def _spec(self, name: str, file: str) -> importlib.machinery.ModuleSpec:
        package = file.endswith("__init__.py")
        spec = importlib.machinery.ModuleSpec(
            name, self, origin=str(self.root / file), is_package=package
        )
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [str((self.root / file).parent)]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Python's own module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the bytes that were hashed."""
        origin = module.__spec__.origin if module.__spec__ else None
        if origin is None:
            return
        source = self.code[Path(origin).relative_to(self.root).as_posix()]
        exec(compile(source, origin, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, name: str) -> str | None:
        """The text of a module, for tracebacks and `inspect.getsource`."""
        spec = self.find_spec(name, None)
        if spec is None or spec.origin is None:
            return None
        return self.code[Path(spec.origin).relative_to(self.root).as_posix()].decode()


def import_local(code: dict[str, bytes], root: Path, file: Path) -> ModuleType:
    """The module of `file`; the same one again while the code has not changed.

    Modules of other code that was opened before in this process are dropped first, so that two
    models may both have a `layers.py`.

    Raises:
        ModelError: the code raises while it is imported.
    """
    finder = _installed(code, root)
    name = file.relative_to(root).with_suffix("").as_posix().replace("/", ".")
    if name in sys.modules and sys.modules[name].__spec__ is not None:
        known = sys.modules[name]
        if getattr(known.__spec__, "loader", None) is finder:
            return known
        # A file may be called like a module that is already loaded (code.py, types.py): run it
        # under a name of its own then.
        name = f"opened_{finder.hash[:12]}_{name.rpartition('.')[2]}"
    spec = finder._spec(name, file.relative_to(root).as_posix())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        finder.exec_module(module)
    except WorkbenchError:
        sys.modules.pop(name, None)
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise ModelError(
            f"{file.name} cannot be imported: {type(error).__name__}: {_line(error)}."
        ) from error
    return module


def _installed(code: dict[str, bytes], root: Path) -> LocalCode:
    wanted = code_hash(code)
    for each in [each for each in sys.meta_path if isinstance(each, LocalCode)]:
        if each.hash == wanted and each.root == root:
            return each
        sys.meta_path.remove(each)
        for name, module in list(sys.modules.items()):
            if getattr(getattr(module, "__spec__", None), "loader", None) is each:
                del sys.modules[name]
    finder = LocalCode(code, root)
    sys.meta_path.insert(0, finder)
    return finder


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
