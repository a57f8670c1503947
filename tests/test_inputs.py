"""Data of every kind becomes the same samples; what cannot be read is named, never shifted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractor import DataConfig, open_data
from extractor.inputs import (
    BadRowError,
    DataError,
    DataNotFoundError,
    MissingColumnError,
    data_stamp,
)

ROWS = [
    {"text": "a slow bridge", "label": "neg", "stars": 1},
    {"text": 'the river\nrose, "all" night', "label": "pos", "stars": 5},
    {"text": "größer als 雪", "label": "pos", "stars": 4},
]


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these files stays in the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file and give its path."""

    def to(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to


def read(*data: object, **choices: Any) -> Any:
    return open_data(DataConfig(data=tuple(map(str, data)), **choices))


def texts(source: Any, split: str = "train") -> list[str]:
    return [sample["text"] for sample in source.samples(split, 0, source.splits[split])]


def target(source: Any, name: str) -> Any:
    return next(t for t in source.targets if t.spec.name == name)


def save_rows(folder: Path, kind: str) -> Path:
    """`ROWS` in a file or folder of this kind."""
    rows = datasets.Dataset.from_list(ROWS)
    path = folder / f"rows.{kind}"
    with_separator = {"csv": ",", "tsv": "\t"}
    if kind in with_separator:
        rows.to_pandas().to_csv(path, sep=with_separator[kind], index=False)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        rows.to_pandas().to_parquet(path)
    else:
        rows.save_to_disk(str(path))
    return path


KINDS = ("csv", "tsv", "jsonl", "json", "parquet", "arrow")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_samples(tmp_path, kind) -> None:
    source = read(save_rows(tmp_path, kind), targets=("label", "stars"))

    assert source.samples("train", 0, 3) == [
        {"id": row, "text": ROWS[row]["text"]} for row in range(3)
    ]
    assert source.samples("train", 2, 3)[0]["text"] == ROWS[2]["text"]
    assert target(source, "label").spec.classes == ("neg", "pos")
    assert target(source, "label").values["train"].tolist() == [0, 1, 1]
    assert target(source, "stars").spec.kind == "integer"
    assert target(source, "stars").values["train"].tolist() == [1, 5, 4]


def test_equal_rows_have_one_identity_whatever_file_they_came_in(tmp_path) -> None:
    identities = [read(save_rows(tmp_path, kind)).identity for kind in KINDS]

    assert all(identity == identities[0] for identity in identities)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\na,1\nbc,2\n"),
        ("a.csv", "text,label\nab,1\nc,3\n"),
        ("a.csv", "text,label\nc,2\nab,1\n"),
        ("test.csv", "text,label\nab,1\nc,2\n"),
    ],
    ids=["where a text ends", "a label", "the order", "the split"],
)
def test_identity_follows_every_value_and_place(write, name, content) -> None:
    before = read(write("a.csv", "text,label\nab,1\nc,2\n"))

    after = read(write(name, content))

    assert after.identity != before.identity


def test_identity_follows_the_split_and_the_ends_of_texts_without_targets(write) -> None:
    sources = [write("a.csv", "text\nab\nc\n"), write("b.csv", "text\na\nbc\n")]
    sources.append(write("test.csv", "text\nab\nc\n"))

    identities = [json.dumps(read(source).identity) for source in sources]

    assert len(set(identities)) == 3


def test_identity_does_not_depend_on_how_rows_are_cut_into_pieces(write, monkeypatch) -> None:
    path = write("a.csv", "text\n" + "".join(f"row {i}\n" for i in range(100)))
    whole = read(path).identity

    monkeypatch.setattr("extractor.inputs.rows._ROWS_AT_ONCE", 7)

    assert read(path).identity == whole


def test_a_changed_file_of_the_same_name_is_read_again(write) -> None:
    assert texts(read(write("a.csv", "text\nold words\n"))) == ["old words"]

    assert texts(read(write("a.csv", "text\nnew words\n"))) == ["new words"]


# Splits


def test_a_folder_gives_its_splits_in_the_usual_order(write) -> None:
    folder = write("data/test.csv", "text\nt\n").parent
    write("data/extra_dev.jsonl", '{"text": "v"}\n')
    write("data/train-00000-of-00002.parquet", b"")
    write("data/train-00001-of-00002.parquet", b"")
    for part in range(2):
        rows = datasets.Dataset.from_dict({"text": [f"a{part}", f"b{part}"]}).to_pandas()
        rows.to_parquet(folder / f"train-0000{part}-of-00002.parquet")
    write("data/README.md", "not data")

    source = read(folder)

    assert source.splits == {"train": 4, "validation": 1, "test": 1}
    assert list(source.splits) == ["train", "validation", "test"]
    assert texts(source) == ["a0", "b0", "a1", "b1"]
    assert source.num_rows == 6


def test_splits_can_be_named_and_chosen(write) -> None:
    one, other = write("one.csv", "text\na\n"), write("other.csv", "text\nb\nc\n")
    entries = (f"dev={other}", f"train={one}", f"holdout={other}")

    assert read(*entries).splits == {"train": 1, "validation": 2, "holdout": 2}
    assert read(*entries, splits=("val",)).splits == {"validation": 2}
    with pytest.raises(DataError, match=r"\['tset'\] is not in the data, which has \['train', 'va"):
        read(*entries, splits=("tset",))


def test_a_dataset_dict_on_disk_is_read_with_its_splits(tmp_path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"test": rows, "train": rows}).save_to_disk(str(tmp_path / "saved"))

    assert read(tmp_path / "saved").splits == {"train": 3, "test": 3}


@pytest.mark.parametrize("first", ["train.csv", "link.csv", ""])
def test_a_file_that_is_given_twice_is_refused(write, first) -> None:
    """Held-out rows were rows of the training split too."""
    path = write("d/train.csv", "text,label\na,1\nb,0\n")
    linked = write("other/x", "").parent / "link.csv"
    linked.symlink_to(path)
    again = {"train.csv": path, "link.csv": linked, "": path.parent}[first]

    with pytest.raises(DataError, match=rf"{path} is given twice.* Name it once"):
        read(again, path)
    assert read(path, write("d/more.csv", "text,label\na,1\n")).splits == {"train": 3}


def test_a_split_from_two_kinds_of_file_is_refused(write) -> None:
    with pytest.raises(DataError, match="split 'train' comes from both"):
        read(write("a.csv", "text\na\n"), write("b.jsonl", '{"text": "b"}\n'))


# Columns


@pytest.mark.parametrize(
    ("header", "text", "pair", "targets"),
    [
        ("id,label,label_name,text", "text", None, ("label", "label_name")),
        ("Review,Stars", "Review", None, ("Stars",)),
        ("sentence1,sentence2,label", "sentence1", "sentence2", ("label",)),
        ("premise,hypothesis,idx,label", "premise", "hypothesis", ("label",)),
        ("words", "words", None, ()),
        ("note_id,words,likes", "words", None, ("likes",)),
        (",content,a_number,b_number", "content", None, ()),
    ],
)
def test_columns_are_guessed_from_names_that_mean_one_thing(
    write, header, text, pair, targets
) -> None:
    numbers = {"id", "idx", "label", "note_id", "likes", "Stars", "", "a_number", "b_number"}
    cells = [
        ",".join(
            str(row) if name in numbers else f"some {name} {row}" for name in header.split(",")
        )
        for row in range(4)
    ]

    source = read(write("a.csv", "\n".join([header, *cells]) + "\n"))

    assert (source.inputs["text"], source.inputs.get("text_pair")) == (text, pair)
    assert tuple(t.spec.name for t in source.targets) == targets
    assert source.notes
    for name in (text, *targets):
        assert any(repr(name) in note for note in source.notes)


def test_what_cannot_be_told_apart_is_asked_for(write) -> None:
    path = write("a.csv", "headline,teaser,label\na b,c d,1\n")

    with pytest.raises(MissingColumnError, match=r"\['headline', 'teaser', 'label'\].*--text-col"):
        read(path, text_column=None)
    assert texts(read(path, text_column="teaser")) == ["c d"]


@pytest.mark.parametrize("flag", ["targets", "keys"])
def test_a_text_that_is_named_for_something_else_is_named_in_the_message(write, flag) -> None:
    path = write("a.csv", "text,label\na,1\n")

    with pytest.raises(
        MissingColumnError, match=r"none looks like text among \['label'\]; \['text'\] is named as"
    ):
        read(path, **{flag: ("text",)})


def test_a_column_that_is_not_there_names_those_that_are(write) -> None:
    path = write("a.csv", "text,label\na,1\n")

    with pytest.raises(
        MissingColumnError, match=r"no column 'txt', the data has \['text', 'label'"
    ):
        read(path, text_column="txt")
    with pytest.raises(MissingColumnError, match=r"--target: there is no column 'lable'"):
        read(path, targets=("lable",))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "text;label\nwell, well;1\nso;0\n",
            r"by semicolons.*'text;label', needed commas",
        ),
        ("a.csv", "text;label\nwell;1\nso;0\n", r"by semicolons.*'text;label', needed commas"),
        ("a.csv", "text\tlabel\nwell\t1\n", r"by tabs.*needed commas"),
        ("a.tsv", "text,label\nwell,1\n", r"by commas.*needed tabs"),
    ],
)
def test_another_separator_is_recognised_in_the_message(write, name, content, words) -> None:
    """Columns that nobody named were read with the labels inside the texts."""
    with pytest.raises(DataError, match=words):
        read(write(name, content))
    with pytest.raises(DataError, match=words):
        read(write(name, content), text_column="text")


def test_predictions_need_no_targets(write) -> None:
    path = write("a.csv", "text,label\na,1\n")

    assert read(path, guess_targets=False).targets == ()


def test_a_lone_column_of_ever_new_words_is_no_target(write) -> None:
    path = write("a.csv", "text,author\n" + "".join(f"words {i},name {i}\n" for i in range(9)))

    source = read(path)

    assert source.targets == ()
    assert any("'author'" in note and "left out" in note for note in source.notes)


def test_pairs_are_read_side_by_side(write) -> None:
    source = read(write("a.csv", "q,a\nhow,so\nwhy,no\n"), text_column="q", text_pair_column="a")

    assert source.samples("train", 1, 2) == [{"id": 1, "text": "why", "text_pair": "no"}]


# Targets


@pytest.mark.parametrize(
    ("cells", "kind", "classes", "values"),
    [
        (["1", "0", "12"], "integer", None, [1, 0, 12]),
        (["0.5", "-2", "1e3"], "number", None, [0.5, -2.0, 1000.0]),
        (["0.5", "", "NaN"], "number", None, [0.5, math.nan, math.nan]),
        # As pandas writes whole numbers of a column with a gap.
        (["1.0", "", "0.0"], "category", ("0", "1"), [1, -1, 0]),
        (["1.0", "3", "2.0"], "integer", None, [1, 3, 2]),
        (["1", "", "0"], "category", ("0", "1"), [1, -1, 0]),
        (["10", "9", ""], "category", ("9", "10"), [1, 0, -1]),
        (["b", "", "a"], "category", ("a", "b"), [1, -1, 0]),
        (["none", "null", "some"], "category", ("none", "null", "some"), [0, 1, 2]),
        (["042", "007", "042"], "category", ("007", "042"), [1, 0, 1]),
        (["True", "False", "True"], "category", ("false", "true"), [1, 0, 1]),
        (["TRUE", "", "FALSE"], "category", ("false", "true"), [1, -1, 0]),
    ],
)
def test_csv_cells_become_the_kind_of_target_they_look_like(
    write, cells, kind, classes, values
) -> None:
    path = write("a.csv", "text,label\n" + "".join(f"words,{cell}\n" for cell in cells))

    found = target(read(path), "label")

    assert found.spec.kind == kind
    assert found.spec.classes == classes
    np.testing.assert_array_equal(found.values["train"], values)


@pytest.mark.parametrize(
    ("values", "kind", "classes", "flat", "offsets"),
    [
        (["2", "10", None], "category", ("2", "10"), [0, 1, -1], None),
        ([3, 1, 2], "integer", None, [3, 1, 2], None),
        ([3, None, 2], "category", ("2", "3"), [1, -1, 0], None),
        ([0.5, None, 2.0], "number", None, [0.5, math.nan, 2.0], None),
        ([1.0, math.nan, 0.0], "category", ("0", "1"), [1, -1, 0], None),
        ([3.0, 1.0, 2.0], "integer", None, [3, 1, 2], None),
        ([1.0, math.inf, 2.0], "number", None, [1.0, math.inf, 2.0], None),
        ([1e300, 1.0, 2.0], "number", None, [1e300, 1.0, 2.0], None),
        ([math.nan] * 3, "number", None, [math.nan] * 3, None),
        ([True, False, True], "category", ("false", "true"), [1, 0, 1], None),
        ([["b", "a"], [], ["b"]], "categories", ("a", "b"), [1, 0, 1], [0, 2, 2, 3]),
        ([[0.5], [1.0, 2.0], []], "numbers", None, [0.5, 1.0, 2.0], [0, 1, 3, 3]),
        ([None, ["a"], []], "categories", ("a",), [-1, 0], [0, 1, 2, 2]),
        ([["a"], None, None], "categories", ("a",), [0, -1, -1], [0, 1, 2, 3]),
    ],
)
def test_typed_columns_keep_their_type(tmp_path, values, kind, classes, flat, offsets) -> None:
    path = tmp_path / "a.parquet"
    rows = {"text": ["a", "b", "c"], "target": values}
    datasets.Dataset.from_dict(rows).to_parquet(path)

    found = target(read(path), "target")

    assert found.spec.kind == kind
    assert found.spec.classes == classes
    np.testing.assert_array_equal(found.values["train"], flat)
    assert (None if found.offsets is None else found.offsets["train"].tolist()) == offsets


@pytest.mark.parametrize("values", [[2**63, 1, 2], [2**63, None, 2], [[2**63], [1], []]])
def test_numbers_that_no_target_can_hold_are_refused_in_one_line(tmp_path, values) -> None:
    path = tmp_path / "a.parquet"
    kind = pa.list_(pa.uint64()) if isinstance(values[0], list) else pa.uint64()
    table = {"text": ["a", "b", "c"], "number": pa.array(values, kind)}
    pq.write_table(pa.table(table), path)

    with pytest.raises(DataError, match=r"'number' has numbers too large.*--key number, or leave"):
        read(path, targets=("number",))


def test_class_names_of_a_data_set_keep_their_order(tmp_path) -> None:
    names = datasets.ClassLabel(names=["world", "sports", "business"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": names, "tags": datasets.List(names)}
    )
    rows = {"text": ["a", "b"], "label": [2, -1], "tags": [[0, 1], []]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))

    source = read(tmp_path / "saved", targets=("label", "tags"))

    assert target(source, "label").spec.classes == ("world", "sports", "business")
    assert target(source, "label").values["train"].tolist() == [2, -1]
    assert target(source, "tags").spec.kind == "categories"
    assert target(source, "tags").values["train"].tolist() == [0, 1]


def test_classes_are_those_of_all_splits(write) -> None:
    write("d/train.csv", "text,label\na,one\nb,two\n")
    folder = write("d/test.csv", "text,label\nc,three\n").parent

    found = target(read(folder), "label")

    assert found.spec.classes == ("one", "three", "two")
    assert found.values["test"].tolist() == [1]


@pytest.mark.parametrize(
    ("cells", "values", "kind", "train", "test"),
    [
        (["True", "False"], [False, True], "category", [1, 0], [0, 1]),
        (["1", "0"], [0, 2], "integer", [1, 0], [0, 2]),
        (["1", "0.5"], [0, 2], "number", [1, 0.5], [0, 2]),
        (["1", ""], [0, 2], "category", [1, -1], [0, 2]),
        (["1", "0"], ["0", "x"], "category", [1, 0], [0, 2]),
        (["", ""], [0, 2], "category", [-1, -1], [0, 1]),
    ],
)
@pytest.mark.parametrize("test_file", ["jsonl", "parquet"])
def test_a_csv_split_has_the_targets_of_a_typed_one_beside_it(
    write, test_file, cells, values, kind, train, test
) -> None:
    """`True` of csv and `true` of jsonl were two classes, and whole numbers were two types."""
    path = write("train.csv", "text,label\n" + "".join(f"words,{cell}\n" for cell in cells))
    other = datasets.Dataset.from_dict({"text": ["a"] * len(values), "label": values})
    if test_file == "jsonl":
        other.to_json(path.parent / "test.jsonl")
    else:
        other.to_parquet(path.parent / "test.parquet")

    found = target(read(path, path.parent / f"test.{test_file}"), "label")

    assert found.spec.kind == kind
    assert found.values["train"].tolist() == train
    assert found.values["test"].tolist() == test


def test_a_split_without_labels_has_missing_ones_and_says_so(write) -> None:
    write("d/train.csv", "text,label\na,0\nb,1\n")
    folder = write("d/test.csv", "text\nc\n").parent

    source = read(folder)

    assert target(source, "label").values["test"].tolist() == [-1]
    assert target(source, "label").spec.classes == ("0", "1")
    assert any("not in test" in note for note in source.notes)


def test_a_column_that_is_no_target_is_refused(tmp_path) -> None:
    rows = {"text": ["a"], "box": [{"x": 1}]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")

    with pytest.raises(DataError, match=r"column 'box' holds .*struct.*needed strings, numbers"):
        read(tmp_path / "a.parquet", targets=("box",))


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "is empty, needed a line of column names"),
        ("a.csv", "text,label\n", "has a header but no rows"),
        ("a.csv", "text,label\na,1\nb,2,3\n", "line 3 has 3 cells, the header has 2"),
        ("a.csv", "text,label\na,1\nb\n", "line 3 has 1 cells, the header has 2"),
        ("a.csv", 'text,label\n"a,1\nb,2\n', r"line 3 cannot be read .*Close every double quote"),
        ("a.csv", 'text,label\n"a" b,1\n', r"line 2 cannot be read .*two of them"),
        ("a.csv", "text,text\na,b\n", r"the header names \['text'\] twice"),
        ("a.csv", b"text\ncaf\xe9\n", r"is not UTF-8 .*iconv -f latin1 -t utf-8 .*a\.csv"),
        ("a.csv", "\ufefftext\na\n".encode("utf-16-le"), r"is not UTF-8 .*iconv -f utf-16 -t"),
        ("a.csv", "\ufefftext\na\n".encode("utf-16-be"), r"is not UTF-8 .*iconv -f utf-16 -t"),
        ("a.jsonl", "", "is empty, needed at least one row"),
        ("a.jsonl", '{"text": "a"}\n{"text"\n', "cannot be read as json"),
        ("a.parquet", b"PAR1 but not really", "cannot be read as parquet"),
        ("a.xlsx", "PK", r"ending in '\.xlsx' cannot be read, needed one of \.csv, \.tsv"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(write, capfd, name, content, words) -> None:
    path = write(name, content)

    with pytest.raises(DataError, match=words) as raised:
        read(path, text_column="text")

    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize(
    ("name", "content", "row", "reason"),
    [
        ("a.csv", "text,label\na,1\n,2\nb,3\n", 1, "is empty"),
        ("a.csv", 'text,label\na,1\n"  ",2\nb,3\n', 1, "is empty"),
        ("a.csv", "text\na\n\nb\n", 1, "is empty"),
        ("a.jsonl", '{"text": "a"}\n{"text": null}\n{"text": "b"}\n', 1, "is missing"),
        ("a.jsonl", '{"text": "a"}\n{"text": 5}\n{"text": "b"}\n', 1, "holds 5"),
    ],
)
def test_a_row_without_text_stops_or_is_left_out_and_shifts_nothing(
    write, name, content, row, reason
) -> None:
    path = write(name, content)

    with pytest.raises(
        BadRowError, match=rf"row {row} of split 'train'.*{reason}.*--on-error skip"
    ):
        read(path)

    source = read(path, on_error="skip")
    assert source.splits == {"train": 2}
    assert source.samples("train", 0, 2) == [{"id": 0, "text": "a"}, {"id": 2, "text": "b"}]
    assert source.sample_rows("train").tolist() == [0, 2]
    assert [(s.split, s.row) for s in source.skipped] == [("train", row)]
    assert reason in source.skipped[0].reason
    assert source.identity["skipped_rows"] == 1


def test_targets_stay_with_their_rows_when_others_are_left_out(write) -> None:
    rows = "".join(f"{'' if i % 3 == 1 else f'text {i}'},{i}\n" for i in range(20))

    source = read(write("a.csv", "text,score\n" + rows), on_error="skip")

    kept = [i for i in range(20) if i % 3 != 1]
    assert target(source, "score").values["train"].tolist() == kept
    assert [s["id"] for s in source.samples("train", 3, 9)] == kept[3:9]
    assert [s["text"] for s in source.samples("train", 3, 9)] == [f"text {i}" for i in kept[3:9]]


def test_a_column_of_numbers_is_no_text(tmp_path) -> None:
    rows = {"text": [7, 8], "label": ["a", "b"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")

    with pytest.raises(BadRowError, match=r"row 0 of column 'text' holds 7 \(int64\), needed text"):
        read(tmp_path / "a.parquet", text_column="text", on_error="skip")


def test_words_that_libraries_take_for_missing_are_texts(write) -> None:
    cells = ["null", "NA", "nan", "None", "123", "1.50"]

    assert texts(read(write("a.csv", "text\n" + "\n".join(cells) + "\n"))) == cells


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufefftext,label\na,1\n", ["a"]),
        ("text,label\r\na,1\r\nb,2\r\n", ["a", "b"]),
        ("text,label\na,1\n\n\nb,2\n\n", ["a", "b"]),
        ('label,text\n1,"say ""a"", b"\n', ['say "a", b']),
        ("text,label\n" + "long " * 40000 + ",1\n", ["long " * 40000]),
    ],
    ids=["byte order mark", "windows", "blank lines", "quotes", "a very long cell"],
)
def test_unusual_but_sound_csv_files_are_read(write, content, expected) -> None:
    assert texts(read(write("a.csv", content))) == expected


def test_a_tsv_with_plain_quotes_keeps_them(write) -> None:
    """With quoting, the first line would swallow the rest of the file."""
    path = write("a.tsv", 'text\tlabel\n"unbalanced start\t1\nsay "hi"\t0\n')

    assert texts(read(path)) == ['"unbalanced start', 'say "hi"']


def test_a_missing_file_names_the_nearest_one(write) -> None:
    there = write("reviews.csv", "text\na\n")

    with pytest.raises(DataNotFoundError, match=rf"Did you mean {there}\?"):
        read(there.with_name("review.csv"))


def test_data_at_a_url_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataNotFoundError, match=r"s3://bucket/a\.csv: .*Copy it here, or mount"):
        read("s3://bucket/a.csv")


def test_a_hub_data_set_without_a_network_says_so() -> None:
    with pytest.raises(DataNotFoundError, match="owner/no-such-data: no such file or folder here"):
        read("owner/no-such-data")


def test_a_folder_without_data_lists_what_it_has(write) -> None:
    with pytest.raises(DataError, match=r"has \['notes\.md'\], needed files named after splits"):
        read(write("data/notes.md", "hello").parent)


# Looking without reading


def test_the_stamp_follows_files_and_settings(write) -> None:
    path = write("a.csv", "text\na\n")
    config = DataConfig(data=(str(path),))
    before = data_stamp(config)

    assert data_stamp(config) == before
    assert data_stamp(config.model_copy(update={"on_error": "skip"})) != before
    write("a.csv", "text\nab\n")
    assert data_stamp(config) != before
    assert json.loads(json.dumps(before)) == before


def test_samples_can_be_read_by_many_threads(write) -> None:
    from concurrent.futures import ThreadPoolExecutor

    source = read(write("a.csv", "text\n" + "".join(f"row {i}\n" for i in range(5000))))

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: source.samples("train", i * 50, i * 50 + 50), range(100)))

    assert [s["text"] for part in parts for s in part] == [f"row {i}" for i in range(5000)]
