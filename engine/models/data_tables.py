"""Tables as streams of rows: CSV, JSON lines, Parquet, a dataset folder saved on disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from engine.errors import DataError

MAX_LINE_BYTES = 50_000_000
_PREFERRED_SPLITS = ("test", "validation", "train")
Rows = Iterator[dict[str, Any]]


def text_lines(file: Path, name: str) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, one at a time.

    Raises:
        DataError: another encoding, naming the byte; a line that is no text.
    """
    start = 0
    with file.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES:
                raise DataError(f"{name} has a line of more than {MAX_LINE_BYTES} bytes.")
            if start == 0:
                _refuse_utf_16(line, name)
            try:
                yield line.decode("utf-8-sig" if start == 0 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{name} is not UTF-8 text: {error.reason} at byte {start + error.start}.",
                    hint=f"Save it as UTF-8, for example by iconv -f latin1 -t utf-8 {name}.",
                ) from error
            start += len(line)


def csv_rows(file: Path, name: str) -> Rows:
    """Rows of a CSV or TSV table with a header."""
    lines = text_lines(file, name)
    head = list(islice(lines, 20))
    csv.field_size_limit(10_000_000)
    reader = csv.DictReader(
        chain(head, lines), delimiter=_delimiter("".join(head), name), strict=True
    )
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{name}: line {reader.line_num} has another number of columns than the header."
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{name} is not a CSV table: {error}.") from error


def jsonl_rows(file: Path, name: str) -> Rows:
    """Rows of JSON objects, one a line."""
    for number, line in enumerate(text_lines(file, name), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}: line {number} must be an object with named columns.")
        yield row


def parquet_rows(file: Path, name: str) -> Rows:
    """Rows of a Parquet file, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} cannot be read as Parquet: {_first(error)}.") from error


def is_dataset_folder(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk` of Hugging Face datasets."""
    return any((folder / each).is_file() for each in ("dataset_dict.json", "state.json"))


def dataset_folder(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The split of a saved dataset to read, and a note where there was a choice.

    Test comes before validation and train; name the split's own folder for another.

    Raises:
        DataError: its list of splits cannot be read, or a split is missing.
    """
    told = _json(folder / "dataset_dict.json") if not (folder / "state.json").is_file() else None
    if told is None:
        return folder, ()
    splits = [str(each) for each in told.get("splits", [])]
    there = [
        each for each in splits if "/" not in each and (folder / each / "state.json").is_file()
    ]
    if not there:
        raise DataError(f"{folder.name} holds none of its splits: {', '.join(splits) or 'none'}.")
    chosen = next((each for each in _PREFERRED_SPLITS if each in there), there[0])
    note = f"The split {chosen!r} of {folder.name} is used, of {', '.join(there)}."
    return folder / chosen, (note,) if len(there) > 1 else ()


def arrow_rows(folder: Path, name: str) -> Rows:
    """Rows of one split of a saved dataset, from its Arrow files."""
    import pyarrow as pa

    files = _json(folder / "state.json").get("_data_files", [])
    for each in files:
        file = folder / str(each.get("filename", "")) if isinstance(each, dict) else folder
        if file.parent != folder or not file.is_file():
            raise DataError(f"{name} names a data file that is not in it: {file.name or 'none'}.")
        try:
            with pa.memory_map(str(file)) as stored, pa.ipc.open_stream(stored) as stream:
                for batch in stream:
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{name}: {file.name} cannot be read as Arrow: {_first(error)}."
            ) from error


def _delimiter(head: str, name: str) -> str:
    if name.lower().endswith(".tsv"):
        return "\t"
    try:
        return csv.Sniffer().sniff(head[:4096], ",;\t").delimiter
    except csv.Error:
        return ","


def _refuse_utf_16(line: bytes, name: str) -> None:
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{name} is UTF-16 text, not UTF-8.",
            hint=f"Save it as UTF-8, for example by iconv -f utf-16 -t utf-8 {name}.",
        )


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file.name} of {file.parent.name} cannot be read: {error}.") from error
    if not isinstance(told, dict):
        raise DataError(f"{file.name} of {file.parent.name} must be a JSON object.")
    return told


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


TABLES: dict[str, Callable[[Path, str], Rows]] = {
    ".csv": csv_rows, ".tsv": csv_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows,
    ".parquet": parquet_rows,
}  # fmt: skip
