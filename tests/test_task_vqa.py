"""Question answering, trained on small real caches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_caches import make_manifest, states_of, write_cache
from training_caches import SPLITS, config_of, label_cache, settings, weights_of

from cache_schema import FeatureCache, Ragged, SplitSpec, TargetSpec
from trainer import ConfigError, FitConfig, evaluate, fit, load_run
from trainer.tasks import TargetError

CLASSES = ("blue", "cat", "no", "rare", "yes")
COUNT = sum(SPLITS.values())


def question_rows() -> tuple[list[list[int]], list[list[float]]]:
    """Odd questions: mostly yes, a little cat. Even: no. Some have blue, or nothing at all."""
    answers = [[4, 1] if sample % 2 else [2] for sample in range(COUNT)]
    scores = [[1.0, 0.3] if sample % 2 else [0.9] for sample in range(COUNT)]
    for sample in (5, 53):
        answers[sample], scores[sample] = [], []
    for sample in (50, 66):  # only outside training
        answers[sample], scores[sample] = [3], [1.0]
    return answers, scores


def question_cache(path: Path, *, change=None, with_scores: bool = True) -> FeatureCache:
    answers, scores = question_rows()
    if change is not None:
        change(answers, scores)
    targets: dict[str, Ragged] = {"answers": Ragged.from_rows(answers, np.int64)}
    specs = [TargetSpec(name="answers", kind="categories", classes=CLASSES)]
    if with_scores:
        targets["scores"] = Ragged.from_rows(scores, np.float64)
        specs.append(TargetSpec(name="scores", kind="numbers"))
    lengths = np.random.default_rng(0).integers(2, 9, COUNT)
    stops = np.cumsum(list(SPLITS.values())).tolist()
    manifest = make_manifest(
        lengths,
        samples_per_shard=20,
        targets=tuple(specs),
        splits=tuple(
            SplitSpec(name=name, start=stop - size, stop=stop)
            for (name, size), stop in zip(SPLITS.items(), stops, strict=True)
        ),
    )
    states = states_of(lengths, 3, 8)
    # Only the first token tells the answer, as for a pooled [CLS].
    first = np.cumsum(lengths) - lengths
    states[first, :, 0] = torch.from_numpy(np.arange(COUNT) % 2 * 6.0 - 3).float()[:, None]
    write_cache(path, manifest, states, lengths, targets)
    return FeatureCache.open(path)


def vqa(*overrides: str, target: str = "answers") -> FitConfig:
    return settings("optimizer.learning_rates=[0.01]", *overrides, task="vqa", target=target)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, FeatureCache]:
    folder = tmp_path_factory.mktemp("vqa")
    cache = question_cache(folder / "cache")
    fit(vqa("epochs=6"), cache, folder / "run")
    return folder / "run", cache


def test_accuracy_is_the_mean_soft_score_of_the_answers_given(trained) -> None:
    """Recomputed from the rows: unseen answers and unanswered questions score 0 and count."""
    run, cache = trained
    answers, scores = question_rows()
    test = cache.split("test")

    metrics = evaluate(run, cache, "test", device="cpu", precision="float32")

    (part,) = load_run(run, "cpu", "float32").predict([cache.gather(test)])
    given = part.columns["answer"]
    own = [
        dict(zip([CLASSES[a] for a in answers[s]], scores[s], strict=True)) for s in test.tolist()
    ]
    expected = np.mean([score.get(answer, 0.0) for score, answer in zip(own, given, strict=True)])
    best = np.mean([max((s for a, s in score.items() if a != "rare"), default=0) for score in own])
    assert metrics["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert metrics["ceiling"] == pytest.approx(best, abs=1e-6)
    assert 0.8 * best < metrics["accuracy"]
    assert best < 0.99


def test_answers_that_training_never_saw_cannot_be_given(trained) -> None:
    """The order is by frequency: 24 no, 23 yes and cat each."""
    run, _ = trained

    assert config_of(run)["task"]["answers"] == ["no", "cat", "yes"]


def test_predictions_name_the_best_few_answers(trained) -> None:
    run, cache = trained

    (part,) = load_run(run, "cpu", "float32").predict([cache.gather([65, 64])])

    columns = part.columns
    assert columns["answer"] == ["yes", "no"]
    assert columns["answers"][0][:2] == ["yes", "cat"]
    assert [len(row) for row in columns["answers"]] == [3, 3]
    assert columns["score"] == [row[0] for row in columns["scores"]]
    assert all(row == sorted(row, reverse=True) for row in columns["scores"])


def test_the_first_row_is_what_the_head_reads_unless_told(tmp_path, trained) -> None:
    run, cache = trained
    fit(vqa("pooling=mean", "epochs=1"), cache, tmp_path / "mean")

    model = load_run(run, "cpu", "float32")
    batch = cache.gather([1, 2])
    rows = model.model.network(batch)

    first = rows.rows[rows.layout.first_rows()]
    torch.testing.assert_close(model.forward(batch), model.model.head(first).detach())
    other = load_run(tmp_path / "mean", "cpu", "float32").model
    assert other.pooling.reduce.__name__ == "mean"


def test_the_loss_is_the_scaled_mean_cross_entropy(tmp_path) -> None:
    cache = question_cache(tmp_path / "cache")
    task = vqa().task.learn(cache, cache.split("train"), {})
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    samples = np.array([0, 1, 5, 50])

    targets = task.reader(cache, samples)(samples)
    loss = task.loss(output, targets, None)

    marks = torch.tensor([[0.9, 0, 0], [0, 0.3, 1.0], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(targets["answers"], marks)
    mean = -(marks * output.sigmoid().log() + (1 - marks) * (-output).sigmoid().log()).mean()
    torch.testing.assert_close(loss, 500 * mean)


def test_without_scores_every_listed_answer_is_right(tmp_path) -> None:
    cache = question_cache(tmp_path / "cache", with_scores=False)
    task = vqa().task.learn(cache, cache.split("train"), {})

    targets = task.reader(cache, np.arange(2))(np.arange(2))

    assert targets["answers"].tolist() == [[1, 0, 0], [0, 1, 1]]


def test_a_single_answer_gives_plain_accuracy(tmp_path) -> None:
    cache = label_cache(tmp_path / "cache")
    report = fit(vqa("pooling=mean", "epochs=6", target="label"), cache, tmp_path / "run")

    metrics = evaluate(tmp_path / "run", cache, "test", device="cpu", precision="float32")

    test = cache.split("test")
    (part,) = load_run(tmp_path / "run", "cpu", "float32").predict([cache.gather(test)])
    truth = [("neg", "pos")[sample % 2] for sample in test.tolist()]
    right = np.mean([a == b for a, b in zip(part.columns["answer"], truth, strict=True)])
    assert metrics["accuracy"] == pytest.approx(right)
    assert metrics["ceiling"] == 1
    assert report.metrics["accuracy"] > 0.9


def test_rare_answers_can_be_left_out(tmp_path) -> None:
    cache = question_cache(
        tmp_path / "cache", change=lambda a, s: (a[0].append(0), s[0].append(0.6))
    )
    train = cache.split("train")

    every = vqa().task.learn(cache, train, {})
    frequent = vqa("task.min_occurrences=2").task.learn(cache, train, {})

    assert every.answers == ("no", "cat", "yes", "blue")
    assert frequent.answers == ("no", "cat", "yes")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("answers.json", json.dumps(["yes", "zebra", "no"])),
        ("answers.json", json.dumps({"no": 2, "yes": 0, "zebra": 1})),
        (
            "answers.json",
            json.dumps([{"ans": "yes", "dsets": []}, {"ans": "zebra"}, {"ans": "no"}]),
        ),
        ("answers.txt", "yes\nzebra\nno\n"),
    ],
)
def test_a_file_gives_the_answers_and_their_order(tmp_path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    cache = question_cache(tmp_path / "cache")

    config = vqa(f"task.answers_from={tmp_path / name}").task
    task = config.learn(cache, cache.split("train"), {})

    assert task.answers == ("yes", "zebra", "no")
    marks = task.reader(cache, np.arange(2))(np.arange(2))["answers"]
    torch.testing.assert_close(marks, torch.tensor([[0, 0, 0.9], [1.0, 0, 0]]))


def released_head(path: Path, num_answers: int, width: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "bert.pooler.dense.weight": (width, width),
        "bert.pooler.dense.bias": (width,),
        "answer_head.logit_fc.0.weight": (2 * width, width),
        "answer_head.logit_fc.0.bias": (2 * width,),
        "answer_head.logit_fc.2.weight": (2 * width,),
        "answer_head.logit_fc.2.bias": (2 * width,),
        "answer_head.logit_fc.3.weight": (num_answers, 2 * width),
        "answer_head.logit_fc.3.bias": (num_answers,),
        "bert.encoder.layer.0.weight": (3, 3),
    }
    tensors = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 11}, path)
    return tensors


@pytest.mark.parametrize("name", ["head.safetensors", "Epoch11.pth"])
def test_a_released_head_is_copied_answer_by_answer(tmp_path, name: str) -> None:
    """Its pooler stays frozen; rows follow the answers' names and are 0 for unknown ones."""
    released = released_head(tmp_path / name, 4)
    (tmp_path / "answers.json").write_text(json.dumps(["yes", "dog", "no", "2"]))
    cache = question_cache(tmp_path / "cache")
    config = vqa(
        f"task.head_weights={tmp_path / name}",
        f"task.head_answers={tmp_path / 'answers.json'}",
        'optimizer.freeze=["head.pooler"]',
        "optimizer.learning_rates=[1e-9]",
        "epochs=1",
    )

    fit(config, cache, tmp_path / "run")

    kept = weights_of(tmp_path / "run")
    close = {"rtol": 0, "atol": 1e-6}
    pooler = released["bert.pooler.dense.weight"]
    torch.testing.assert_close(kept["head.pooler.dense.weight"], pooler, rtol=0, atol=0)
    rows = released["answer_head.logit_fc.3.weight"]
    expected = torch.stack([rows[2], torch.zeros(16), rows[0]])  # no, cat, yes
    torch.testing.assert_close(kept["head.logit_fc.3.weight"], expected, **close)
    inner = released["answer_head.logit_fc.0.bias"]
    torch.testing.assert_close(kept["head.logit_fc.0.bias"], inner, **close)
    (tmp_path / name).unlink()
    assert load_run(tmp_path / "run", "cpu", "float32").task.answers == ("no", "cat", "yes")


@pytest.mark.parametrize(
    ("rows", "answers", "words"),
    [
        (4, None, ["logit_fc.3", "[4, 16], needed [3, 16]", "head_answers"]),
        (4, ["yes", "no"], ["task.head_answers", "holds 2 answers, head_weights has 4"]),
        (None, None, ["head.safetensors", "there is no file"]),
    ],
)
def test_a_released_head_that_does_not_fit_is_refused(tmp_path, rows, answers, words) -> None:
    overrides = [f"task.head_weights={tmp_path / 'head.safetensors'}"]
    if rows:
        released_head(tmp_path / "head.safetensors", rows)
    if answers:
        (tmp_path / "answers.json").write_text(json.dumps(answers))
        overrides.append(f"task.head_answers={tmp_path / 'answers.json'}")

    with pytest.raises(ConfigError) as caught:
        fit(vqa(*overrides), question_cache(tmp_path / "cache"), tmp_path / "run")

    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, s: s[7].pop(), ["sample 7", "more or fewer scores"]),
        (lambda a, s: s[9].__setitem__(0, 1.5), ["sample 9", "outside 0 to 1"]),
        (lambda a, s: (a.__setitem__(7, [-1]), s[7].clear()), ["sample 7", "without an answer"]),
        (lambda a, s: [r.clear() for r in a[48:64] + s[48:64]], None),
        (lambda a, s: [r.clear() for r in a[:48] + s[:48]], ["0 answer(s)", "at least two"]),
    ],
    ids=["uneven", "too high", "missing", "an unanswered split", "unanswered training"],
)
def test_bad_answers_are_named(tmp_path, change, words) -> None:
    cache = question_cache(tmp_path / "cache", change=change)
    if words is None:
        task = vqa().task.learn(cache, cache.split("train"), {})
        with pytest.raises(TargetError, match="samples 48, 49, 50, 51, 52 and 11 more without"):
            task.reader(cache, cache.split("validation"))
        return

    with pytest.raises(TargetError) as caught:
        fit(vqa(), cache, tmp_path / "run")

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.head_answers=x.json"], ["no effect without head_weights"]),
        (["task.answers_from=x.json", "task.min_occurrences=2"], ["no effect with answers_from"]),
        (["task.answers_from=absent.json"], ["task.answers_from", "absent.json", "cannot be read"]),
        (["task.scores=points"], ["points"]),
    ],
    ids=lambda value: value[0],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, overrides, words) -> None:
    from cache_schema import UserError

    with pytest.raises(UserError) as caught:
        fit(vqa(*overrides), question_cache(tmp_path / "cache"), tmp_path / "run")

    for word in words:
        assert word in str(caught.value)


def test_a_file_with_the_same_answer_twice_is_refused(tmp_path) -> None:
    (tmp_path / "answers.txt").write_text("yes\nno\nyes\n")

    config = vqa(f"task.answers_from={tmp_path / 'answers.txt'}")
    cache = question_cache(tmp_path / "cache")

    with pytest.raises(ConfigError, match="holds 3 answers, 2 of them different"):
        fit(config, cache, tmp_path / "run")
