"""What an extraction remembers of how it was asked for."""

from __future__ import annotations

from formats_on_disk import write_karpathy

from extractor import ExtractConfig, default_cache_path
from extractor.request import request_of


def test_a_request_names_its_data_from_any_folder(tiny_bert, tmp_path, monkeypatch) -> None:
    """`unipt repair` runs wherever the user stands, often another folder than `extract` did."""
    write_karpathy(tmp_path / "flickr")
    (tmp_path / "a.csv").write_text("text,label\ngood,1\n")
    monkeypatch.chdir(tmp_path)

    for given, expected in (
        ("a.csv", f"{tmp_path}/a.csv"),
        ("train=a.csv", f"train={tmp_path}/a.csv"),
        ("karpathy:flickr", f"karpathy:{tmp_path}/flickr"),
    ):
        config = ExtractConfig(backbone=str(tiny_bert), data=(given,))

        assert request_of(config)["config"]["data"] == [expected]


def test_caches_are_named_after_data_and_backbone() -> None:
    config = ExtractConfig(backbone="owner/model", data=("test=folder/clips.jsonl",))

    assert default_cache_path(config) == "clips-model.zarr"
    both = config.model_copy(update={"modality": "text"})
    assert default_cache_path(both) == "clips-model-text.zarr"
