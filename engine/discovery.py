"""Finds the one public class in each file of a room; an import error propagates."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil


@functools.cache
def discover(package: str) -> dict[str, type]:
    """Names to classes: one a file, the class named like its file (kv_cache.py holds KvCache).

    Raises:
        TypeError: a file whose class is missing.
    """
    room = importlib.import_module(package)
    found = {}
    for entry in pkgutil.iter_modules(room.__path__):
        module = importlib.import_module(f"{package}.{entry.name}")
        wanted = entry.name.replace("_", "").lower()
        classes = [
            each
            for name, each in inspect.getmembers(module, inspect.isclass)
            if each.__module__ == module.__name__ and name.lower() == wanted
        ]
        if len(classes) != 1:
            raise TypeError(f"{module.__name__} must hold one public class named like the file.")
        found[entry.name] = classes[0]
    return found
