"""What a pipeline may leave out or take from another one, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.documents import SettingsError
from cli.pipelines import Pipeline, load_pipeline, load_pipelines

SEARCH = """
search:
  description: images by text
  data: {format: karpathy, root: flickr}
  extract:
    images: {backbone: vit-tiny, keys: [image_id]}
    texts: {backbone: minilm, keys: [image_id], data: others.csv}
  fit:
    unipt: &run
      task: {name: retrieval, loss: triplet, margin: 0.3}
      optimizer: {learning_rates: [1.0e-3], weight_decay: 0.1}
      epochs: 3
    probe:
      <<: *run
      network: {name: probe}
  predict: {run: unipt, split: test}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(SEARCH)
    return path


def problems(file: Path, text: str) -> set[str]:
    """Of the file with more text after it."""
    file.write_text(SEARCH + text)
    with pytest.raises(SettingsError) as found:
        load_pipelines(file)
    return set(found.value.problems)


def test_stages_share_the_data_and_lie_in_the_runs_folder(file: Path) -> None:
    """What is not said follows from the name; what a stage says itself stays."""
    pipeline = load_pipeline(file, "search")

    assert pipeline.runs == "runs/search"
    assert [*pipeline.stages] == ["images", "texts"]
    images, texts = pipeline.stages.values()
    assert (images.data, texts.data) == (("karpathy:flickr",), ("others.csv",))
    assert images.cache == "runs/search/images.zarr"
    assert pipeline.fit["probe"].caches == ()


def test_one_setting_moves_the_data_of_all_stages(file: Path) -> None:
    """`--set data.root=...` is all that a user types; folders follow `runs`."""
    pipeline = load_pipeline(
        file, "search", ["data.root=/data/f30k", "runs=/big/x", "extract.images.views=3"]
    )

    assert pipeline.stages["images"].data == ("karpathy:/data/f30k",)
    assert pipeline.stages["images"].views == 3
    assert pipeline.stages["texts"].cache == "/big/x/texts.zarr"


def test_data_without_a_format_is_any_data(file: Path) -> None:
    """A folder of photos, a csv: what `--data` takes."""
    pipeline = load_pipeline(file, "search", ["data.format=null", "data.root=a.csv"])

    assert pipeline.stages["images"].data == ("a.csv",)


def test_a_changed_run_leaves_the_run_it_was_written_from(file: Path) -> None:
    """Anchors of YAML would make both one mapping."""
    pipeline = load_pipeline(file, "search", ["fit.unipt.optimizer.weight_decay=0.5"])

    assert pipeline.fit["unipt"].optimizer.weight_decay == 0.5
    assert pipeline.fit["probe"].optimizer.weight_decay == 0.1


def child(file: Path, text: str) -> Pipeline:
    file.write_text(SEARCH + text)
    return load_pipeline(file, "child")


def test_a_pipeline_takes_over_what_it_does_not_say(file: Path) -> None:
    """Key by key; what belongs to another network, and what names the parent, is left behind."""
    pipeline = child(
        file,
        "child:\n  extends: search\n  description: another\n  data: {root: coco}\n"
        "  fit: {unipt: {epochs: 9}, probe: {network: {name: unipt, reduction: 4}}}\n",
    )

    assert pipeline.data is not None
    assert (pipeline.data.format, pipeline.data.root) == ("karpathy", "coco")
    assert pipeline.runs == "runs/child"
    assert pipeline.fit["unipt"].epochs == 9
    assert pipeline.fit["unipt"].task == pipeline.fit["probe"].task
    assert pipeline.fit["probe"].epochs == 3
    assert load_pipeline(file, "search").fit["unipt"].epochs == 3


def test_a_child_may_say_nothing_but_what_it_changes(file: Path) -> None:
    """`description: missing`, although everything that is not given is taken over."""
    pipeline = child(file, "child: {extends: search, data: {root: coco}}\n")

    assert pipeline.description == "images by text"


def test_two_pipelines_never_share_a_folder(file: Path) -> None:
    """A parent may name its folder; its child would find the parent's runs there."""
    text = SEARCH.replace("search:", "search:\n  runs: here", 1)
    file.write_text(text + "child: {extends: search, description: another}\n")

    pipelines = load_pipelines(file)

    assert (pipelines["search"].runs, pipelines["child"].runs) == ("here", "runs/child")
    assert pipelines["child"].stages["images"].cache == "runs/child/images.zarr"


def test_another_name_in_a_section_replaces_the_whole(file: Path) -> None:
    """The margin of a triplet loss is no setting of a classification."""
    pipeline = child(
        file,
        "child:\n  extends: search\n  description: another\n"
        "  fit: {unipt: {task: {name: classification, target: label}}}\n",
    )

    assert pipeline.fit["unipt"].task.name == "classification"
    assert pipeline.fit["probe"].task.name == "retrieval"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: {extends: serch}\n", "a.extends: found 'serch', did you mean 'search'?"),
        ("a: {extends: b}\nb: {extends: a}\n", "a.extends: a -> b -> a"),
        (
            "a:\n  extends: search\n  description: x\n  extract: {images: {backbon: y}}\n",
            "a.extract.images.backbon: unknown key, did you mean 'backbone'?",
        ),
        (
            "a:\n  extends: search\n  fit: {unipt: {lr: 0.1}}\n",
            "a.fit.unipt.lr: unknown key, did you mean 'optimizer.learning_rates'?",
        ),
        (
            "a:\n  extends: search\n  fit: {unipt: {reduction: 4}}\n",
            "a.fit.unipt.reduction: unknown key, did you mean 'network.reduction'?",
        ),
        (
            "a:\n  extends: search\n  description: x\n  fit: {unipt: {caches: [image]}}\n",
            "a: fit.unipt.caches: found 'image', did you mean 'images'?",
        ),
        (
            "a:\n  extends: search\n  description: x\n  predict: {texts: [y]}\n",
            "a.predict: needed texts or split, one of them",
        ),
        (
            "a:\n  extends: search\n  description: x\n  data: {format: karpaty}\n",
            "a.data.format: found 'karpaty', did you mean 'karpathy'?",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(file: Path, text: str, expected: str) -> None:
    """Before an extraction of hours begins."""
    assert expected in problems(file, text)
