"""Images, videos and groups of rows become samples; nothing is guessed without being said."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from extractor import DataConfig, open_data
from extractor.inputs import (
    BadRowError,
    DataError,
    DataNotFoundError,
    MissingColumnError,
    data_stamp,
)


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these files stays in the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def read(*data: object, reads: tuple[str, ...] = ("image",), **choices: Any) -> Any:
    return open_data(DataConfig(data=tuple(map(str, data)), reads=reads, **choices))


def samples(source: Any, split: str = "train") -> list[dict[str, Any]]:
    return source.samples(split, 0, source.splits[split])


def target(source: Any, name: str) -> Any:
    return next(t for t in source.targets if t.spec.name == name)


def strings(source: Any, name: str, split: str = "train") -> list[str]:
    found = target(source, name)
    ends = found.offsets[split].tolist()
    content = found.values[split].tobytes()
    return [content[a:b].decode() for a, b in pairwise(ends)]


def save_image(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (level, 0, 0)).save(path)
    return path


def save_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with `images/0.png` to `images/3.png`, all different."""
    for number in range(4):
        save_image(tmp_path / f"set/images/{number}.png", number)
    return tmp_path / "set"


ROWS = [{"image": f"images/{number}.png", "label": "ab"[number % 2]} for number in range(4)]


def save_rows(folder: Path, kind: str) -> Path:
    rows = datasets.Dataset.from_list(ROWS)
    path = folder / f"rows.{kind}"
    if kind in ("csv", "tsv"):
        rows.to_pandas().to_csv(path, sep={"csv": ",", "tsv": "\t"}[kind], index=False)
    elif kind == "jsonl":
        save_jsonl(path, ROWS)
    elif kind == "parquet":
        rows.to_pandas().to_parquet(path)
    elif kind == "bytes":
        content = [(folder / row["image"]).read_bytes() for row in ROWS]
        rows = rows.remove_columns("image").add_column("image", content)
        rows.to_pandas().to_parquet(folder / "bytes.parquet")
        return folder / "bytes.parquet"
    else:
        paths = rows.map(lambda row: {"image": str(folder / row["image"])})
        paths.cast_column("image", datasets.Image()).save_to_disk(str(path))
    return path


KINDS = ("csv", "tsv", "jsonl", "parquet", "bytes", "arrow")


# Images


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_images(photos, kind, monkeypatch, tmp_path) -> None:
    """Paths are relative to the data file, from whatever folder one works in."""
    monkeypatch.chdir(tmp_path)

    source = read(save_rows(photos, kind))

    found = samples(source)
    assert [sample["id"] for sample in found] == [0, 1, 2, 3]
    for number, sample in enumerate(found):
        image = sample["image"]
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        assert content == (photos / f"images/{number}.png").read_bytes()
        assert isinstance(image, bytes) or os.path.isabs(image)
    assert target(source, "label").spec.classes == ("a", "b")
    assert any(note.startswith("image: column 'image'") for note in source.notes)


def test_equal_images_have_one_identity_wherever_they_lie(photos, tmp_path) -> None:
    identities = [read(save_rows(photos, kind)).identity for kind in KINDS]
    elsewhere = photos.rename(tmp_path / "elsewhere")

    assert all(identity == identities[0] for identity in identities)
    assert read(elsewhere / "rows.csv").identity == identities[0]


def test_an_image_of_the_same_size_and_time_in_its_place_is_noticed(photos) -> None:
    """A cache must not pass for one of images that were replaced: their bytes are hashed."""
    path = save_rows(photos, "csv")
    before = read(path).identity
    image = photos / "images/2.png"
    old = image.stat()
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(old.st_atime_ns, old.st_mtime_ns))

    assert image.stat().st_size == old.st_size
    assert read(path).identity != before


def test_the_stamp_follows_the_files_of_the_images(photos) -> None:
    config = DataConfig(data=(str(save_rows(photos, "csv")),), reads=("image",))
    stamps = [data_stamp(config), data_stamp(config)]
    os.utime(photos / "images/1.png", ns=(1, 1))
    stamps.append(data_stamp(config))
    (photos / "images/1.png").unlink()
    stamps.append(data_stamp(config))

    assert stamps[0] == stamps[1]
    assert stamps[1] != stamps[2] != stamps[3]


def test_relative_paths_can_be_looked_up_elsewhere(photos, tmp_path) -> None:
    path = save_jsonl(tmp_path / "rows.jsonl", ROWS)

    found = samples(read(path, media_root=str(photos)))

    assert [Path(sample["image"]) for sample in found] == [photos / row["image"] for row in ROWS]
    with pytest.raises(BadRowError, match=r"none of its 4 image files is there.*--media-root"):
        read(path)
    with pytest.raises(DataError, match="--media-root: there is no folder"):
        read(path, media_root=str(tmp_path / "absent"))


def test_files_of_one_split_in_several_folders_need_a_media_root(photos, tmp_path) -> None:
    one = save_jsonl(photos / "one.jsonl", ROWS[:2])
    other = save_jsonl(tmp_path / "other.jsonl", ROWS[2:])

    with pytest.raises(DataError, match="Name it with --media-root"):
        read(one, other)
    assert len(samples(read(one, other, media_root=str(photos)))) == 4


def test_a_missing_file_keeps_its_row(photos) -> None:
    """It is the backbone's to say, so that every sample has the number it would have had."""
    path = save_rows(photos, "csv")
    (photos / "images/1.png").unlink()

    source = read(path)

    assert source.splits == {"train": 4}
    assert source.sample_rows("train").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("blank", ["", "   ", None])
def test_a_row_without_a_path_stops_or_is_left_out_and_shifts_nothing(photos, blank) -> None:
    rows = [dict(row) for row in ROWS]
    rows[1]["image"] = blank
    path = save_jsonl(photos / "rows.jsonl", rows)

    source = read(path, on_error="skip")

    assert source.sample_rows("train").tolist() == [0, 2, 3]
    assert [Path(sample["image"]).name for sample in samples(source)] == ["0.png", "2.png", "3.png"]
    assert target(source, "label").values["train"].tolist() == [0, 0, 1]
    with pytest.raises(BadRowError, match=r"row 1 of split 'train' .*column 'image' is"):
        read(path)


def test_a_column_of_numbers_is_no_image(photos) -> None:
    path = save_jsonl(photos / "rows.jsonl", [{"image": 3, "path": "images/0.png"}])

    assert "image: column 'path', by its name" in read(path).notes
    with pytest.raises(BadRowError, match=r"holds 3 \(int64\), needed a path or an encoded image"):
        read(path, image_column="image")


# Folders


def test_a_folder_of_classes_has_a_label(tmp_path) -> None:
    for name in ("dog/b.jpg", "dog/a.JPG", "cat/deep/c.jpg", "cat/notes.txt", ".hidden/x.jpg"):
        path = tmp_path / "pets" / name
        save_image(path) if path.suffix != ".txt" else path.write_text("x")

    source = read(tmp_path / "pets")

    names = [Path(sample["image"]).name for sample in samples(source)]
    assert names == ["c.jpg", "a.JPG", "b.jpg"]
    assert target(source, "label").spec.classes == ("cat", "dog")
    assert target(source, "label").values["train"].tolist() == [0, 1, 1]


def test_a_folder_of_splits_of_classes(tmp_path) -> None:
    for name in ("train/x/1.png", "train/y/2.png", "val/x/3.png", "val/y/4.png", "test/y/5.png"):
        save_image(tmp_path / "set" / name)

    source = read(tmp_path / "set", splits=("train", "validation"))

    assert source.splits == {"train": 2, "validation": 2}
    assert target(source, "label").values["validation"].tolist() == [0, 1]


def test_a_plain_folder_has_images_and_no_target(tmp_path) -> None:
    for number in range(3):
        save_image(tmp_path / f"val2017/{number}.png", number)

    source = read(tmp_path / "val2017", keys=("file",))

    assert source.splits == {"validation": 3}
    assert [found.spec.name for found in source.targets] == ["file"]
    assert strings(source, "file", "validation") == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("folder", ["a", "train/a"])
def test_links_that_lead_back_are_not_followed_again(tmp_path, folder) -> None:
    """A loop of links once made 41 images of one."""
    path = save_image(tmp_path / "photos" / folder / "0.png")
    (tmp_path / "photos/loop").symlink_to(tmp_path / "photos")
    (path.parent / "up").symlink_to("..")
    (path.parent / "again.png").symlink_to(path)

    source = read(tmp_path / "photos", unique=False)

    assert source.splits == {"train": 2}
    names = [Path(sample["image"]).name for sample in samples(source)]
    assert names == ["0.png", "again.png"]


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path) -> None:
    for name in ("0.png", "1.jp2", "2.avif", "3.JFIF"):
        save_image(tmp_path / "photos/0.png").rename(tmp_path / "photos" / name)
    save_image(tmp_path / "photos/0.png")
    (tmp_path / "photos/4.heic").write_bytes(b"")
    (tmp_path / "photos/notes.txt").write_text("")

    source = read(tmp_path / "photos", unique=False)

    assert source.splits == {"train": 4}
    (note,) = (note for note in source.notes if "endings" in note)
    assert note.endswith("photos: 2 files with other endings are not read (.heic, .txt)")


def test_videos_without_a_number_of_frames_say_which_flag_is_missing(tmp_path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").write_bytes(b"")
    rows = save_jsonl(tmp_path / "rows.jsonl", [{"video": "clips/a.mp4", "n": 1}])

    with pytest.raises(MissingColumnError, match="Videos are read with --frames N"):
        read(rows)
    with pytest.raises(DataError, match=r"has videos and no images.*--frames N"):
        read(tmp_path / "clips")


def test_images_beside_folders_of_images_are_refused(tmp_path) -> None:
    save_image(tmp_path / "set/a.png")
    for inside in ("x/b.png", "train/c.png"):
        image = save_image(tmp_path / "set" / inside)

        with pytest.raises(DataError, match=f"has 'a.png' beside the folders and '{inside}' in on"):
            read(tmp_path / "set")
        image.unlink()


def test_a_data_file_in_the_folder_comes_before_its_images(photos) -> None:
    save_rows(photos, "csv").rename(photos / "train.csv")

    assert read(photos).splits == {"train": 4}
    assert target(read(photos), "label").spec.classes == ("a", "b")


def test_the_stamp_of_a_folder_follows_its_listing(tmp_path) -> None:
    save_image(tmp_path / "set/a.png")
    config = DataConfig(data=(str(tmp_path / "set"),), reads=("image",))
    before = data_stamp(config)

    save_image(tmp_path / "set/b.png")

    assert data_stamp(config) != before


def test_a_folder_without_images_says_what_it_has(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/readme.md").write_text("x")

    with pytest.raises(DataError, match=r"has \['readme.md'\], needed .*images"):
        read(tmp_path / "set")
    with pytest.raises(DataNotFoundError):
        read(tmp_path / "absent")


# Videos


def test_videos_are_paths_or_lists_of_frames(photos) -> None:
    rows = [{"clip": f"v{i}.mp4", "frames": [f"images/{i}.png", "images/3.png"]} for i in range(2)]
    path = save_jsonl(photos / "rows.jsonl", rows)
    for row in rows:
        (photos / str(row["clip"])).write_bytes(b"x")

    by_path = samples(read(path, reads=("video",), video_column="clip"))
    by_frames = samples(read(path, reads=("video",), video_column="frames"))

    assert [sample["video"] for sample in by_path] == [str(photos / f"v{i}.mp4") for i in range(2)]
    assert by_frames[1]["video"] == [str(photos / "images/1.png"), str(photos / "images/3.png")]


def test_a_list_of_frames_is_the_video_by_its_name(photos) -> None:
    rows = [
        {"video_id": f"v{i}", "frames": [f"images/{i}.png"], "captions": ["a", "b"], "category": i}
        for i in range(2)
    ]

    source = read(save_jsonl(photos / "rows.jsonl", rows), reads=("video",), keys=("video_id",))

    assert "video: column 'frames', by its name" in source.notes
    assert [found.spec.name for found in source.targets] == ["category", "video_id"]
    assert strings(source, "video_id") == ["v0", "v1"]


def test_a_blank_frame_makes_the_row_unusable(photos) -> None:
    rows = [{"frames": ["images/0.png"]}, {"frames": ["images/1.png", ""]}, {"frames": []}]
    path = save_jsonl(photos / "rows.jsonl", rows)

    source = read(path, reads=("video",), on_error="skip")

    assert source.sample_rows("train").tolist() == [0]
    assert [found.row for found in source.skipped] == [1, 2]


def test_a_folder_of_videos(tmp_path) -> None:
    for name in ("run/a.mp4", "sit/b.avi", "sit/poster.jpg"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).write_bytes(b"x")

    source = read(tmp_path / "clips", reads=("video",))

    assert [Path(sample["video"]).name for sample in samples(source)] == ["a.mp4", "b.avi"]
    assert target(source, "label").spec.classes == ("run", "sit")


# Pairs and groups


CAPTIONED = [
    {"image": "images/0.png", "captions": ["a cat", "one cat", "the cat"], "image_id": "x", "n": 5},
    {"image": "images/1.png", "captions": ["a dog", "a hound"], "image_id": "y", "n": 7},
]


def test_a_list_of_texts_gives_a_sample_for_each(photos) -> None:
    path = save_jsonl(photos / "rows.jsonl", CAPTIONED)

    source = read(path, reads=("text",), keys=("image_id",), targets=("n",))

    assert "text: column 'captions', by its name" in source.notes
    assert source.splits == {"train": 5}
    found = [(s["id"], s["part"], s["text"]) for s in samples(source)]
    assert found == [
        (0, 0, "a cat"), (0, 1, "one cat"), (0, 2, "the cat"), (1, 0, "a dog"), (1, 1, "a hound"),
    ]  # fmt: skip
    assert source.samples("train", 2, 4) == samples(source)[2:4]
    assert source.sample_rows("train").tolist() == [0, 0, 0, 1, 1]
    assert strings(source, "image_id") == ["x", "x", "x", "y", "y"]
    assert target(source, "n").values["train"].tolist() == [5, 5, 5, 7, 7]


def test_images_and_texts_of_a_joint_backbone_stay_together(photos) -> None:
    path = save_jsonl(photos / "rows.jsonl", CAPTIONED)

    source = read(path, reads=("image", "text"))

    assert [(Path(s["image"]).name, s["text"]) for s in samples(source)] == [
        ("0.png", "a cat"), ("0.png", "one cat"), ("0.png", "the cat"),
        ("1.png", "a dog"), ("1.png", "a hound"),
    ]  # fmt: skip
    assert source.samples("train", 1, 4) == samples(source)[1:4]


def test_a_blank_text_in_a_list_is_left_out_by_itself(photos) -> None:
    rows = [{"captions": ["a", " "]}, {"captions": []}, {"captions": ["b"]}, {"captions": None}]
    path = save_jsonl(photos / "rows.jsonl", rows)

    source = read(path, reads=("text",), on_error="skip")

    assert [(s["id"], s["part"], s["text"]) for s in samples(source)] == [(0, 0, "a"), (2, 0, "b")]
    assert [found.row for found in source.skipped] == [0, 1, 3]
    with pytest.raises(BadRowError, match=r"row 0 of split 'train'.*\(2 more rows are like it\)"):
        read(path, reads=("text",))


def test_where_lists_of_texts_end_is_identity(photos) -> None:
    one = save_jsonl(photos / "one.jsonl", [{"text": ["a", "b"]}, {"text": ["c"]}])
    other = save_jsonl(photos / "other.jsonl", [{"text": ["a"]}, {"text": ["b", "c"]}])

    identities = [read(path, reads=("text",)).identity for path in (one, other)]

    assert identities[0] != identities[1]


def test_keys_may_name_each_text_of_a_list(photos) -> None:
    rows = [
        {"text": ["a", "b"], "sentence_id": ["s0", "s1"]},
        {"text": ["c"], "sentence_id": ["s2"]},
    ]
    path = save_jsonl(photos / "rows.jsonl", rows)

    assert strings(read(path, reads=("text",), keys=("sentence_id",)), "sentence_id") == [
        "s0", "s1", "s2",
    ]  # fmt: skip
    rows[0]["sentence_id"] = ["s0"]
    save_jsonl(path, rows)
    with pytest.raises(DataError, match="row 0 of split 'train' has 1 entries in 'sentence_id'"):
        read(path, reads=("text",), keys=("sentence_id",))


ASKED = [
    {"image": f"images/{i}.png", "question": f"what {q}", "answer": q, "image_id": 10 + i}
    for i in (2, 0, 1) for q in ("x", "y")
]  # fmt: skip


def test_an_image_of_several_rows_is_one_sample(photos) -> None:
    path = save_jsonl(photos / "rows.jsonl", ASKED)

    source = read(path, keys=("image_id",))

    assert "2 rows per image, each image once: 3 of 6 rows" in source.notes
    assert source.splits == {"train": 3}
    assert source.sample_rows("train").tolist() == [0, 2, 4]
    assert [Path(s["image"]).name for s in samples(source)] == ["2.png", "0.png", "1.png"]
    assert source.samples("train", 1, 3) == samples(source)[1:3]
    assert strings(source, "image_id") == ["12", "10", "11"]


def test_rows_whose_answers_differ_stay_apart_and_that_is_said(photos) -> None:
    path = save_jsonl(photos / "rows.jsonl", ASKED)

    source = read(path, targets=("answer",))

    assert source.splits == {"train": 6}
    assert any("6 rows share 3 images, but ['answer'] differs" in note for note in source.notes)


def test_equal_targets_and_other_keys_do_not_keep_rows_apart(photos) -> None:
    rows = [{**row, "label": row["image"], "question_id": i} for i, row in enumerate(ASKED)]
    path = save_jsonl(photos / "rows.jsonl", rows)

    source = read(path, targets=("label",), keys=("question_id",))

    assert source.splits == {"train": 3}
    assert target(source, "label").values["train"].tolist() == [2, 0, 1]
    assert strings(source, "question_id") == ["0", "2", "4"]
    assert any("key ['question_id']: differs" in note for note in source.notes)


def test_rows_of_one_image_may_lie_apart(photos) -> None:
    """Compared with the first row of the same image, not with the row before."""
    rows = [{**ASKED[at], "label": ASKED[at]["image"]} for at in (0, 2, 1, 4, 3)]
    path = save_jsonl(photos / "rows.jsonl", rows)

    source = read(path, targets=("label",))

    assert source.sample_rows("train").tolist() == [0, 1, 3]
    rows[4]["label"] = "another"
    assert read(save_jsonl(path, rows), targets=("label",)).splits == {"train": 5}


def test_lists_are_compared_with_their_ends(photos) -> None:
    """The same numbers cut at other places are other answers."""
    answers = [("0", [1]), ("0", [1, 1]), ("1", [1, 1]), ("1", [1])]
    rows = [{"image": f"images/{image}.png", "n": numbers} for image, numbers in answers]

    source = read(save_jsonl(photos / "rows.jsonl", rows), targets=("n",))

    assert source.num_rows == 4


def test_predictions_are_made_for_every_row(photos) -> None:
    path = save_jsonl(photos / "rows.jsonl", ASKED)

    assert read(path, unique=False, guess_targets=False).splits == {"train": 6}


def test_images_stored_in_the_rows_are_told_apart_by_their_bytes(photos) -> None:
    content = [(photos / row["image"]).read_bytes() for row in ASKED]
    rows = datasets.Dataset.from_dict({"image": content, "question": ["q"] * 6})
    rows.to_pandas().to_parquet(photos / "rows.parquet")

    source = read(photos / "rows.parquet")

    assert [sample["image"] for sample in samples(source)] == [content[i] for i in (0, 2, 4)]


def test_samples_do_not_depend_on_how_rows_are_cut_into_pieces(photos, monkeypatch) -> None:
    rows = [*CAPTIONED, {"image": "images/2.png", "captions": ["", "d"], "image_id": "z", "n": 1}]
    path = save_jsonl(photos / "rows.jsonl", rows)
    content = [(photos / row["image"]).read_bytes() for row in ASKED]
    datasets.Dataset.from_dict({"image": content}).to_pandas().to_parquet(photos / "b.parquet")

    def look() -> list[Any]:
        found = [
            read(path, reads=("image", "text"), on_error="skip"),
            read(path, reads=("text",), on_error="skip"),
            read(photos / "b.parquet"),
        ]
        return [(samples(source), source.identity, source.skipped) for source in found]

    whole = look()
    monkeypatch.setattr("extractor.inputs.rows._ROWS_AT_ONCE", 2)
    monkeypatch.setattr("extractor.inputs.rows._ENCODED_ROWS_AT_ONCE", 1)

    assert look() == whole


def test_encoded_images_from_many_chunks_are_read_where_they_are(photos) -> None:
    """Arrow keeps parts of a table apart; places must be counted over all of them."""
    content = [(photos / f"images/{number}.png").read_bytes() for number in range(4)]
    parts = [datasets.Dataset.from_dict({"image": [one]}) for one in content]
    datasets.concatenate_datasets(parts).save_to_disk(str(photos / "saved"))
    joined = datasets.concatenate_datasets(
        [datasets.load_from_disk(str(photos / "saved"))] * 2
    ).map(lambda row, at: {"label": at}, with_indices=True)
    joined.save_to_disk(str(photos / "twice"), num_shards=3)

    source = read(photos / "twice")

    assert [sample["image"] for sample in samples(source)] == content * 2
    assert [s["image"] for s in source.samples("train", 3, 6)] == [content[i] for i in (3, 0, 1)]


# Columns and keys


def test_a_target_is_not_a_path_by_accident(photos) -> None:
    """An image column that nothing reads is no target of a text."""
    path = save_jsonl(photos / "rows.jsonl", ASKED)

    source = read(path, reads=("text",), text_column="question")

    assert [found.spec.name for found in source.targets] == ["answer"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"image_column": "photo"}, "--image-column: there is no column 'photo'"),
        ({"keys": ("name",)}, "--key: there is no column 'name'"),
        ({"text_column": "label"}, "--text-column: is 'label', but what is read of each row is im"),
        ({"video_column": "image"}, "--video-column: is 'image', but what is read"),
        ({"keys": ("label",), "targets": ("label",)}, r"--key: \['label'\] is a --target too"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(photos, choices, words) -> None:
    with pytest.raises(DataError, match=words):
        read(save_rows(photos, "csv"), **choices)


def test_an_image_column_that_cannot_be_told_is_asked_for(photos) -> None:
    rows = [{"left": "images/0.png", "right": "images/1.png"}]

    with pytest.raises(
        MissingColumnError, match=r"\['left', 'right'\] could all be it.*--image-col"
    ):
        read(save_jsonl(photos / "rows.jsonl", rows))


def test_the_path_of_an_image_may_be_its_key(photos) -> None:
    source = read(save_rows(photos, "csv"), keys=("image",))

    assert strings(source, "image") == [row["image"] for row in ROWS]


def test_a_key_is_kept_as_it_is_written(photos) -> None:
    rows = [
        {**row, "name": name} for row, name in zip(ROWS, ["007", "größer", "", None], strict=True)
    ]
    path = save_jsonl(photos / "rows.jsonl", rows)

    source = read(path, keys=("name",))

    assert strings(source, "name") == ["007", "größer", "", ""]
    assert target(source, "name").spec.kind == "string"
    with pytest.raises(DataError, match="--key: column 'score' holds 'double'"):
        read(save_jsonl(path, [{**row, "score": 0.5} for row in ROWS]), keys=("score",))


def test_reading_by_many_threads_and_from_far_apart_rows(photos) -> None:
    """Rows that stand for many others lie far apart: they are read one by one, in order."""
    order = np.repeat([3, 1, 0, 2], 50)
    rows = [{"image": f"images/{number}.png"} for number in order]

    source = read(save_jsonl(photos / "rows.jsonl", rows))

    assert [Path(s["image"]).name for s in samples(source)] == ["3.png", "1.png", "0.png", "2.png"]
    assert source.sample_rows("train").tolist() == [0, 50, 100, 150]
