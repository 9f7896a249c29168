"""Models that a function builds: `path/to/file.py:build`, `package.module:build`."""

from __future__ import annotations

import ast
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from engine.errors import ModelError, UnsafeFile
from engine.models.local_import import import_local
from engine.models.protocol import loaded_from
from engine.models.source import Loaded, Opening
from engine.models.trust import code_hash, local_code, require_trust
from engine.records import ModelReference, content_id

_LOCATION = re.compile(r"(?P<place>.+):(?P<function>[A-Za-z_]\w*)")
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Python:
    """Code that the person trusts by its content."""

    def matches(self, reference: ModelReference) -> bool:
        """Whether the location is a Python file, or a module with a function."""
        place, _ = _parted(reference.location)
        return place.endswith(".py") or (
            ":" in reference.location and _PACKAGE.fullmatch(place) is not None
        )

    def open(self, reference: ModelReference, opening: Opening) -> Loaded:
        """The model that the function builds."""
        place, function = _parted(reference.location)
        file, root = _found(place)
        code = local_code(file, root)
        trusted_hash = code_hash(code)
        require_trust(trusted_hash, opening.is_trusted, what=file.name, files=len(code))
        functions = vars(import_local(code, root, file))
        build = functions.get(function)
        if not callable(build):
            raise ModelError(f"{file.name} has no function {function}().", hint=_offers(functions))
        loaded = loaded_from(
            functions,
            name=_name(file),
            source="python",
            content_hash=content_id(trusted_hash, reference.options),
            build=build,
            options=reference.options,
            meta=opening.meta,
        )
        loaded.extra |= {"code": file, "code_files": sorted(code), "code_root": root}
        return loaded


def _parted(location: str) -> tuple[str, str]:
    found = _LOCATION.fullmatch(location)
    return (found["place"], found["function"]) if found else (location, "build")


def _found(place: str) -> tuple[Path, Path]:
    """The file, and the folder that its absolute imports start from."""
    if not place.endswith(".py"):
        return _in_package(place)
    file = Path(place).expanduser().absolute()
    if not file.exists():
        raise ModelError(f"There is no file {place}.")
    if not file.is_file():
        raise UnsafeFile(f"{place} is not a regular file.")
    root = file.parent
    if _imports_relatively(file):
        while (root / "__init__.py").exists() and root.parent != root:
            root = root.parent
    return file, root


def _in_package(name: str) -> tuple[Path, Path]:
    """Looked up by its parts, since importlib's own search would run the packages above it."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise ModelError(f"{name} belongs to Python and builds no model.")
    places: list[str] | None = None
    root = None
    parts = name.split(".")
    for index in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: index + 1]), places)
        if spec is None:
            raise ModelError(
                f"There is no module {'.'.join(parts[: index + 1])} in this environment.",
                hint="Install its package beside this one, or give path/to/file.py:build.",
            )
        places = list(spec.submodule_search_locations or [])
        root = root or (Path(places[0]).parent if places else Path(str(spec.origin)).parent)
    origin = Path(str(spec.origin)) if spec is not None and spec.origin else None
    if origin is None or origin.suffix != ".py" or root is None:
        raise ModelError(f"{name} is not a Python module with a source file.")
    return origin.absolute(), root.absolute()


def _imports_relatively(file: Path) -> bool:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # reading the code says it better
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _name(file: Path) -> str:
    generic = {"model", "__init__", "build", "main"}
    return file.parent.name if file.stem in generic and file.parent.name else file.stem


def _offers(functions: dict[str, Any]) -> str:
    import inspect

    own = [
        name
        for name, value in functions.items()
        if inspect.isfunction(value)
        and value.__module__ == functions.get("__name__")
        and not name.startswith("_")
    ]
    return f"Its functions are: {', '.join(own)}." if own else "It has no functions."
