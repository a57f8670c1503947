"""What is guessed where the user says nothing, and said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_library import save_tiny_encoder_decoder
from training_caches import Recorder, settings, target_cache

import unipt
from cache_schema import Ragged, TargetSpec
from trainer import IncompatibleNetworkError, fit
from unipt.choices import fit_config


@pytest.fixture(scope="module")
def t5_cache(tmp_path_factory):
    """A cache of T5, whose decoder has read its start token alone, and of where words begin."""
    folder = tmp_path_factory.mktemp("t5")
    save_tiny_encoder_decoder(folder / "t5", "t5")
    rows = [
        {"text": "the dog sat" if at % 2 else "a cat", "label": "ab"[at % 2], "tags": "xy"[at % 2]}
        for at in range(40)
    ]
    rows = [{**row, "tags": [row["tags"]] * len(row["text"].split())} for row in rows]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    unipt.extract(
        str(folder / "t5"),
        folder / "train.jsonl",
        cache=folder / "cache",
        targets=("label", "tags"),
        align="words",
        device="cpu",
    )
    return unipt.open_cache(folder / "cache")


def test_an_encoder_decoder_is_read_as_one_and_that_is_said(t5_cache, tmp_path) -> None:
    """Both streams as one used to fail in the first step, with the command that extract prints."""
    progress = Recorder()

    unipt.fit(t5_cache, "label", run=tmp_path / "run", epochs=1, device="cpu", progress=progress)

    config = unipt.load(tmp_path / "run", device="cpu").run.config
    assert config.network.structure == "encoder-decoder"
    assert any("encoder-decoder" in line for line in progress.lines)


@pytest.mark.parametrize(
    "override", ['network.streams=["decoder"]', "network.structure=maps", "network.preset=mdetr"]
)
def test_a_network_that_was_described_is_not_guessed(t5_cache, override) -> None:
    progress = Recorder()

    fit_config([t5_cache], "label", None, "unipt", [override], {}, progress)

    assert progress.lines == []


def test_a_network_that_cannot_read_both_names_the_flag_that_helps(t5_cache, tmp_path) -> None:
    with pytest.raises(IncompatibleNetworkError, match=r"--set 'network\.streams=") as caught:
        unipt.fit(t5_cache, "label", run=tmp_path / "run", network="lst", device="cpu")

    flag = str(caught.value).split("'")[-2]
    report = unipt.fit(
        t5_cache,
        "label",
        run=tmp_path / "run",
        network="lst",
        device="cpu",
        epochs=1,
        overwrite=True,
        overrides=[flag],
    )
    assert report.num_steps > 0


def test_lists_beside_aligned_words_are_labels_of_words(t5_cache) -> None:
    """They used to be taken for several labels of the whole text."""
    progress = Recorder()

    config = fit_config([t5_cache], "tags", None, "unipt", (), {}, progress)
    asked = fit_config([t5_cache], "tags", "classification", "unipt", (), {}, progress)

    assert config.task.name == "token-classification"
    assert "token-classification of 'tags'" in progress.lines[0]
    assert asked.task.name == "classification"


def test_lists_of_whole_numbers_are_labels_for_who_asks(tmp_path) -> None:
    """Each task used to name another one, which refused them too."""
    rows = [[at % 2, 7] if at % 3 else [at % 2] for at in range(80)]
    values = Ragged.from_rows(rows, np.float64)
    signal = np.arange(80) % 2 * 4.0 - 2
    spec = TargetSpec(name="tags", kind="numbers")
    cache = target_cache(tmp_path / "cache", spec, values, signal=signal)

    report = fit(settings("task.best_by=macro_f1", target="tags"), cache, tmp_path / "run")
    (row, *_) = unipt.predict_cached(tmp_path / "run", cache, device="cpu")

    assert report.metrics["macro_f1"] > 0.8
    assert set(row["label"]) <= {"0", "1", "7"}
