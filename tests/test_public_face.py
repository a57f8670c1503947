"""`import unipt`: what Python users get, and where a backbone and a trained network meet."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

import unipt
from cache_schema import CacheError, FingerprintMismatchError, UserError


@pytest.fixture(scope="module")
def trained(
    tiny_bert: Path, reviews_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A cache of the reviews, and a run trained from it until it is sure of its answers."""
    folder = tmp_path_factory.mktemp("trained")
    report = unipt.extract(str(tiny_bert), reviews_csv, cache=folder / "cache.zarr")
    unipt.fit(
        report.cache,
        "label",
        run=folder / "run",
        epochs=6,
        batch_size=4,
        device="cpu",
        overrides=["optimizer.learning_rates=[0.02]"],
    )
    return folder / "cache.zarr", folder / "run"


def texts_of(csv: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in csv.read_text().splitlines()[1:]]


def test_importing_unipt_is_cheap() -> None:
    """A script that only parses its flags must not wait for torch."""
    script = "import sys, unipt; print([m for m in ('torch', 'zarr', 'numpy') if m in sys.modules])"

    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert shown.stdout == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    """Names that are imported when asked for must exist in the folder they come from."""
    for name in unipt.__all__:
        assert getattr(unipt, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unipt.nothing


def test_online_prediction_equals_prediction_from_the_cache(
    trained: tuple[Path, Path], reviews_csv: Path
) -> None:
    """Batches of other shapes change float32 sums in the last bits, which the store rounds away.

    Measured: no difference at all; 1e-3 and more where predictions read what was not rounded.
    """
    cache, run = unipt.open_cache(trained[0]), unipt.load(trained[1], device="cpu")
    hidden = (cache.gather(part) for part in np.array_split(np.arange(len(cache)), 5))
    cached = [row for part in run.run.predict(hidden) for row in part.columns["probabilities"]]

    samples = [{"id": i, "text": text} for i, text in enumerate(texts_of(reviews_csv))]
    online = [row["probabilities"] for row in run.predict_samples(iter(samples), batch_size=7)]

    torch.testing.assert_close(torch.tensor(online), torch.tensor(cached), atol=2e-4, rtol=0)


def test_predictions_come_in_the_order_of_the_texts(
    trained: tuple[Path, Path], reviews_csv: Path
) -> None:
    """Texts are sorted by length inside, which must not show; nor may the batch size."""
    model = unipt.load(trained[1], device="cpu")
    texts = texts_of(reviews_csv)

    one_by_one = [model.predict([text])[0] for text in texts]
    together = model.predict(texts, batch_size=5)

    assert [row["label"] for row in together] == [row["label"] for row in one_by_one]
    scores = [[row["score"] for row in rows] for rows in (together, one_by_one)]
    torch.testing.assert_close(*map(torch.tensor, scores), atol=1e-3, rtol=0)


def test_a_file_is_predicted_row_by_row(trained: tuple[Path, Path], reviews_csv: Path) -> None:
    """Each row says where it came from and agrees with predicting its text alone."""
    rows = list(unipt.predict(trained[1], reviews_csv, device="cpu"))

    labels = unipt.load(trained[1], device="cpu").predict(texts_of(reviews_csv))
    assert [(row["split"], row["row"]) for row in rows] == [("train", i) for i in range(48)]
    assert [row["label"] for row in rows] == [row["label"] for row in labels]


def test_another_backbone_is_refused_by_what_differs(
    tiny_bert: Path, reviews_csv: Path, tmp_path: Path
) -> None:
    """Weights that changed under the same name would give labels that mean nothing."""
    copy = tmp_path / "backbone"
    shutil.copytree(tiny_bert, copy)
    report = unipt.extract(str(copy), reviews_csv, cache=tmp_path / "cache")
    unipt.fit(report.cache, "label", run=tmp_path / "run", epochs=1)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)

    with pytest.raises(FingerprintMismatchError, match="weights"):
        unipt.load(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "  \n", ("a", "b", "c"), ("a", "")])
def test_what_is_no_text_is_refused_by_its_place(
    trained: tuple[Path, Path], text: str | tuple[str, str]
) -> None:
    """An empty text has no meaning to label."""
    with pytest.raises(UserError, match="text 1: found"):
        unipt.load(trained[1], device="cpu").predict(["fine", text])


@pytest.fixture(scope="module")
def trained_on_pairs(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two texts per row."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [f"good film {n},bad plot {n},{'ab'[n % 2]}" for n in range(24)]
    (folder / "pairs.csv").write_text("\n".join(["text1,text2,label", *rows]) + "\n")
    report = unipt.extract(str(tiny_bert), folder / "pairs.csv", cache=folder / "cache")
    unipt.fit(report.cache, "label", run=folder / "run", epochs=1, device="cpu")
    return folder / "run"


def test_pairs_of_texts_are_read_as_pairs(trained_on_pairs: Path) -> None:
    """The second text matters, and the order of the two."""
    model = unipt.load(trained_on_pairs, device="cpu")

    rows = model.predict([("a good film", "a bad plot"), ("a bad plot", "a good film")])

    assert rows[0]["score"] != rows[1]["score"]


def test_a_run_takes_what_it_was_trained_with_single_texts_or_pairs(
    trained: tuple[Path, Path], trained_on_pairs: Path, reviews_csv: Path
) -> None:
    """Both are labelled without complaint by any network, and mean nothing."""
    pairs_csv = trained_on_pairs.with_name("pairs.csv")
    single = unipt.load(trained[1], device="cpu")
    double = unipt.load(trained_on_pairs, device="cpu")

    with pytest.raises(UserError, match=r"text 0: found 'a film', needed a pair of texts, which"):
        double.predict(["a film"])
    with pytest.raises(UserError, match=r"text 0: found \('a', 'b'\), needed a text, which"):
        single.predict([("a", "b")])
    with pytest.raises(UserError, match=r"'text' alone, needed a pair .*--text-pair-column"):
        next(unipt.predict(trained_on_pairs, reviews_csv))
    with pytest.raises(UserError, match=r"'text1' and 'text2', needed one text.*--text-column"):
        next(unipt.predict(trained[1], pairs_csv))
    assert next(unipt.predict(trained[1], pairs_csv, text_column="text1"))["label"]


@pytest.mark.parametrize("samples", ["a film", b"x", Path("a.jpg"), {"text": "a film"}])
def test_one_sample_is_not_taken_for_many(trained: tuple[Path, Path], samples: object) -> None:
    """Of a text every letter was labelled."""
    model = unipt.load(trained[1], device="cpu")

    with pytest.raises(UserError, match="needed a list of samples"):
        model.predict(samples)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch_size: found 0, needed 1 or more"):
        model.predict(["a film"], batch_size=0)


def test_the_target_is_guessed_only_where_there_is_one(
    tiny_bert: Path, reviews_csv: Path, tmp_path: Path
) -> None:
    """Two targets, or integers that may be classes or amounts: say which."""
    lines = reviews_csv.read_text().splitlines()
    rows = [f"{line},{i % 3},{i / 7:.3f}" for i, line in enumerate(lines[1:])]
    data = tmp_path / "reviews.csv"
    data.write_text("\n".join([f"{lines[0]},stars,price", *rows]))
    targets = ("label", "stars", "price")
    report = unipt.extract(str(tiny_bert), data, cache=tmp_path / "cache", targets=targets)

    with pytest.raises(CacheError, match=r"\['label', 'stars', 'price'\], say which"):
        unipt.fit(report.cache)
    with pytest.raises(CacheError, match="--task: classification and regression read one value"):
        unipt.fit(report.cache, "stars")
    fitted = unipt.fit(report.cache, "price", run=tmp_path / "run", epochs=1)
    assert fitted.primary == "mse"
    assert "value" in unipt.load(tmp_path / "run").predict(["a film"])[0]


def test_unknown_settings_are_refused_with_the_nearest(trained: tuple[Path, Path]) -> None:
    """Keywords of `fit` are fields of `FitConfig`, and a typo is no silent default."""
    with pytest.raises(UserError, match=r"epoch.*did you mean 'epochs'"):
        unipt.fit(trained[0], "label", epoch=3)
    with pytest.raises(UserError, match=r"network.redction.*did you mean 'reduction'"):
        unipt.fit(trained[0], "label", overrides=["network.redction=3"])
    with pytest.raises(UserError, match=r"max_len.*did you mean 'max_length'"):
        unipt.extract("minilm", "reviews.csv", max_len=3)


def test_settings_of_a_section_are_named_with_their_path(trained: tuple[Path, Path]) -> None:
    with pytest.raises(
        UserError, match=r"reduction: unknown key, did you mean 'network\.reduction'"
    ):
        unipt.fit(trained[0], "label", reduction=4)
    with pytest.raises(
        UserError, match=r"lr: unknown key, did you mean 'optimizer\.learning_rates'"
    ):
        unipt.fit(trained[0], "label", lr=1e-3)


def test_what_is_no_path_is_refused_by_its_type(trained: tuple[Path, Path]) -> None:
    """The words of a table in memory were looked for as files."""
    rows = datasets.Dataset.from_dict({"text": ["a film"]})

    for data in (rows, [rows], None):
        with pytest.raises(UserError, match=r"data: found a '(Dataset|NoneType)', needed the path"):
            unipt.extract("minilm", data)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="data: found a 'Dataset', needed the path"):
        next(unipt.predict(trained[1], rows))  # type: ignore[arg-type]
    with pytest.raises(CacheError, match="cache: found a 'int', needed a cache or its path"):
        unipt.fit(5, "label")  # type: ignore[arg-type]


def test_an_unknown_device_names_the_known_ones(
    trained: tuple[Path, Path], reviews_csv: Path
) -> None:
    cache, run = trained
    refused = pytest.raises(UserError, match=r"device: 'gpu' is unknown, .*auto.*cpu.*cuda.*mps")

    with refused:
        unipt.evaluate(run, cache, "train", device="gpu")  # type: ignore[arg-type]
    with refused:
        unipt.load(run, device="gpu")  # type: ignore[arg-type]
    with refused:
        next(unipt.predict(run, reviews_csv, device="gpu"))  # type: ignore[arg-type]
    with refused:
        next(unipt.predict_cached(run, cache, device="gpu"))  # type: ignore[arg-type]
    with refused:
        unipt.fit(cache, "label", device="gpu")


def test_a_network_that_cannot_be_built_is_refused_in_one_line(trained: tuple[Path, Path]) -> None:
    cache = unipt.open_cache(trained[0])

    with pytest.raises(UserError, match=r"UniPT: reduktion: .*did you mean 'reduction'"):
        unipt.UniPT(cache.manifest.streams, reduktion=4)
    with pytest.raises(UserError, match=r"UniPT: preset: 'foo' is unknown, there are 'paper'"):
        unipt.UniPT(cache.manifest.streams, preset="foo")
    with pytest.raises(
        UserError, match=r"found a 'FeatureCache', .* Pass cache\.manifest\.streams"
    ):
        unipt.UniPT(cache)  # type: ignore[arg-type]


def test_layers_that_are_no_numbers_are_told_what_is_needed() -> None:
    with pytest.raises(UserError) as raised:
        unipt.extract("minilm", "reviews.csv", layers="0-2")

    assert str(raised.value) == (
        "extract: layers: needed all, or numbers of layers such as 0,6,12, found '0-2'"
    )


def test_the_network_reads_batches_of_a_cache(trained: tuple[Path, Path]) -> None:
    """`unipt.UniPT` gives one output row per token, with gradients for its parameters only."""
    cache = unipt.open_cache(trained[0])
    network = unipt.UniPT(cache.manifest.streams, reduction=4)

    side = network(cache.gather([5, 2, 9]))

    assert side.rows.shape == (int(cache.lengths("tokens")[[5, 2, 9]].sum()), 16)
    side.rows.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
