"""Two real processes train what one process with the double batch trains."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from training_caches import label_cache, logged, settings, weights_of

from trainer import fit

# A bias before a softmax has no gradient but rounding, which AdamW blows up to full steps: its
# value is arbitrary, so the networks compared here have none.
NETWORK = "network.bias=false"

SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training_caches import settings
from cache_schema import FeatureCache
from trainer import RunFolderError, fit

cache = FeatureCache.open({cache!r})
config = settings("batch_size=4", {network!r})
fit(config, cache, {run!r})
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
    script = folder / "two.py"
    script.write_text(
        SCRIPT.format(
            tests=os.path.dirname(__file__),
            cache=str(cache.path),
            run=str(folder / "run"),
            network=NETWORK,
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
    return folder, cache


def test_two_processes_train_the_weights_of_one_with_the_double_batch(two):
    """Gradients are summed in another order, so equal within float32 rounding over 24 steps."""
    folder, cache = two

    fit(settings("batch_size=8", NETWORK), cache, folder / "one")

    one, both = weights_of(folder / "one"), weights_of(folder / "run")
    assert one.keys() == both.keys()
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_report_the_metrics_of_all_samples_once(two):
    folder, _ = two

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
    folder, _ = two

    refusals = [(folder / f"refused-{rank}").read_text() for rank in (0, 1)]

    assert refusals[0] == refusals[1]
    assert refusals[0].startswith(f"{folder / 'run'}: a run lies here already")
