"""Quality data from a person's file or folder, for an opened model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import DataError
from engine.models.choosing import chosen_metric
from engine.models.data_files import read_data_file
from engine.models.data_rows import DataFile, Row
from engine.models.examples import (
    Labelling,
    array_examples,
    check_examples,
    pair_examples,
    text_examples,
    window_example,
    windows_of,
)
from engine.models.image_examples import image_examples
from engine.models.labels import (
    class_ids,
    class_notes,
    known_classes,
    names_of,
    numbers_of,
)
from engine.models.metrics import METRICS, Family, family_of
from engine.models.quality import Example, QualityData
from engine.models.source import Loaded
from engine.models.splitting import repeated, split
from engine.records import QualitySpec

CALIBRATION = 64
EVALUATION_WINDOWS = 64
EVALUATION_ROWS = 512


def from_file(loaded: Loaded, spec: QualitySpec) -> QualityData:
    """Quality data from text, a table, arrays or images.

    Perplexity where there is text without labels; accuracy with classes, R2 with fractions as
    labels, or what was asked of the same data; fidelity for arrays without labels. At most 64
    windows or 512 rows are evaluated on unless `limit` says otherwise. What is left out is in its
    notes.

    Raises:
        DataError: the file or its content does not fit the model or the metric.
    """
    path = Path(str(spec.path))
    file = read_data_file(path, spec.columns)
    metric = chosen_metric(spec.metric, file, path.name)
    family = family_of(metric)
    rows, notes = file.rows, [*file.notes]
    if family == "tokens":
        windows = windows_of(loaded, file.rows, path.name)
        rows, notes = windows.rows, [*notes, *windows.notes]
    known = known_classes(loaded.extra)
    ids = class_ids(rows, known, path.name) if family == "classes" else {}
    labelling = Labelling(family, ids, path.name)
    most = spec.limit or (EVALUATION_WINDOWS if family == "tokens" else EVALUATION_ROWS)
    parts = split(rows, calibration=CALIBRATION, evaluation=most)
    _check_labels_differ(family, parts[1], path.name)
    sides = []
    for part, word in zip(parts, ("calibration", "evaluation"), strict=True):
        made, told = _examples(loaded, file, part, labelling)
        sides.append(made)
        notes += [f"{each} ({word})." for each in told]
    if not sides[1]:
        raise DataError(f"{path.name} leaves nothing to evaluate on.", hint="; ".join(notes))
    check_examples(loaded, [*sides[1], *sides[0]], labelling)
    notes += split_notes(rows, parts, "windows" if family == "tokens" else "rows")
    notes += class_notes(ids, known, parts[1]) if ids else ()
    return QualityData(
        metric, sides[0], sides[1],
        higher_is_better=METRICS[metric].higher_is_better if family else False,
        class_names=names_of(ids, known) if ids else (), notes=tuple(notes),
    )  # fmt: skip


def split_notes(
    rows: Sequence[Row], parts: tuple[list[Row], list[Row]], word: str
) -> tuple[str, ...]:
    """What the split left out or cannot give."""
    notes, again = [], repeated(rows)
    if again:
        notes.append(f"{again:,} of {len(rows):,} {word} repeat another and count once.")
    rest = len(rows) - again - len(parts[0]) - len(parts[1])
    if rest:
        notes.append(
            f"{len(parts[1]):,} {word} are evaluated and {len(parts[0]):,} calibrate; {rest:,} more"
            " are not used."
        )
    if len(parts[1]) == 1:
        notes.append("There is one evaluation example: no interval can be given.")
    if not parts[0]:
        notes.append("Nothing is left to calibrate on: all of it is one group.")
    return tuple(notes)


def _examples(
    loaded: Loaded, file: DataFile, part: list[Row], labelling: Labelling
) -> tuple[list[Example], list[str]]:
    """Examples of one side, with what was cut or left out."""
    if labelling.family == "tokens":
        return [window_example(loaded, row) for row in part], []
    if not part:
        return [], []
    if file.kind == "images":
        found, broken = image_examples(loaded, part, labelling)
        told = f"{broken} of {len(part)} images cannot be read and were left out"
        return found, [told] if broken else []
    if file.kind != "texts":
        return array_examples(loaded, part, labelling), []
    make = pair_examples if labelling.family == "pairs" else text_examples
    found, cut = make(loaded, part, labelling)
    told = f"{cut} of {len(part)} texts are longer than {loaded.max_length} tokens and were cut"
    return found, [told] if cut else []


def _check_labels_differ(family: Family | None, rows: Sequence[Row], owner: str) -> None:
    if family not in ("numbers", "pairs") or len(rows) < 2:
        return
    values = set(numbers_of(rows, owner))
    if len(values) == 1:
        raise DataError(
            f"Every label of {owner} is {values.pop():g}: nothing can be said about differences.",
            hint="Choose another label column.",
        )
