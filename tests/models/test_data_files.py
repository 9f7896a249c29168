"""Every kind of file becomes rows, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from engine.errors import DataError
from engine.models import data_rows
from engine.models.data_files import read_data_file
from engine.models.data_rows import draw

ROWS = [{"body": f"word {n}", "mark": n % 2, "source": f"file {n // 2}"} for n in range(6)]
CHOSEN = {"text": "body", "label": "mark"}


def saved_dataset(folder: Path) -> Path:
    """What `save_to_disk` of Hugging Face datasets writes, by its file format."""
    for split, rows in (("train", ROWS[:2]), ("test", ROWS[2:])):
        place = folder / split
        place.mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        with (
            pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table)
        told = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (place / "state.json").write_text(json.dumps(told))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return folder


def test_parquet_and_json_lines_give_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))

    table = read_data_file(tmp_path / "a.parquet", CHOSEN)

    assert table == read_data_file(tmp_path / "a.jsonl", CHOSEN)
    assert [row.values for row in table.rows] == [row["body"] for row in ROWS]
    assert [row.label for row in table.rows] == [0, 1, 0, 1, 0, 1]
    assert table.rows[5].group == "file 2"  # by its usual name, source


def test_a_saved_dataset_gives_its_test_split_and_says_so(tmp_path: Path) -> None:
    found = read_data_file(saved_dataset(tmp_path / "set"), CHOSEN)

    assert [row.values for row in found.rows] == [row["body"] for row in ROWS[2:]]
    assert found.notes == ("The split 'test' of set is used, of train, test.",)
    assert len(read_data_file(tmp_path / "set" / "train", CHOSEN).rows) == 2


def test_a_saved_dataset_reads_nothing_outside_of_itself(tmp_path: Path) -> None:
    folder = saved_dataset(tmp_path / "set") / "test"
    told = {"_data_files": [{"filename": "../train/data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match="names a data file that is not in it"):
        read_data_file(folder, CHOSEN)


def test_an_image_folder_has_a_class_for_each_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (4, 4), 9).save(tmp_path / "pets" / name / "a.png")
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("no image")

    found = read_data_file(tmp_path / "pets")

    assert (found.kind, [row.label for row in found.rows]) == ("images", ["cat", "dog"])
    assert found.notes == ("1 files of pets are no images and were left out.",)


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "pets" / "cat" / "a.png")
    with pytest.raises(DataError, match="one class only: cat"):
        read_data_file(tmp_path / "pets")


def test_safetensors_hold_arrays_by_chosen_names(tmp_path: Path) -> None:
    arrays = {"frames": np.arange(12, dtype=np.float32).reshape(4, 3), "said": np.arange(4)}
    arrays["frames"][1, 2] = np.nan
    save_file(arrays, tmp_path / "a.safetensors")

    found = read_data_file(tmp_path / "a.safetensors", {"input": "frames", "label": "said"})

    assert [int(row.label) for row in found.rows] == [0, 2, 3]
    assert found.notes == (
        "1 of 4 rows of a.safetensors were left out: they hold NaN or infinity.",
    )


def test_what_is_missing_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\none,1\n,0\n  ,1\nfour,\nfive,0\n")

    found = read_data_file(tmp_path / "a.csv")

    assert [row.values for row in found.rows] == ["one", "five"]
    assert found.notes == (
        "2 of 5 rows of a.csv were left out: they have no text in the column 'text'.",
        "1 of 5 rows of a.csv were left out: they have no 'label'.",
    )


def test_many_rows_are_drawn_by_a_seed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_rows, "MAX_KEPT", 50)
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"w{n},1\n" for n in range(1000)))

    found = read_data_file(tmp_path / "a.csv")

    assert found == read_data_file(tmp_path / "a.csv")
    assert len(found.rows) == 50
    assert found.notes[0].startswith("50 of 1,000 rows of a.csv were drawn at random (seed 0)")


def test_each_row_is_drawn_equally_often() -> None:
    # 200 of 1000 rows: the mean place is 499.5, its standard error 1000 / sqrt(12 * 200) = 20.
    places = draw(range(1000), most=200).kept
    assert sorted(set(places)) == places
    assert np.mean(places) == pytest.approx(499.5, abs=60)


def test_a_long_csv_keeps_the_line_behind_those_that_its_delimiter_is_read_from(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("text;label\n" + "".join(f"w{n};1\n" for n in range(40)))
    found = read_data_file(tmp_path / "a.csv")
    assert [row.values for row in found.rows] == [f"w{n}" for n in range(40)]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (b"text,label\ncaf\xe9,1\n", {}, "not UTF-8 text: .* at byte 14"),
        ("text,label\na,1\n".encode("utf-16"), {}, "UTF-16 text"),
        (b"text,label\na,1\n", {"text": "body"}, "no column 'body', chosen as its text"),
        (b"text,label\na,1\n", {"title": "text"}, "A column can be text, second"),
        (b"text,label\na,1\n", {"input": "text"}, "no column of the role input"),
        (b"x,label\nnan,1\ninf,2\n", {}, "no row is left"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    tmp_path: Path, content: bytes, columns: dict[str, str], message: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_data_file(tmp_path / "a.csv", columns)


@pytest.mark.parametrize("name", ["a.parquet", "a.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no such format, whatever its name says")
    with pytest.raises(DataError, match="cannot be read as"):
        read_data_file(tmp_path / name)
