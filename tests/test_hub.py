"""Models and data sets of the hub, from a stand-in server, and later without any network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub_server import COMMIT, REPOSITORY, serve_repository

from extractor import BackboneConfig, load_backbone

RESOLVE = """
from extractor.backbones import BackboneConfig, resolve_backbone

def answer(question):
    found = resolve_backbone(BackboneConfig(**question))
    return [found.model, found.revision, str(found.folder)]
"""
OPEN = """
from extractor.inputs import DataConfig, data_stamp, open_data

def answer(question):
    source = open_data(DataConfig(data=(question,)))
    stamp = data_stamp(DataConfig(data=(question,)))["places"][0]["hub"]
    return [source.samples("train", 0, 9), source.splits, stamp, source.notes]
"""
ASK = """
import json, sys
from cache_schema import UserError

answers = []
for question in json.loads(sys.argv[1]):
    try:
        answers.append(answer(question))
    except UserError as error:
        answers.append(f"{type(error).__name__}: {error}")
heavy = {"torch", "transformers", "datasets", "pandas"} & set(sys.modules)
print(json.dumps([answers, sorted(heavy)]))
"""


def ask(code: str, questions: list[Any], home: Path, address: str) -> tuple[list[Any], list[str]]:
    """Answer in a process of its own: the hub's client reads its address once."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home)}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code + ASK, json.dumps(questions)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    answers, heavy = json.loads(done.stdout)
    return answers, heavy


def test_a_model_is_fetched_once_and_known_by_its_commit(tiny_bert, tmp_path) -> None:
    mine, other = {"name": REPOSITORY}, {"name": "tiny/other"}
    pinned, later = {**mine, "revision": COMMIT}, {**mine, "revision": "later"}

    with serve_repository(tiny_bert) as address:
        online, _ = ask(RESOLVE, [mine, pinned, later, other], tmp_path, address)
    offline, heavy = ask(RESOLVE, [mine, pinned, other], tmp_path, address)

    model, commit, folder = online[0]
    assert (model, commit) == (REPOSITORY, COMMIT)
    assert online[1] == offline[0] == offline[1] == online[0]
    assert "there is no revision 'later'" in online[2]
    assert "no such repository on the hub" in online[3]
    assert "cannot be reached and the local hub cache does not have it" in offline[2]
    assert heavy == []
    served = load_backbone(BackboneConfig(name=folder), "cpu").identity
    assert served == load_backbone(BackboneConfig(name=str(tiny_bert)), "cpu").identity


def test_a_data_set_is_read_and_its_local_copy_is_enough_later(tmp_path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,x\nb,y\n")
    (folder / "test.csv").write_text("text,label\nc,x\n")

    with serve_repository(folder, kind="datasets") as address:
        online, _ = ask(OPEN, [REPOSITORY], tmp_path, address)
    offline, _ = ask(OPEN, [REPOSITORY, "tiny/other"], tmp_path, address)

    samples, splits, stamp, notes = online[0]
    assert samples == [{"id": 0, "text": "a"}, {"id": 1, "text": "b"}]
    assert splits == {"train": 2, "test": 1}
    assert stamp == [REPOSITORY, None, COMMIT]
    assert offline[0][:2] == [samples, splits]
    assert offline[0][2] == [REPOSITORY, None, None]
    assert set(offline[0][3]) - set(notes) == {
        f"{REPOSITORY}: the hub cannot be reached, so the local copy is read as it is"
    }
    assert "tiny/other: no such file or folder here" in offline[1]
