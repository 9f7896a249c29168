"""Image folders: one folder for each class, its name the class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.errors import DataError
from engine.models.data_rows import DataFile, Row, draw

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def is_image_folder(folder: Path) -> bool:
    """Whether a folder in it holds an image."""
    return next(_files(folder), None) is not None


def image_rows(folder: Path, name: str) -> DataFile:
    """One row for each image, its path for its value and its folder's name for its label.

    Raises:
        DataError: images of a single class only.
    """
    drawn = draw(Row(path, label) for label, path in _files(folder))
    others = sum(
        1 for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in IMAGES
    )
    if len({row.label for row in drawn.kept}) < 2:
        raise DataError(
            f"{name} has images of one class only: {drawn.kept[0].label}.",
            hint="Give the folder that holds a folder for each class.",
        )
    notes = (f"{others:,} files of {name} are no images and were left out.",) if others else ()
    return DataFile("images", drawn.kept, (*drawn.note(f"images of {name}"), *notes))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place in sorted(each for each in folder.iterdir() if each.is_dir()):
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in IMAGES and path.is_file():
                yield place.name, path
