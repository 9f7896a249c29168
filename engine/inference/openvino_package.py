"""The openvino and nncf packages, imported so that they call nobody."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
from collections.abc import Iterator
from typing import Any


def absent_packages() -> tuple[str, ...]:
    """The reason why OpenVINO cannot run here; empty where it can."""
    absent = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if absent:
        return (f"needs {', '.join(absent)}: pip install 'model-workbench[openvino]'.",)
    return ()


def openvino() -> Any:
    """The package openvino, without its telemetry."""
    _without_telemetry()
    import openvino as package

    return package


def nncf() -> Any:
    """The package nncf, without telemetry and logs."""
    _without_telemetry()
    with silently():
        import nncf as package

    package.set_log_level(logging.ERROR)
    return package


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """What the packages print on their way is left out: progress bars, tables, advice."""
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _without_telemetry() -> None:
    # Both packages report to a server from their import on, unless the person has opted out or
    # the package openvino_telemetry is absent; then they use stubs of their own. For this process
    # it is absent.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
