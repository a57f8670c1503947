"""What a run leaves behind: readable by people, by other tools, and by the next run."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest
import torch
from training_caches import Recorder, config_of, label_cache, logged, settings

from cache_schema import StorageError
from trainer import CheckpointMismatchError, FitConfig, RunFolderError, RunRecord, fit
from trainer.durable import write_durably


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two learning rates."""
    folder = tmp_path_factory.mktemp("run")
    cache = label_cache(folder / "cache")
    config = settings("optimizer.learning_rates=[0.02,0.001]")
    return folder / "run", cache, fit(config, cache, folder / "run")


def test_a_run_folder_holds_what_its_page_promises(run):
    folder, _, _ = run

    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "checkpoints",
        "config.json",
        "curves.png",
        "events",
        "metrics.jsonl",
        "model.safetensors",
        "report.json",
    ]
    assert len(list((folder / "checkpoints").iterdir())) == 2


def test_the_stored_settings_are_the_settings(run):
    folder, cache, _ = run

    record = RunRecord.model_validate_json((folder / "config.json").read_text())

    assert record.config == settings("optimizer.learning_rates=[0.02,0.001]")
    assert FitConfig.model_validate(config_of(folder)["config"]) == record.config
    assert record.task.classes == ("neg", "pos")
    assert record.cache.identity == cache.manifest.identity
    assert record.cache.streams == cache.manifest.streams


def test_the_model_card_says_what_it_is_and_how_to_load_it(run):
    folder, cache, report = run

    text = (folder / "README.md").read_text()

    backbone = cache.manifest.backbone
    assert text.startswith(f"---\nlibrary_name: unipt\nbase_model: {backbone.model}\n")
    for fact in (
        cache.fingerprint,
        cache.manifest.identity.features_fingerprint,
        "`neg`, `pos`",
        "48 training samples (split `train`), 16 for validation (validation)",
        f"{report.metrics['accuracy']:.4f}",
        "| 0.02 |",
        "| 0.001 |",
        f"unipt.load({str(folder)!r})",
        "![curves](curves.png)",
    ):
        assert fact in text


def test_metrics_are_logged_for_every_epoch_and_learning_rate(run):
    folder, _, report = run

    validation = logged(folder, "validation")
    training = logged(folder, "train")

    assert [(row["step"], row["epoch"], row["learning_rate"]) for row in validation] == [
        (6 * epoch, epoch, rate) for epoch in (1, 2, 3, 4) for rate in (0.02, 0.001)
    ]
    assert report.metrics in [{name: row[name] for name in report.metrics} for row in validation]
    assert len(training) == 24 * 2
    assert training[-2]["loss"] < training[0]["loss"]


def test_tensorboard_reads_the_same_numbers(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _, _ = run
    events = EventAccumulator(str(folder / "events"))
    events.Reload()

    points = events.Scalars("validation/accuracy/lr-0.02")

    rows = [row for row in logged(folder, "validation") if row["learning_rate"] == 0.02]
    assert [point.step for point in points] == [row["step"] for row in rows]
    assert [point.value for point in points] == pytest.approx([r["accuracy"] for r in rows])


def test_the_curves_are_a_picture(run):
    folder, _, _ = run

    data = (folder / "curves.png").read_bytes()

    assert data.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    assert (width, height) == (1080, 432)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(bytes(100_000)),
        lambda file: torch.save(torch.zeros(100_000), file),
    ],
    ids=["bytes", "torch"],
)
def test_a_failed_write_leaves_the_old_file_whole(tmp_path, write):
    """A file size limit stands for a full disk: the kernel refuses in the middle of the write.

    torch makes a RuntimeError of it.
    """
    path = tmp_path / "model.safetensors"
    write_durably(path, lambda file: file.write(b"old"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(StorageError, match=r"model\.safetensors: cannot be written") as caught:
            write_durably(path, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert caught.value.__cause__.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_run_cannot_lie_where_a_file_is(tmp_path):
    (tmp_path / "run").write_text("a file")
    cache = label_cache(tmp_path / "cache")

    with pytest.raises(RunFolderError, match="is a file"):
        fit(settings(), cache, tmp_path / "run")
    with pytest.raises(StorageError, match="cannot be made"):
        fit(settings(), cache, tmp_path / "run" / "below")


def test_a_run_cannot_lie_at_a_url(tmp_path, monkeypatch):
    """A folder called `s3:` was made instead."""
    cache = label_cache(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RunFolderError, match="s3:/bucket/run: is a URL, needed a folder"):
        fit(settings(), cache, Path("s3://bucket/run"))

    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_folder_where_another_process_trains_is_left_alone(tmp_path, flag):
    """Two runs in one folder would delete each other's checkpoints and mix their metrics."""
    cache = label_cache(tmp_path / "cache")
    refused = []

    def second() -> None:
        try:
            fit(settings(), cache, tmp_path / "run", **{flag: True})
        except RunFolderError as error:
            refused.append(str(error))

    fit(settings(), cache, tmp_path / "run", progress=Recorder(after_samples=1, action=second))

    assert "another process is training here" in refused[0]
    assert not (tmp_path / "run" / ".lock").exists()
    fit(settings(), cache, tmp_path / "run", **{flag: True})


def test_a_run_that_was_refused_does_not_lock_the_folder(tmp_path):
    cache = label_cache(tmp_path / "cache")
    fit(settings(), cache, tmp_path / "run")
    with pytest.raises(CheckpointMismatchError):
        fit(settings("epochs=9"), cache, tmp_path / "run", resume=True)

    fit(settings("epochs=9"), cache, tmp_path / "run", overwrite=True)
