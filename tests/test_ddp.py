"""Two real processes train what one process with the double batch trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from paired_caches import paired_caches, retrieval_settings
from training_caches import label_cache, logged, settings, weights_of

from trainer import fit

# A bias before a softmax has no gradient but rounding, which AdamW blows up to full steps: its
# value is arbitrary, so the networks compared here have none.
NETWORK = "network.bias=false"
RETRIEVAL = (NETWORK, "epochs=3", "task.folds=2", "optimizer.learning_rates=[0.002]")

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from paired_caches import retrieval_settings
from training_caches import settings
from cache_schema import FeatureCache
from trainer import RunFolderError, fit
from trainer.tasks.two_sides import Embeddings, across_processes

cache = FeatureCache.open({cache!r})
config = settings("batch_size=4", {network!r})
fit(config, cache, {run!r})
fit(settings("batch_size=2", "accumulate=2", {network!r}), cache, {run!r} + "accumulated")
pair = [FeatureCache.open(path) for path in {pair!r}]
for loss in ("contrastive", "triplet"):
    chosen = retrieval_settings("batch_size=6", *{retrieval!r}, f"task.loss={{loss}}")
    fit(chosen, pair, {run!r} + loss)
items, texts = torch.ones(2, 3, requires_grad=True), torch.ones(3, 3, requires_grad=True)
index, numbers = torch.tensor([1, 0, 1]), torch.tensor([7, 9]) + int(os.environ["RANK"])
found = across_processes(Embeddings(items, texts, index, numbers, torch.zeros(())))
(found.items * torch.arange(6)[:, None] + found.texts).sum().backward()
told = [found.item_ids.tolist(), items.grad[:, 0].tolist(), texts.grad[:, 0].tolist()]
Path({run!r}).with_name("gathered-" + os.environ["RANK"]).write_text(json.dumps(told))
try:
    fit(config, cache, {run!r})
except RunFolderError as error:
    Path({run!r}).with_name("refused-" + os.environ["RANK"]).write_text(str(error))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A cache, a run of two processes on it (gloo, as `torchrun` does it)."""
    folder = tmp_path_factory.mktemp("two")
    cache = label_cache(folder / "cache")
    pair = paired_caches(folder)
    script = folder / "two.py"
    script.write_text(
        SCRIPT.format(
            tests=os.path.dirname(__file__),
            cache=str(cache.path),
            run=str(folder / "run"),
            network=NETWORK,
            pair=[cache.path for cache in pair.both],
            retrieval=RETRIEVAL,
        )
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "--standalone", str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, cache, pair


def test_two_processes_train_the_weights_of_one_with_the_double_batch(two):
    """Gradients are summed in another order, so equal within float32 rounding over 24 steps.

    The second run of both accumulates two batches for each step.
    """
    folder, cache, _ = two

    fit(settings("batch_size=8", NETWORK), cache, folder / "one")

    one = weights_of(folder / "one")
    for run in ("run", "runaccumulated"):
        both = weights_of(folder / run)
        assert one.keys() == both.keys()
        for name, value in one.items():
            torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_report_the_metrics_of_all_samples_once(two):
    folder, _, _ = two

    fit_rows = logged(folder / "one", "validation")
    rows = logged(folder / "run", "validation")

    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in fit_rows]
    assert [row["loss"] for row in rows] == pytest.approx(
        [row["loss"] for row in fit_rows], rel=1e-4
    )
    assert [row["loss"] for row in logged(folder / "run", "train")] == pytest.approx(
        [row["loss"] for row in logged(folder / "one", "train")], rel=1e-3
    )


def test_a_refusal_of_the_main_process_is_raised_in_all_of_them(two):
    """Otherwise the second one would wait for the first until a timeout."""
    folder, _, _ = two

    refusals = [(folder / f"refused-{rank}").read_text() for rank in (0, 1)]

    assert refusals[0] == refusals[1]
    assert refusals[0].startswith(f"{folder / 'run'}: a run lies here already")


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_each_process_has_the_texts_of_both_as_negatives(two, loss):
    """The loss of 6 + 6 pairs is that of 12: with negatives of its own only it would be another."""
    folder, _, pair = two
    config = retrieval_settings("batch_size=12", *RETRIEVAL, f"task.loss={loss}")

    fit(config, pair.both, folder / f"one-{loss}")

    one, both = weights_of(folder / f"one-{loss}"), weights_of(folder / f"run{loss}")
    assert one.keys() == both.keys()
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=2e-3, atol=2e-5)
    rows, fit_rows = (logged(folder / name, "validation") for name in (f"run{loss}", f"one-{loss}"))
    for row, alone in zip(rows, fit_rows, strict=True):
        recalls = [name for name in alone if "_r" in name or "rsum" in name or "rank" in name]
        assert {name: row[name] for name in recalls} == {name: alone[name] for name in recalls}


def test_gathered_pairs_pass_the_gradients_of_all_processes(two):
    """Each process takes the loss of all pairs, and the average over both must not halve it."""
    told = [json.loads((two[0] / f"gathered-{rank}").read_text()) for rank in (0, 1)]

    ids, items, texts = zip(*told, strict=True)
    assert ids == ([9, 7, 9, 10, 8, 10],) * 2
    # Texts 0 and 2 of rank 0 are of its item 1: (0 + 2) of each process.
    assert items == ([2 * 1, 2 * (0 + 2)], [2 * 4, 2 * (3 + 5)])
    assert texts == ([2, 2, 2],) * 2
