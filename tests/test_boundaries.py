"""The arrows between the rooms hold, and what must stay free of torch does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(engine.__file__).resolve().parents[1]
TORCH_FREE = (
    "engine.api", "engine.cli", "engine.client", "engine.commands.verbs", "engine.docs",
    "engine.doctor", "engine.errors", "engine.measure.statistics", "engine.models.previewing",
    "engine.optimize.recipe",
    "engine.optimize.costs", "engine.optimize.technique", "engine.params",
    "engine.profile.machine", "engine.records", "engine.requests", "engine.running",
    "engine.store", "engine.worker", "engine.jobs.supervising", "engine.jobs.spare",
)  # fmt: skip
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "tensorflow"}
# What the screens may import of the engine.
FOR_SCREENS = {
    "api", "client", "commands", "doctor", "errors", "jobs", "measure.pareto",
    "measure.quality_claims", "models.catalog", "models.data_rows", "models.metrics",
    "optimize.recipe", "optimize.technique", "params", "profile.machine", "quality_text",
    "records", "store",
}  # fmt: skip


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{each.name}" for each in node.names}
    return found


def loaded_by(code: str) -> set[str]:
    """Heavy packages that code imports in a process of its own."""
    script = f"import sys\n{code}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


@pytest.mark.parametrize("name", TORCH_FREE)
def test_these_import_no_torch(name: str) -> None:
    assert loaded_by(f"import {name}") == set()


def test_reading_every_technique_imports_no_torch() -> None:
    assert loaded_by("from engine import api; assert api.techniques()") == set()


def test_building_the_command_line_imports_no_torch() -> None:
    assert loaded_by("from engine.commands.arguments import parser; parser()") == set()


@pytest.mark.parametrize("path", [*modules("workbench"), *modules("pages")], ids=lambda p: p.stem)
def test_no_screen_names_torch(path: Path) -> None:
    assert not {each.split(".")[0] for each in imports(path)} & HEAVY


def test_the_whole_shell_imports_no_torch() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules("workbench")
        if path.name not in ("__init__.py", "app.py")
    ]
    assert loaded_by("\n".join(f"import {name}" for name in names)) == set()


@pytest.mark.parametrize("path", modules("engine"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_knows_no_screen(path: Path) -> None:
    wanted = {"workbench"} if path.name == "cli.py" else set()
    assert {each.split(".")[0] for each in imports(path)} & {
        "streamlit", "workbench", "pages", "tests",
    } <= wanted  # fmt: skip


@pytest.mark.parametrize("path", [*modules("workbench"), *modules("pages")], ids=lambda p: p.stem)
def test_screens_import_only_what_is_for_them(path: Path) -> None:
    of_engine = {
        each.removeprefix("engine.") for each in imports(path) if each.startswith("engine.")
    }
    strange = {each for each in of_engine if not _is_for_screens(each)}
    assert strange == set()


@pytest.mark.parametrize("path", modules("workbench"), ids=lambda p: p.stem)
def test_the_shell_knows_no_page(path: Path) -> None:
    assert not any(each.split(".")[0] == "pages" for each in imports(path))


def test_only_work_and_api_know_all_rooms() -> None:
    """Rooms of the engine do not reach up to the verbs."""
    for path in modules("engine"):
        if path.name in ("api.py", "docs.py") or path.parent.name == "commands":
            continue
        assert not imports(path) & {"engine.api", "engine.work", "engine.cli"}, path


def _is_for_screens(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:size]) in FOR_SCREENS for size in (1, 2, 3))
