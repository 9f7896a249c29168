import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sample_models

ROOT = Path(sample_models.__file__).parent
SAMPLES = sorted(path.parent for path in ROOT.glob("*/model.py"))
FIELDS = {
    "name",
    "title",
    "task",
    "description",
    "parameters",
    "size_bytes",
    "metric",
    "data",
    "licence",
}

each_sample = pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)


@each_sample
def test_a_sample_with_its_data_stays_below_8_mb(folder: Path) -> None:
    files = [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) < 8 * 1024**2


@each_sample
def test_a_card_has_every_field(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert card.keys() >= FIELDS
    assert card["name"] == folder.name


@each_sample
def test_the_readme_tells_the_numbers_of_the_card(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    readme = (folder / "README.md").read_text()
    told = set(re.findall(r"\d[\d,.]*\d|\d", readme))
    numbers = {key: value for key, value in card.items() if isinstance(value, int | float)}
    missing = {key: value for key, value in numbers.items() if f"{value:,}" not in told}
    assert not missing


@each_sample
def test_the_size_is_that_of_the_weights(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    weights = folder / "model.safetensors"
    expected = weights.stat().st_size if weights.exists() else 4 * card["parameters"]
    assert card["size_bytes"] == expected


@each_sample
def test_a_sample_stands_alone(folder: Path) -> None:
    text = (folder / "model.py").read_text()
    assert not re.search(r"^\s*(from|import) (engine|workbench|pages|sample_models)\b", text, re.M)


def test_reading_the_cards_needs_no_torch() -> None:
    code = (
        "import json, pathlib, sys, sample_models\n"
        "root = pathlib.Path(sample_models.__file__).parent\n"
        "assert len([json.loads(p.read_text()) for p in root.glob('*/card.json')]) == 4\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
