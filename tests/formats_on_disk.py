"""Tiny data sets in the real file formats of the paper's data, as users have them on their disk.

Pictures show coloured shapes, videos show one that moves, and captions, questions and boxes say
what is there, so that a network can learn from them. Equal arguments write equal files.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenes import SHAPES, SIDE, SIZE, THINGS, Scene, captions_of, scene, write_video


def write_karpathy(
    folder: Path, name: str = "flickr30k", num_images: int = 24, captions: int = 5
) -> Path:
    """`dataset_flickr30k.json` or `dataset_coco.json` with images; half of them to train on.

    COCO's test has its own folder of images, its training half `restval`, and one caption more.
    """
    is_coco = name == "coco"
    images: list[dict[str, Any]] = []
    for number in range(num_images):
        split = _split(number, num_images)
        entry: dict[str, Any] = {"imgid": number, "split": split, "filename": f"{100 + number}.jpg"}
        place = folder / "flickr30k-images"
        if is_coco:
            entry["split"] = "restval" if split == "train" and number % 2 else split
            entry["filepath"] = "train2014" if entry["split"] == "train" else "val2014"
            entry["filename"] = f"COCO_{entry['filepath']}_{900 + number:012d}.jpg"
            entry["cocoid"] = 900 + number
            place = folder / entry["filepath"]
        texts = (captions_of(scene(number).things[0]) * 2)[: captions + is_coco]
        entry["sentids"] = [number * 10 + k for k in range(len(texts))]
        entry["sentences"] = [
            {"raw": text, "tokens": text.lower().split(), "imgid": number, "sentid": sentid}
            for text, sentid in zip(texts, entry["sentids"], strict=True)
        ]
        _save(scene(number), place / entry["filename"])
        images.append(entry)
    return _json(folder / f"dataset_{name}.json", {"images": images, "dataset": name}).parent


def write_msrvtt(folder: Path, num_train: int = 12, num_test: int = 6, captions: int = 3) -> Path:
    """Captions, the two lists, and videos of a second or so."""
    ids = [f"video{number}" for number in range(num_train + num_test)]
    sentences = [
        {"video_id": video, "caption": text, "sen_id": number * captions + k}
        for number, video in enumerate(ids)
        for k, text in enumerate(captions_of(scene(number).things[0])[:captions])
    ]
    videos = [
        {"video_id": video, "url": f"https://example.org/watch?v={video}", "category": 0}
        for video in ids
    ]
    _json(folder / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    _csv(folder / "MSRVTT_train.9k.csv", [{"video_id": video} for video in ids[:num_train]])
    tests = [
        {
            "key": f"ret{number}",
            "vid_key": f"msr{number}",
            "video_id": ids[number],
            "sentence": captions_of(scene(number).things[0])[0],
        }
        for number in range(num_train, num_train + num_test)
    ]
    _csv(folder / "MSRVTT_JSFUSION_test.csv", tests)
    for number, video in enumerate(ids):
        write_video(folder / "videos" / f"{video}.mp4", scene(number))
    return folder


def write_msvd(folder: Path, num_clips: int = 16, form: str = "pkl", captions: int = 3) -> Path:
    """Lists, captions (`pkl` or `txt`) and clips; half of them to train on."""
    names = [f"-clip{number:02d}_{number}_{number + 5}" for number in range(num_clips)]
    texts = {
        name: captions_of(scene(number).things[0])[: captions + number % 2]
        for number, name in enumerate(names)
    }
    folder.mkdir(parents=True, exist_ok=True)
    if form == "pkl":
        words = {name: [text.lower().split() for text in group] for name, group in texts.items()}
        (folder / "raw-captions.pkl").write_bytes(pickle.dumps(words, protocol=2))
    else:
        lines = [f"{name} {text}" for name, group in texts.items() for text in group]
        head = ["# Descriptions of the clips", ""]
        (folder / "AllVideoDescriptions.txt").write_text("\n".join([*head, *lines]) + "\n")
    for part in ("train", "val", "test"):
        listed = [name for number, name in enumerate(names) if _split(number, num_clips) == part]
        (folder / f"{part}_list.txt").write_text("\n".join(listed) + "\n")
    for number, name in enumerate(names):
        write_video(folder / "YouTubeClips" / f"{name}.avi", scene(number))
    return folder


def write_vqa2(
    folder: Path, layout: str = "official", num_train: int = 32, num_val: int = 8, num_test: int = 4
) -> Path:
    """Two questions per image: its colour, and whether a shape is there.

    Args:
        folder: Made if it is not there.
        layout: `official` or `lxmert`.
        num_train: Images of train2014.
        num_val: Images of val2014; in LXMERT's layout half of them are nominival.
        num_test: Images of test2015, whose questions have no answers.
    """
    counts = {"train2014": num_train, "val2014": num_val, "test2015": num_test}
    files: dict[str, list[dict[str, Any]]] = {}
    first = 0
    for year, count in counts.items():
        for number in range(first, first + count):
            name = f"COCO_{year}_{number:012d}"
            _save(scene(number), folder / year / f"{name}.jpg")
            part = _lxmert_part(year, number - first, count) if layout == "lxmert" else year
            for k, (text, answer) in enumerate(_questions(number)):
                entry = {"question_id": number * 10 + k, "answer": answer, "question": text}
                files.setdefault(part, []).append({**entry, "image_id": number, "img_id": name})
        first += count
    if layout == "lxmert":
        _write_lxmert(folder / "vqa", files, without_answers=("test",))
        return folder
    for year, entries in files.items():
        kept = [{k: e[k] for k in ("question_id", "image_id", "question")} for e in entries]
        _json(folder / f"v2_OpenEnded_mscoco_{year}_questions.json", {"questions": kept})
        if year != "test2015":
            notes = {"annotations": [_annotation(entry) for entry in entries]}
            _json(folder / f"v2_mscoco_{year}_annotations.json", notes)
    return folder


def write_gqa(
    folder: Path, layout: str = "official", num_train: int = 20, num_testdev: int = 8
) -> Path:
    """The balanced questions, two per image, with one answer each; those of test have none."""
    parts = {"train": num_train, "val": num_train // 2, "testdev": num_testdev, "test": 4}
    files: dict[str, list[dict[str, Any]]] = {}
    first = 0
    for part, count in parts.items():
        for number in range(first, first + count):
            _save(scene(number), folder / "images" / f"n{number}.jpg")
            for k, (text, answer) in enumerate(_questions(number)):
                entry = {"question_id": f"{number:05d}{k}", "answer": answer, "question": text}
                files.setdefault(part, []).append({**entry, "img_id": f"n{number}"})
        first += count
    if layout == "lxmert":
        renamed = {{"val": "valid", "test": "submit"}.get(p, p): e for p, e in files.items()}
        _write_lxmert(folder, renamed, without_answers=("submit",))
        return folder
    for part, entries in files.items():
        document = {
            e["question_id"]: {"imageId": e["img_id"], "question": e["question"]}
            | ({} if part == "test" else {"answer": e["answer"]})
            for e in entries
        }
        _json(folder / "questions" / f"{part}_balanced_questions.json", document)
    return folder


def write_refexp(folder: Path, dataset: str = "refcoco", num_images: int = 12) -> Path:
    """MDETR's files: two things per picture, an expression for each, its box and its words."""
    parts = {"train": num_images, "val": num_images // 2}
    parts |= dict.fromkeys(("test",) if dataset == "refcocog" else ("testA", "testB"), 4)
    first = 0
    for part, count in parts.items():
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for number in range(first, first + count):
            pair = THINGS[number % 12], THINGS[(number * 5 + 7) % 12]
            # In every other picture both stand near the middle, where a fresh detector looks.
            shown = Scene(pair, (0.3, 0.7) if number % 2 else (0.0, 1.0))
            file_name = f"COCO_train2014_{number:012d}.jpg"
            _save(shown, folder / "train2014" / file_name)
            for k, thing in enumerate(pair):
                side = ("left", "right")[k]
                text = f"the {thing} on the {side}" if pair[0] == pair[1] else f"the {thing}"
                image = {"file_name": file_name, "height": SIZE[1], "width": SIZE[0]}
                ids = {"id": number * 2 + k, "original_id": number, "dataset_name": dataset}
                images.append({**image, **ids, "caption": text, "tokens_negative": [[0, 3]]})
                box = {"bbox": shown.box(k), "area": SIDE**2, "iscrowd": 0, "category_id": 1}
                span = {"tokens_positive": [[4, 4 + len(thing)]], "id": number * 2 + k}
                boxes.append({**box, **span, "image_id": number * 2 + k})
        first += count
        document = {"info": {}, "licenses": [], "categories": [{"id": 1, "name": "object"}]}
        document |= {"images": images, "annotations": boxes}
        _json(folder / "mdetr_annotations" / f"finetune_{dataset}_{part}.json", document)
    return folder


def _split(number: int, count: int) -> str:
    """The first half to train on, so that it has all things; of the others every second one."""
    return "train" if number < count / 2 else ("val", "test")[number % 2]


def _questions(number: int) -> list[tuple[str, str]]:
    colour, shape = scene(number).things[0].split()
    other = SHAPES[number % 3]
    return [
        (f"What color is the {shape}?", colour),
        (f"Is there a {other}?", "yes" if other == shape else "no"),
    ]


def _annotation(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Ten people: seven say it plainly, one with a mark, two say something else."""
    said = [entry["answer"]] * 7 + [f"{entry['answer'].title()}."] + ["unclear"] * 2
    return {
        "question_id": entry["question_id"],
        "image_id": entry["image_id"],
        "question_type": "what color is the",
        "answer_type": "other",
        "multiple_choice_answer": entry["answer"],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": k + 1}
            for k, answer in enumerate(said)
        ],
    }


def _lxmert_part(year: str, position: int, count: int) -> str:
    if year == "val2014":
        return "minival" if position < count / 2 else "nominival"
    return {"train2014": "train", "test2015": "test"}[year]


def _write_lxmert(
    folder: Path, files: Mapping[str, Sequence[Mapping[str, Any]]], without_answers: Sequence[str]
) -> None:
    answers = dict.fromkeys(e["answer"] for p, es in files.items() for e in es)
    # As in the real file, the order of the classes is not the alphabet's.
    _json(folder / "trainval_ans2label.json", {a: k for k, a in enumerate(reversed(answers))})
    for part, entries in files.items():
        rows = [
            {"question_id": e["question_id"], "img_id": e["img_id"], "sent": e["question"]}
            | ({} if part in without_answers else {"label": {e["answer"]: 1}})
            for e in entries
        ]
        _json(folder / f"{part}.json", rows)


def _save(shown: Scene, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.draw().save(path, quality=95)


def _json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
