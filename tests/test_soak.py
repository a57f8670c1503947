"""Long fault tests: `make soak`. Real processes, killed again and again at random moments."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cache_schema import FeatureCache, find_garbage, remove_garbage, verify
from extractor import ExtractConfig, extract

pytestmark = pytest.mark.soak


def run_until_done(command: list[str], rng: random.Random, kills: int) -> int:
    """Run a command, killing it at `kills` random moments, then to the end; how often it died."""
    died = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(4.0, 9.0))
        how = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if process.poll() is None:
            process.send_signal(how)
            died += 1
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return died


@pytest.fixture
def many_reviews(tmp_path: Path, reviews_csv: Path) -> Path:
    """1,920 reviews: the small set forty times with a number in each text."""
    header, *rows = reviews_csv.read_text().splitlines()
    path = tmp_path / "many.csv"
    path.write_text("\n".join([header, *(f"{n} {row}" for n in range(40) for row in rows)]) + "\n")
    return path


def test_extraction_and_training_survive_any_number_of_kills(
    tiny_bert: Path, many_reviews: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    config = ExtractConfig(
        backbone=str(tiny_bert),
        data=(str(many_reviews),),
        targets=("label",),
        device="cpu",
        encoding="float32",
        batch_size=2,
        shard_bytes=20_000,
    )
    whole = config.model_copy(update={"cache": str(tmp_path / "whole")})
    broken = config.model_copy(update={"cache": str(tmp_path / "broken")})
    extract(whole)
    code = (
        "from extractor import ExtractConfig, extract\n"
        f"extract(ExtractConfig.model_validate_json({broken.model_dump_json()!r}))\n"
    )

    died = run_until_done([sys.executable, "-c", code], rng, kills=6)
    remove_garbage(broken.cache, find_garbage(broken.cache, include_recent=True))

    assert died >= 1
    assert verify(broken.cache) == []
    here, there = FeatureCache.open(whole.cache), FeatureCache.open(broken.cache)
    everything = np.arange(len(here))
    torch.testing.assert_close(
        here.gather(everything).streams["tokens"].values,
        there.gather(everything).streams["tokens"].values,
        rtol=0,
        atol=0,
    )

    def fit_command(run: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "cli",
            "fit",
            "--cache",
            whole.cache,
            "--task",
            "classification",
            "--target",
            "label",
            "--epochs",
            "40",
            "--batch-size",
            "16",
            "--device",
            "cpu",
            "--precision",
            "float32",
            "--run",
            str(tmp_path / run),
            "--resume",
            "--set",
            "checkpoint_every_steps=20",
            "--quiet",
        ]

    subprocess.run(fit_command("straight"), check=True)
    died = run_until_done(fit_command("killed"), rng, kills=6)

    straight = load_file(tmp_path / "straight" / "model.safetensors")
    killed = load_file(tmp_path / "killed" / "model.safetensors")
    assert died >= 1
    torch.testing.assert_close(killed, straight, rtol=0, atol=0)


def slurm(*words: str) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no Slurm on this machine")
def test_jobs_of_a_real_slurm_share_a_cache_and_go_on_after_sigterm(
    tiny_bert: Path, many_reviews: Path, in_tmp: Path
) -> None:
    """Slurm lets a job that was queued again wait for two minutes."""
    unipt = [sys.executable, "-m", "cli"]
    settings = ["--backbone", str(tiny_bert), "--data", str(many_reviews), "--device", "cpu"]
    extract_many = ["extract", *settings, "--cache", "shared", "--batch-size", "1"]
    job = slurm(*unipt, "submit", "--jobs", "2", "--memory", "1G", *extract_many)
    training = ["fit", "--cache", "shared", "--run", "run", "--epochs", "200", "--device", "cpu"]
    after = slurm(*unipt, "submit", "--after", job, "--memory", "1G", *training)
    is_told = False
    deadline = time.monotonic() + 600
    while not Path("run/model.safetensors").exists():
        assert time.monotonic() < deadline, slurm("squeue")
        if not is_told and list(Path("run/checkpoints").glob("*")):
            slurm("scancel", "--signal=TERM", after)
            is_told = True
        time.sleep(0.5)

    log = Path(f"jobs/fit-{after}.log").read_text()
    assert verify("shared") == []
    assert len(list(Path("jobs").glob(f"extract-{job}_*.log"))) == 2
    assert "turn 1 ends, the job goes on in the next one" in log
    assert "resuming after step" in log
