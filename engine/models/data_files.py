"""Quality data in files and folders, as rows of plain values, with caps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.errors import DataError, ModelError
from engine.models.data_arrays import ARRAYS, array_rows
from engine.models.data_images import image_rows, is_image_folder
from engine.models.data_rows import DataFile, Row, draw, table_rows
from engine.models.data_tables import (
    TABLES,
    arrow_rows,
    dataset_folder,
    is_dataset_folder,
    text_lines,
)
from engine.models.safety import regular_file

MAX_PROSE_BYTES = 500_000_000
PROSE = (".txt", ".text", ".md")
KINDS = (*PROSE, *TABLES, *ARRAYS)


def read_data_file(path: Path, columns: Mapping[str, str] | None = None) -> DataFile:
    """The rows of a file, of a dataset saved on disk, or of a folder of images.

    Tables are read as streams; of more than 20,000 rows that many are drawn by a seed, and a note
    says so.

    Args:
        path: a .txt, .md, .csv, .tsv, .jsonl, .parquet, .npz or .safetensors file, or a folder.
        columns: which column is what, by its role; see `engine.models.data_rows.ROLES`.

    Raises:
        DataError: missing, empty, too large, not what its name says, or without the columns that
            are needed.
    """
    chosen, place = dict(columns or {}), path.expanduser()
    found = _folder(place, chosen) if place.is_dir() else _file(checked_file(place), path, chosen)
    if not found.rows:
        raise DataError(f"{path.name} holds no examples.")
    return found


def checked_file(path: Path) -> Path:
    """The file of a kind that is known.

    Raises:
        DataError: missing, empty, no file, or of another kind.
    """
    try:
        file = regular_file(path)
    except ModelError as error:
        raise DataError(error.message, hint=error.hint) from error
    if path.suffix.lower() not in KINDS:
        raise DataError(
            f"Quality data cannot be read from a {path.suffix or 'nameless'} file: {path.name}.",
            hint=f"It may be one of {', '.join(sorted(KINDS))}, a saved dataset or image folders.",
        )
    return file


def _file(file: Path, path: Path, chosen: dict[str, str]) -> DataFile:
    suffix, name = path.suffix.lower(), path.name
    if suffix in TABLES:
        return table_rows(draw(TABLES[suffix](file, name)), chosen, name)
    if suffix in ARRAYS:
        return array_rows(ARRAYS[suffix](file, name), chosen, name)
    if chosen:
        raise DataError(f"{name} is one text and has no columns.", hint="Leave the columns out.")
    if file.stat().st_size > MAX_PROSE_BYTES:
        raise DataError(f"{name} is larger than {MAX_PROSE_BYTES} bytes.", hint="Take a part.")
    text = "".join(text_lines(file, name))
    return DataFile("prose", [Row(text)] if text.strip() else [])


def _folder(folder: Path, chosen: dict[str, str]) -> DataFile:
    if is_dataset_folder(folder):
        split, notes = dataset_folder(folder)
        found = table_rows(draw(arrow_rows(split, folder.name)), chosen, folder.name)
        return replace(found, notes=(*notes, *found.notes))
    if is_image_folder(folder):
        return image_rows(folder, folder.name)
    raise DataError(
        f"{folder} is neither a saved dataset nor a folder of images.",
        hint="Images lie in one folder for each class; a dataset is what save_to_disk() writes.",
    )
