"""Token classification: labels of words, from extraction to prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from task_caches import COUNT, Contents, States, write
from tiny_models import save_tiny_model
from training_caches import assert_same_end, settings

import unipt
from cache_schema import FeatureCache, FingerprintMismatchError, Ragged, TargetSpec
from extractor.backbones import BackboneConfig, BackboneError, load_backbone
from trainer import ConfigError, FitConfig, evaluate, fit, load_run
from trainer.metrics import are_span_labels, label_spans
from trainer.metrics.running_words import WordScores
from trainer.networks import IncompatibleNetworkError
from trainer.tasks import TargetError

CLASSES = ("B-LOC", "B-PER", "I-PER", "O")


def rows_of(seed: int = 0) -> tuple[list[list[int]], list[list[int]], np.ndarray]:
    """Labels and first tokens of each word, and tokens of each text, special ones at both ends.

    Words have one or two tokens. The last word of texts 5 and 70 was cut off.
    """
    rng = np.random.default_rng(seed)
    labels, rows, lengths = [], [], []
    for sample in range(COUNT):
        words = 2 + sample % 4
        sizes = rng.integers(1, 3, words)
        first = (1 + np.cumsum(sizes) - sizes).tolist()
        if sample in (5, 70):
            first[-1] = -1
        texts = rng.choice([0, 1, 3], words).tolist()
        # A person has a second word half of the time, like "Ada Lovelace".
        labels.append(
            [2 if w and texts[w - 1] == 1 and sample % 2 else x for w, x in enumerate(texts)]
        )
        rows.append(first)
        lengths.append(int(sizes.sum()) + 2)
    return labels, rows, np.array(lengths)


def contents() -> Contents:
    """The first token of a word tells its label; the second one only misleads."""
    labels, rows, lengths = rows_of()
    states = States.random(lengths, (0, 1, 2), 12, seed=1)
    starts = np.cumsum(lengths) - lengths
    for start, places, own in zip(starts.tolist(), rows, labels, strict=True):
        for place, label in zip(places, own, strict=True):
            if place >= 0:
                states.values[start + place, :, 4 + label] += 6
    spec = TargetSpec(name="tags", kind="categories", classes=CLASSES)
    return Contents(
        streams={"tokens": states},
        targets={"tags": (spec, Ragged.from_rows(labels, np.int64))},
        inputs={"first_tokens": Ragged.from_rows(rows, np.int32)},
    )


def tagging(*overrides: str) -> FitConfig:
    return settings(
        "optimizer.learning_rates=[0.01]", *overrides, task="token-classification", target="tags"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, FeatureCache]:
    folder = tmp_path_factory.mktemp("words")
    cache = write(folder / "cache", contents())
    fit(tagging("epochs=8"), cache, folder / "run")
    return folder / "run", cache


def predicted(run: Path, cache: FeatureCache, samples: np.ndarray) -> list[list[str | None]]:
    from dataclasses import replace

    loaded = load_run(run, "cpu", "float32")
    facts = loaded.task.facts({"first_tokens": cache.input("first_tokens", samples)})
    (part,) = loaded.predict([replace(cache.gather(samples), targets=facts)])
    return part.columns["labels"]


def test_metrics_are_those_of_the_predicted_words(trained) -> None:
    """Recomputed word by word and span by span; the word that was cut off counts as wrong."""
    run, cache = trained
    labels, _, _ = rows_of()
    test = cache.split("test")

    metrics = evaluate(run, cache, "test", device="cpu", precision="float32")

    found = predicted(run, cache, test)
    true = [[CLASSES[x] for x in labels[sample]] for sample in test.tolist()]
    pairs = [(f, t) for a, b in zip(found, true, strict=True) for f, t in zip(a, b, strict=True)]
    assert metrics["accuracy"] == pytest.approx(np.mean([f == t for f, t in pairs]))
    scores = []
    for name in CLASSES:
        hits = sum(f == t == name for f, t in pairs)
        total = sum(f == name for f, _ in pairs) + sum(t == name for _, t in pairs)
        scores.append(2 * hits / total)
    assert metrics["macro_f1"] == pytest.approx(np.mean(scores))
    mine = [label_spans([f or "O" for f in row]) for row in found]
    theirs = [label_spans(row) for row in true]
    hits = sum(len(a & b) for a, b in zip(mine, theirs, strict=True))
    total = sum(map(len, mine)) + sum(map(len, theirs))
    assert metrics["span_f1"] == pytest.approx(2 * hits / total)
    assert metrics["span_f1"] > 0.8
    assert [row.count(None) for row in found] == [int(s == 70) for s in test.tolist()]


def test_a_word_is_labelled_by_its_first_token(trained) -> None:
    """Moving the rows of words onto their second tokens must spoil the labels."""
    run, cache = trained
    labels, rows, _ = rows_of()
    samples = cache.split("test")
    loaded = load_run(run, "cpu", "float32")
    batch = cache.gather(samples)

    def accuracy(shift: int) -> float:
        from dataclasses import replace

        moved = [np.array(rows[s]) + shift * (np.array(rows[s]) >= 0) for s in samples.tolist()]
        facts = loaded.task.facts({"first_tokens": moved})
        (part,) = loaded.predict([replace(batch, targets=facts)])
        pairs = zip(part.columns["labels"], samples.tolist(), strict=True)
        return float(
            np.mean(
                [f == CLASSES[t] for row, s in pairs for f, t in zip(row, labels[s], strict=True)]
            )
        )

    assert accuracy(0) > 0.9
    assert accuracy(1) < 0.8


def test_the_loss_is_the_mean_over_labelled_words(trained) -> None:
    """Padding and words without a token take no part, whatever their logits are."""
    run, cache = trained
    labels, rows, _ = rows_of()
    loaded = load_run(run, "cpu", "float32")
    samples = np.array([5, 6])
    targets = loaded.task.reader(cache, samples)(samples)
    from dataclasses import replace

    output = loaded.forward(replace(cache.gather(samples), targets=targets))

    loss = loaded.task.loss(output, targets, None)

    chances = output.logits.log_softmax(-1)
    terms = [
        -chances[place, row, label]
        for place, sample in enumerate((5, 6))
        for row, label in zip(rows[sample], labels[sample], strict=True)
        if row >= 0
    ]
    assert len(terms) == len(rows[5]) + len(rows[6]) - 1
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_spans_decide_where_labels_mark_them(trained, tmp_path) -> None:
    _, cache = trained

    chosen = [
        tagging(*override).task.learn(cache, cache.split("train"), {}).primary
        for override in ((), ("task.best_by=macro_f1",))
    ]

    assert chosen == ["span_f1", "macro_f1"]


def test_tagging_resumes_bit_identical_with_bertadam(tmp_path, trained) -> None:
    _, cache = trained
    config = tagging(
        "optimizer.algorithm=bertadam",
        "schedule.shape=bert-cosine",
        "accumulate=3",
        "batch_size=4",
        "dropout=0.2",
        "checkpoint_every_steps=3",
    )
    whole = fit(config, cache, tmp_path / "whole")
    from training_caches import Recorder

    def die() -> None:
        raise KeyboardInterrupt

    # In the middle of the fifth step: its first two batches are read again.
    with pytest.raises(KeyboardInterrupt):
        fit(config, cache, tmp_path / "killed", progress=Recorder(after_samples=56, action=die))
    resumed = fit(config, cache, tmp_path / "killed", resume=True)

    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        ("O B-PER I-PER O", {("PER", 1, 3)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        ("I-LOC I-LOC B-LOC", {("LOC", 0, 2), ("LOC", 2, 3)}),
        ("B-PER I-LOC", {("PER", 0, 1), ("LOC", 1, 2)}),
        ("S-X B-Y I-Y E-Y I-Y", {("X", 0, 1), ("Y", 1, 4), ("Y", 4, 5)}),
        ("U-X L-X", {("X", 0, 1), ("X", 1, 2)}),
        ("O O", set()),
    ],
)
def test_spans_follow_the_rules_of_conll(labels: str, spans: set) -> None:
    assert label_spans(labels.split()) == spans


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b-c", "I-b-c"]), max_size=12))
def test_spans_cover_exactly_the_labelled_words_once(labels: list[str]) -> None:
    spans = sorted(label_spans(labels), key=lambda span: span[1])

    covered = [word for _, start, stop in spans for word in range(start, stop)]
    assert covered == [word for word, label in enumerate(labels) if label != "O"]
    assert all(labels[start:stop] and stop > start for _, start, stop in spans)


def test_only_labels_of_spans_are_taken_for_them() -> None:
    assert are_span_labels(["O", "B-PER", "I-PER"])
    assert not are_span_labels(["NOUN", "O"])
    assert not are_span_labels(["O"])


def test_scores_of_two_parts_are_those_of_the_whole() -> None:
    """As when two processes count half of the texts each."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(-1, 4, (6, 5), generator=generator)
    truth = torch.randint(-1, 4, (6, 5), generator=generator)
    whole, first = WordScores(CLASSES), WordScores(CLASSES)

    whole.update(predicted, truth)
    first.update(predicted[:2], truth[:2])
    first.update(predicted[2:], truth[2:])

    assert first.compute() == whole.compute()
    assert set(whole.compute()) == {
        "accuracy", "macro_f1", "span_precision", "span_recall", "span_f1",
    }  # fmt: skip


def unlabelled(given: Contents) -> None:
    given.targets["tags"][1].values[0] = -1


def one_more(given: Contents) -> None:
    rows, _, _ = rows_of()
    rows[9].append(0)
    given.targets["tags"] = (given.targets["tags"][0], Ragged.from_rows(rows, np.int64))


def not_aligned(given: Contents) -> None:
    given.inputs = {}


def single_labels(given: Contents) -> None:
    spec = TargetSpec(name="tags", kind="category", classes=CLASSES)
    given.targets["tags"] = (spec, np.zeros(COUNT, np.int64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unlabelled, ["sample 0", "without a label"]),
        (one_more, ["sample 9", "4 labels, 3 words"]),
        (not_aligned, ["'first_tokens'", "--align words"]),
        (single_labels, ["'category'", "--task classification"]),
    ],
)
def test_caches_that_do_not_suit_are_refused(tmp_path, change, words) -> None:
    given = contents()
    change(given)
    cache = write(tmp_path / "cache", given)

    with pytest.raises(TargetError) as caught:
        fit(tagging(), cache, tmp_path / "run")

    for word in words:
        assert word in str(caught.value)


def test_a_network_of_one_row_per_text_is_refused(tmp_path) -> None:
    """Words would be looked up in rows that are not theirs."""
    cache = write(tmp_path / "cache", contents())

    with pytest.raises(IncompatibleNetworkError, match=r"one row for each text.*structure to tok"):
        fit(tagging("network.preset=clip4clip"), cache, tmp_path / "run")


def test_pooling_is_refused_because_every_word_is_read() -> None:
    with pytest.raises(ConfigError, match="pooling has no effect"):
        tagging("pooling=first")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_rows_are_where_the_tokenizer_begins_each_word(tmp_path, family: str) -> None:
    """The tokens of a word's row and those after it spell the word, white space or not."""
    save_tiny_model(tmp_path / family, family)
    backbone = load_backbone(
        BackboneConfig(name=str(tmp_path / family), align="words", max_length=24), "cpu"
    )
    texts = ["the  dog, sat on a mat", "dog", "a cat " * 20]

    prepared = backbone.prepare([{"id": at, "text": text} for at, text in enumerate(texts)])

    rows = prepared.inputs["first_tokens"]
    backend = backbone._encode.__closure__
    tokenizer = next(c.cell_contents for c in backend if hasattr(c.cell_contents, "_backend"))
    for at, text in enumerate(texts):
        encoding = tokenizer._backend.encode(text)
        words = text.split()
        assert len(rows[at]) == len(words)
        for word, row in zip(words, rows[at].tolist(), strict=True):
            if row >= 0:
                begin, end = encoding.offsets[row]
                assert word.startswith(text[begin:end].strip())
    assert (rows[0] >= 0).all()
    assert (np.diff(rows[0]) > 0).all()
    assert rows[2][-1] == -1
    assert backbone.stored_inputs[-1] == "first_tokens"


def tagged_file(path: Path) -> list[dict]:
    """ "dog" and "cat" are animals; "the" and others are not."""
    rng = np.random.default_rng(0)
    vocabulary = ["the", "dog", "sat", "cat", "on", "mat"]
    rows = []
    for _ in range(96):
        words = rng.choice(vocabulary, int(rng.integers(1, 6))).tolist()
        tags = ["B-ANIMAL" if word in ("dog", "cat") else "O" for word in words]
        rows.append({"text": " ".join(words), "tags": tags})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_words_are_labelled_from_file_to_prediction(tmp_path) -> None:
    """Extract with --align words, fit, evaluate, predict new texts: one label for each word."""
    save_tiny_model(tmp_path / "bert", "bert")
    tagged_file(tmp_path / "train.jsonl")
    report = unipt.extract(
        str(tmp_path / "bert"),
        str(tmp_path / "train.jsonl"),
        cache=tmp_path / "cache",
        targets=("tags",),
        align="words",
        device="cpu",
        encoding="float32",
    )

    fitted = unipt.fit(
        report.cache,
        "tags",
        task="token-classification",
        run=tmp_path / "run",
        epochs=20,
        batch_size=8,
        device="cpu",
        overrides=["optimizer.learning_rates=[0.02]"],
    )
    rows = unipt.load(tmp_path / "run", device="cpu").predict(["the cat sat", "dog", "a b c d"])

    assert fitted.metrics["span_f1"] > 0.9
    assert [len(row["labels"]) for row in rows] == [3, 1, 4]
    assert rows[0]["labels"] == ["O", "B-ANIMAL", "O"]
    assert rows[1]["labels"] == ["B-ANIMAL"]
    assert [len(row["scores"]) for row in rows] == [3, 1, 4]


def test_a_cache_without_words_is_not_continued_with_them(tmp_path) -> None:
    """Its shards would hold different inputs."""
    save_tiny_model(tmp_path / "bert", "bert")
    tagged_file(tmp_path / "train.jsonl")
    options = {"cache": tmp_path / "cache", "targets": ("tags",), "device": "cpu"}
    unipt.extract(str(tmp_path / "bert"), str(tmp_path / "train.jsonl"), **options)

    with pytest.raises(
        FingerprintMismatchError, match=r"inputs: \['token_ids', 'first_tokens'\] here"
    ):
        unipt.extract(
            str(tmp_path / "bert"), str(tmp_path / "train.jsonl"), align="words", **options
        )


def test_words_cannot_be_aligned_where_views_drop_them(tmp_path) -> None:
    save_tiny_model(tmp_path / "bert", "bert")
    name = str(tmp_path / "bert")
    backbone = load_backbone(BackboneConfig(name=name, align="words"), "cpu")

    with pytest.raises(BackboneError, match="Leave out --views or --align"):
        backbone.prepare([{"id": 0, "text": "the dog sat", "view": 1}])
