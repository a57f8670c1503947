"""Data sets of the paper: read from their own files, and refused in words where one is missing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from formats_on_disk import (
    write_gqa,
    write_karpathy,
    write_msrvtt,
    write_msvd,
    write_refexp,
    write_vqa2,
)
from PIL import Image
from scenes import COLOURS, SIZE, THINGS, scene

from extractor.inputs import DataConfig, DataError, DataNotFoundError
from extractor.inputs.formats import FORMATS, Table, open_format, parse_format
from extractor.inputs.formats.answers import normalise, soft_scores, vocabulary
from extractor.inputs.loading import load_splits

WRITERS: dict[str, Callable[[Path], Path]] = {
    "karpathy": write_karpathy,
    "msrvtt": write_msrvtt,
    "msvd": write_msvd,
    "vqa2": write_vqa2,
    "gqa": write_gqa,
    "refcoco": write_refexp,
    "refcoco+": lambda folder: write_refexp(folder, "refcoco+"),
    "refcocog": lambda folder: write_refexp(folder, "refcocog"),
}


def read(name: str, root: Path, *splits: str) -> dict[str, Table]:
    return open_format(name, root).read(frozenset(splits))


def test_every_format_has_a_data_set_on_disk_to_test_it_with() -> None:
    """A format that is added without files in its real layout would go untested."""
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_names_a_real_file_by_its_absolute_path(name: str, tmp_path: Path) -> None:
    """Backbones get paths: they must not depend on the folder that a command was started in."""
    tables = read(name, WRITERS[name](tmp_path))

    assert "train" in tables
    for table in tables.values():
        paths = table.columns.get("image") or table.columns["video"]
        assert len(table) == len(paths) > 0
        assert all(os.path.isabs(path) and os.path.isfile(path) for path in paths)
        assert len({len(column) for column in table.columns.values()}) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_splits_asked_for_are_read(name: str, tmp_path: Path) -> None:
    """And each is the same as when all are read."""
    WRITERS[name](tmp_path)
    source = open_format(name, tmp_path)
    everything = source.read(frozenset())

    assert list(everything) == list(source.files)
    for split, table in everything.items():
        alone = source.read(frozenset({split}))
        assert alone == {split: table}


def test_flickr_has_one_row_per_image_with_five_captions(tmp_path: Path) -> None:
    """White space inside and around a caption is no part of it."""
    tables = read("karpathy", write_karpathy(tmp_path, num_images=8))

    train = tables["train"].columns
    assert {split: len(table) for split, table in tables.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    assert train["image_id"] == ["0", "1", "2", "3"]
    assert train["sentence_id"][1] == ["10", "11", "12", "13", "14"]
    assert train["text"][1][2] == "a blue shape, it is a circle"
    with Image.open(train["image"][1]) as image:
        assert image.size == SIZE


def test_coco_trains_on_restval_and_keeps_five_captions(tmp_path: Path) -> None:
    """Its images lie in two folders, its ids are COCO's, and some images have more captions."""
    tables = read("karpathy", write_karpathy(tmp_path, "coco", num_images=8))

    train = tables["train"].columns
    folders = [Path(path).parent.name for path in train["image"]]
    assert folders == ["train2014", "val2014", "train2014", "val2014"]
    assert train["image_id"] == ["900", "901", "902", "903"]
    assert {len(texts) for texts in train["text"]} == {5}
    assert len(tables["test"]) == 2


def test_karpathys_file_may_be_named_itself(tmp_path: Path) -> None:
    """One folder often holds the three json files; then it must be said which is meant."""
    write_karpathy(tmp_path)
    shutil.copy(tmp_path / "dataset_flickr30k.json", tmp_path / "dataset_flickr8k.json")

    with pytest.raises(DataError, match="Name the file itself: karpathy:"):
        open_format("karpathy", tmp_path)
    assert len(read("karpathy", tmp_path / "dataset_flickr8k.json", "test")["test"]) == 6


def test_msr_vtt_trains_on_all_captions_and_tests_on_one(tmp_path: Path) -> None:
    """The 1k-A protocol; of the two lists of training videos the paper's 9k comes first."""
    write_msrvtt(tmp_path, num_train=4, num_test=2)
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nvideo0\n")

    tables = read("msrvtt", tmp_path)

    assert tables["train"].columns["video_id"] == ["video0", "video1", "video2", "video3"]
    assert [len(texts) for texts in tables["train"].columns["text"]] == [3, 3, 3, 3]
    tested = [[f"A {scene(number).things[0]} on a grey ground."] for number in (4, 5)]
    assert tables["test"].columns["text"] == tested
    assert tables["test"].columns["sentence_id"] == [["ret4"], ["ret5"]]
    (tmp_path / "MSRVTT_train.9k.csv").unlink()
    assert read("msrvtt", tmp_path)["train"].columns["video_id"] == ["video0"]


def test_a_video_that_is_missing_keeps_its_row(tmp_path: Path) -> None:
    """Videos vanish from the web: the row stays, so that reading names it; other suffixes count."""
    write_msrvtt(tmp_path, num_train=4, num_test=2)
    (tmp_path / "videos" / "video1.mp4").unlink()
    (tmp_path / "videos" / "video2.mp4").rename(tmp_path / "videos" / "video2.webm")

    paths = read("msrvtt", tmp_path)["train"].columns["video"]

    names = ["video0.mp4", "video1.mp4", "video2.webm", "video3.mp4"]
    assert [Path(path).name for path in paths] == names
    assert not Path(paths[1]).exists()


def test_both_forms_of_msvds_captions_are_the_same(tmp_path: Path) -> None:
    """Words in a pickle, or lines of text with a comment above; the pickle's are lower case."""
    words = read("msvd", write_msvd(tmp_path / "pkl", form="pkl"))
    lines = read("msvd", write_msvd(tmp_path / "txt", form="txt"))

    assert list(words) == ["train", "validation", "test"]
    for split in words:
        assert words[split].columns["video_id"] == lines[split].columns["video_id"]
        lowered = [[text.lower() for text in texts] for texts in lines[split].columns["text"]]
        assert words[split].columns["text"] == lowered
    assert {len(texts) for texts in words["test"].columns["text"]} == {4}


class Hostile:
    """What a pickle may do while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_of_captions_cannot_run_code(tmp_path: Path) -> None:
    """The published file is a pickle; a changed one must do nothing at all."""
    write_msvd(tmp_path)
    poisoned = pickle.dumps({"-clip00_0_5": [["a", "dog"]], "x": Hostile(tmp_path / "made")})
    (tmp_path / "raw-captions.pkl").write_bytes(poisoned)

    with pytest.raises(DataError, match=r"it asks for posix\.mkdir.*nothing in it was run"):
        read("msvd", tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x05", pickle.dumps([1, 2]), pickle.dumps({"a": [3]}), b"garbage"]
)
def test_a_pickle_without_captions_is_refused(content: bytes, tmp_path: Path) -> None:
    """With the file's name, whatever is wrong with it."""
    write_msvd(tmp_path)
    (tmp_path / "raw-captions.pkl").write_bytes(content)

    with pytest.raises(DataError, match=r"raw-captions\.pkl: "):
        read("msvd", tmp_path)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog", "dog"),
        ("an apple", "apple"),
        ("Two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("its", "its"),
        ("man's", "man's"),
        ("1,000", "1000"),
        ("1,000 / 2-3", "1000 23"),
        ("red/white", "red white"),
        ("red, white", "red white"),
        ("black-and-white", "black and white"),
        ("2.50", "2.50"),
        ("st. patrick's day.", "st patrick's day"),
        ("  yes!\n", "yes"),
        ("?", ""),
    ],
)
def test_answers_are_normalised_as_in_the_official_evaluation(answer: str, normal: str) -> None:
    """Expected values: the official rules run by hand; normal answers stay as they are."""
    assert normalise(answer) == normal
    assert normalise(normal) == normal


def test_an_answer_scores_by_how_many_of_ten_people_gave_it() -> None:
    """Averaged over leaving each person out, three agreeing others make an answer right."""
    people = ["red"] * 4 + ["Red."] + ["maroon"] * 3 + ["pink", "dark red"]

    scores = soft_scores(people)

    leave_one_out = {
        answer: sum(
            min(1, sum(other == answer for k, other in enumerate(said) if k != left) / 3)
            for left in range(10)
        )
        / 10
        for said in [["red"] * 5 + people[5:]]
        for answer in set(said)
    }
    assert scores == pytest.approx(leave_one_out)
    assert scores == {"red": 1.0, "maroon": 0.9, "pink": 0.3, "dark red": 0.3}


def test_an_answer_needs_nine_questions_to_be_chosen_from() -> None:
    """Of the commonest answers, after normalisation; sorted."""
    assert vocabulary(["Yes."] * 5 + ["yes"] * 4 + ["no"] * 8 + ["a cat"] * 9) == ("cat", "yes")


def test_official_vqa_answers_get_soft_scores(tmp_path: Path) -> None:
    """Seven say it, one says it with a mark: 1.0; the answer of two is not in the vocabulary."""
    write_vqa2(tmp_path)
    tables = read("vqa2", tmp_path)

    train = tables["train"]
    assert train.classes["answers"] == ("blue", "green", "no", "red", "yellow", "yes")
    colour = THINGS[1].split()[0]
    assert train.columns["text"][2] == "What color is the circle?"
    assert [train.classes["answers"][k] for k in train.columns["answers"][2]] == [colour]
    assert train.columns["scores"][2] == [1.0]
    assert train.columns["question_id"][:3] == ["0", "1", "10"]
    assert "answers" not in tables["test"].columns
    # The vocabulary is of train and val, also where only one of them is read.
    assert read("vqa2", tmp_path, "validation")["validation"].classes == train.classes


def test_lxmerts_files_come_before_the_official_ones(tmp_path: Path) -> None:
    """The released code reads them: nominival is trained on, and they number the answers."""
    write_vqa2(tmp_path)
    write_vqa2(tmp_path, "lxmert")

    tables = read("vqa2", tmp_path)

    answers = json.loads((tmp_path / "vqa" / "trainval_ans2label.json").read_text())
    assert {split: len(table) for split, table in tables.items()} == {
        "train": 72,
        "validation": 8,
        "test": 8,
    }
    assert tables["train"].classes["answers"] == tuple(sorted(answers, key=answers.__getitem__))
    folders = {Path(path).parent.name for path in tables["train"].columns["image"]}
    assert folders == {"train2014", "val2014"}
    assert "answers" not in tables["test"].columns


def test_lxmerts_answers_can_be_had_without_their_list(tmp_path: Path) -> None:
    """Then they are those of all questions, sorted."""
    write_vqa2(tmp_path, "lxmert")
    (tmp_path / "vqa" / "trainval_ans2label.json").unlink()

    classes = read("vqa2", tmp_path, "validation")["validation"].classes["answers"]

    assert classes == ("blue", "green", "no", "red", "yellow", "yes")


def test_both_layouts_of_gqa_hold_the_same_questions(tmp_path: Path) -> None:
    """Train has train and val as in the released code; the answers are those of both."""
    official = read("gqa", write_gqa(tmp_path / "official"))
    lxmert = read("gqa", write_gqa(tmp_path / "lxmert", "lxmert"))

    assert {split: len(table) for split, table in official.items()} == {
        "train": 60,
        "testdev": 16,
        "test": 8,
    }
    for split, table in official.items():
        other = lxmert[split]
        for name in ("image_id", "question_id", "text"):
            assert table.columns[name] == other.columns[name]
        if split != "test":
            named = [[t.classes["answers"][k] for row in t.columns["answers"] for k in row]
                     for t in (table, other)]  # fmt: skip
            assert named[0] == named[1]
            assert {score for row in table.columns["scores"] for score in row} == {1.0}
    assert "answers" not in official["test"].columns


def test_refcoco_has_one_box_and_its_words_per_expression(tmp_path: Path) -> None:
    """Boxes in pixels of the file, words as offsets of characters, sizes as height and width."""
    tables = read("refcoco", write_refexp(tmp_path, num_images=2))

    train = tables["train"].columns
    assert list(tables) == ["train", "validation", "testA", "testB"]
    assert train["image_id"] == ["0", "0", "1", "1"]
    assert train["box"][:2] == [[0.0, 18.0, 36.0, 36.0], [60.0, 18.0, 36.0, 36.0]]
    assert train["size"][0] == [float(SIZE[1]), float(SIZE[0])]
    begin, end = train["spans"][0]
    assert train["text"][0][begin:end] == THINGS[0]
    with Image.open(train["image"][1]) as image:
        middle = image.crop((60 + 16, 18 + 16, 60 + 20, 18 + 20)).resize((1, 1)).getpixel((0, 0))
    assert THINGS[7] == "yellow square"
    assert middle == pytest.approx(COLOURS["yellow"], abs=12)


def test_a_test_file_without_boxes_is_read(tmp_path: Path) -> None:
    """Predictions need none."""
    write_refexp(tmp_path)
    path = tmp_path / "mdetr_annotations" / "finetune_refcoco_testA.json"
    document = json.loads(path.read_text())
    del document["annotations"]
    path.write_text(json.dumps(document))

    table = read("refcoco", tmp_path, "testA")["testA"]

    assert len(table) == 8
    assert "box" not in table.columns
    assert "size" in table.columns


def test_answers_become_classes_in_the_order_of_their_list(tmp_path: Path) -> None:
    """Through the same door as any other data, with the types fixed also where lists are empty."""
    write_vqa2(tmp_path, "lxmert")

    loaded = load_splits(DataConfig(data=(f"vqa2:{tmp_path}",)))

    answers = json.loads((tmp_path / "vqa" / "trainval_ans2label.json").read_text())
    assert list(loaded) == ["train", "validation", "test"]
    assert loaded["train"].features["answers"].feature.names == [
        *sorted(answers, key=answers.__getitem__)
    ]
    assert loaded["test"].column_names == ["image", "image_id", "question_id", "text"]
    assert loaded["validation"].features["scores"].feature.dtype == "float64"


def test_a_split_that_the_data_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    """MSR-VTT has no validation split."""
    write_msrvtt(tmp_path)

    with pytest.raises(DataError, match=r"\['validation'\] is not in the data.*'train', 'test'"):
        load_splits(DataConfig(data=(f"msrvtt:{tmp_path}",), splits=("validation",)))


@pytest.mark.parametrize(
    ("name", "lost", "words"),
    [
        ("karpathy", "dataset_flickr30k.json", r"found \['flickr30k-images/'\].*dataset_coco"),
        ("karpathy", "flickr30k-images", r"'100.jpg' \(the first of the media files\)"),
        ("msrvtt", "MSRVTT_data.json", "MSRVTT_data.json"),
        ("msrvtt", "videos", r"videos such as 'video0.mp4'.*'MSRVTT_Videos/'"),
        ("msvd", "raw-captions.pkl", "raw-captions.pkl or AllVideoDescriptions.txt"),
        ("msvd", "YouTubeClips", "videos such as '-clip00_0_5.mp4'"),
        ("vqa2", "v2_mscoco_train2014_annotations.json", "'v2_mscoco_train2014_annotations.json'"),
        ("vqa2", "val2014", r"'val2014/', 'images/val2014/'"),
        ("gqa", "questions", "train_balanced_questions.json and so on, or train.json"),
        ("gqa", "images", r"'n0.jpg' \(the first of the media files\)"),
        ("refcoco+", "mdetr_annotations", r"finetune_refcoco\+_train.json"),
        ("refcoco+", "train2014", r"'COCO_train2014_000000000000.jpg'"),
    ],
)
def test_what_is_missing_is_named_with_what_the_folder_has(
    name: str, lost: str, words: str, tmp_path: Path
) -> None:
    """A layout is got right in one or two tries only if the message says what was looked for."""
    WRITERS[name](tmp_path)
    path = tmp_path / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)

    with pytest.raises(DataNotFoundError, match=words) as found:
        read(name, tmp_path)
    assert str(tmp_path) in str(found.value)
    assert "docs/data.md" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "path", "content", "words"),
    [
        ("karpathy", "dataset_flickr30k.json", '{"images": [', "line 1, column 13"),
        ("karpathy", "dataset_flickr30k.json", "[]", "found list, needed a key 'images'"),
        ("karpathy", "dataset_flickr30k.json", '{"images": [{"split": "train"}]}',
         r"entry 0 of 'images' has \['split'\], needed also \['filename'"),
        ("msrvtt", "MSRVTT_train.9k.csv", "id\nvideo0\n", r"has the columns \['id'\]"),
        ("msrvtt", "MSRVTT_data.json", '{"sentences": []}', "has no caption of 'video0'"),
        ("msvd", "test_list.txt", "other\n", "has no caption of 'other'"),
        ("vqa2", "v2_mscoco_train2014_annotations.json", '{"annotations": []}',
         "question 0 has no annotation"),
        ("gqa", "questions/train_balanced_questions.json", "[1]", "entry 0 of its list has 1,"),
        ("refcoco", "mdetr_annotations/finetune_refcoco_val.json",
         '{"images": [{"id": 1, "file_name": "COCO_train2014_000000000000.jpg", "height": 3, '
         '"width": 3, "caption": "a dog", "original_id": 2}], "annotations": []}',
         r"image 1 \('a dog'\) has 0 boxes"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_the_place_of_the_damage(
    name: str, path: str, content: str, words: str, tmp_path: Path
) -> None:
    """Downloads are cut short, and files of other data sets have the same names."""
    WRITERS[name](tmp_path)
    (tmp_path / path).write_text(content)

    with pytest.raises(DataError, match=words) as found:
        read(name, tmp_path)
    assert str(found.value).startswith(f"{tmp_path}/")


def test_an_entry_is_told_from_paths_and_hub_data_sets(tmp_path: Path) -> None:
    """A colon alone makes no format; a misspelt one is found by the folder behind it."""
    assert parse_format(f"karpathy:{tmp_path}") == ("karpathy", tmp_path)
    assert parse_format("nyu-mll/glue:mrpc") is None
    assert parse_format("reviews.csv") is None
    with pytest.raises(DataError, match=f"Did you mean karpathy:{tmp_path}"):
        parse_format(f"karpaty:{tmp_path}")
    with pytest.raises(DataNotFoundError, match="there is no such folder"):
        open_format("msvd", tmp_path / "nowhere")
