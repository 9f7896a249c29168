"""The app never imports torch, not even indirectly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_shell_views_and_pages_import_without_torch() -> None:
    code = """
import pathlib, runpy, sys
sys.modules['torch'] = None  # an import of it raises
for path in sorted(pathlib.Path('workbench').rglob('*.py')):
    if path.name not in ('app.py', '__init__.py'):
        __import__('.'.join(path.with_suffix('').parts))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pages_are_thin() -> None:
    for path in (ROOT / "pages").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name
